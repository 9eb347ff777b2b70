"""onnxruntime-genai as a process in its own environment: `... FOLDER`, see `genai`.

Of this project it imports the loop that answers, which needs nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.language.speed.answer_loop import Request, Said, Way, serve

PLAIN: Final = "loop"
GATED: Final = "loop and entropy"
_ONE_THREAD: Final = {"intra_op_num_threads": 1, "inter_op_num_threads": 1}


def ways(folder: Path) -> Mapping[str, Way]:
    """Open a folder of its builder on one thread."""
    import onnxruntime_genai as og

    og.disable_telemetry_events()
    config = og.Config(str(folder))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": _ONE_THREAD}}}))
    model = og.Model(config)

    def begun(request: Request) -> Any:
        settings = og.GeneratorParams(model)
        settings.set_search_options(
            max_length=len(request.tokens) + request.new_tokens, do_sample=False
        )
        generator = og.Generator(model, settings)
        generator.append_tokens(np.array(request.tokens, np.int32))
        return generator

    def plain(request: Request) -> Said:
        generator = begun(request)
        while not generator.is_done():
            generator.generate_next_token()
        return Said(_new_tokens(generator, request))

    def gated(request: Request) -> Said:
        generator, total = begun(request), 0.0
        while not generator.is_done():
            total += _negative_entropy(generator.get_logits().reshape(-1))
            generator.generate_next_token()
        tokens = _new_tokens(generator, request)
        return Said(tokens, total / len(tokens))

    return {PLAIN: plain, GATED: gated}


def _new_tokens(generator: Any, request: Request) -> list[int]:
    tokens: list[int] = generator.get_sequence(0)[len(request.tokens) :].tolist()
    return tokens


def _negative_entropy(logits: Any) -> float:
    shifted = logits - logits.max()
    weights = np.exp(shifted)
    total = weights.sum()
    return float(weights @ shifted / total - np.log(total))


if __name__ == "__main__":
    serve(lambda: ways(Path(sys.argv[1])), "onnxruntime-genai")
