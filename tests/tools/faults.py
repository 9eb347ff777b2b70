"""Lists the tests that `docs/faults.md` names: `python tests/tools/faults.py`."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_TEST = re.compile(r"`(tests/\S+?\.py::\w+)`")


def sections():
    """Return fault -> the identifiers of its tests."""
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    return {part.split("\n", 1)[0]: _TEST.findall(part) for part in parts}


if __name__ == "__main__":
    print("\n".join(sorted({test for tests in sections().values() for test in tests})))
