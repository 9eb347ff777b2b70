"""Three models in a row: a tiny one, a middle one on the same machine, a large one in the cloud.

python examples/python/three_models.py SMALL_BUNDLE MIDDLE_BUNDLE HOST:PORT PICTURE...
"""

import sys
from pathlib import Path

from edge_runtime import Cascade


def main() -> None:
    """Print an answer a picture, and how many questions each model passed on."""
    small, middle, cloud, *pictures = sys.argv[1:]
    second = Cascade.open(middle, cloud=cloud, deadline_s=2.0)
    with Cascade.open(small, cloud=second) as first:
        for picture in pictures:
            answer = first(Path(picture))
            print(f"{picture}: {answer.label} ({answer.source})")
        for name, cascade in (("small", first), ("middle", second)):
            snapshot = cascade.stats.snapshot()
            print(f"{name}: {snapshot.answers} asked, {snapshot.deferred} passed on")


if __name__ == "__main__":
    main()
