"""Three models in a row: a small and a middle one on this machine, a large one in the cloud.

python examples/python/three_models.py SMALL_BUNDLE MIDDLE_BUNDLE HOST:PORT PICTURE...
"""

import sys
from pathlib import Path

from edge_runtime import Cascade


def main() -> None:
    """Print one answer per picture, then how many inputs each model deferred."""
    small, middle, cloud, *pictures = sys.argv[1:]
    second = Cascade.open(middle, cloud=cloud, deadline_s=2.0)
    with Cascade.open(small, cloud=second) as first:
        for picture in pictures:
            answer = first(Path(picture))
            print(f"{picture}: {answer.label} ({answer.source})")
        for name, cascade in (("small", first), ("middle", second)):
            snapshot = cascade.stats.snapshot()
            print(f"{name}: {snapshot.answers} inputs, {snapshot.deferred} deferred")


if __name__ == "__main__":
    main()
