"""The smallest program: open a bundle, classify pictures, print the statistics.

python examples/python/script.py BUNDLE HOST:PORT PICTURE...
"""

import sys
from pathlib import Path

from edge_runtime import Cascade


def main() -> None:
    """Print one answer per picture, then the statistics."""
    bundle, cloud, *pictures = sys.argv[1:]
    with Cascade.open(bundle, cloud=cloud, deadline_s=2.0) as cascade:
        for picture in pictures:
            answer = cascade(Path(picture))
            print(f"{picture}: {answer.label} ({answer.source}, {answer.timings.total_s:.4f} s)")
        print(cascade.stats.snapshot().as_json())


if __name__ == "__main__":
    main()
