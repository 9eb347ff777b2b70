"""The gated decoder of the edge runtime as a process beside its peers: `... BUNDLE`.

It does more than they do: it makes tokens of the prompt and text of the answer.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.language.speed.answer_loop import Request, Said, Way, serve

GATED: Final = "gated"


def ways(bundle: Path) -> Mapping[str, Way]:
    """Open a bundle on one thread."""
    from edge_runtime.language import Decoder

    decoder = Decoder.open(bundle, threads=1)

    def gated(request: Request) -> Said:
        (answer,) = decoder.generate([request.text], request.new_tokens, stop_when_certain=False)
        return Said(list(answer.tokens), answer.confidence)

    return {GATED: gated}


if __name__ == "__main__":
    serve(lambda: ways(Path(sys.argv[1])), "onnxruntime")
