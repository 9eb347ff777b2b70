"""The engines that are compared, each in a process of its own and on one thread.

`python -m benchmarks.language.speed.engines ENGINE FOLDER` opens `decoder` (our bundle), `optimum`
(its own export with `ORTModelForCausalLM`) or `genai` (a model of onnxruntime-genai's builder).
genai runs in an environment that lacks this project's libraries, so each engine imports its own.

Our decoder does more than the others: it turns the prompt into tokens and the answer into text.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.language.speed.answer_loop import Mode, Output, Request, serve

DECODER: Final = "decoder"
OPTIMUM: Final = "optimum"
GENAI: Final = "genai"
PLAIN: Final = "plain"
GATED: Final = "gated"
GRAPH: Final = "graph"
"""One run of optimum's bare graph, without `generate` around it: the prompt and one token."""
_GENAI_THREADS: Final = {"intra_op_num_threads": 1, "inter_op_num_threads": 1}


def open_decoder(bundle: Path) -> Mapping[str, Mode]:
    """Open one of our bundles."""
    from edge_runtime.language import Decoder

    decoder = Decoder.open(bundle, threads=1)

    def generate(request: Request) -> Output:
        (answer,) = decoder.generate([request.text], request.new_tokens, stop_when_certain=False)
        return Output(list(answer.tokens), answer.confidence)

    return {GATED: generate}


def open_optimum(folder: Path) -> Mapping[str, Mode]:
    """Open a folder that optimum exported, with its default settings."""
    import onnxruntime
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM

    torch.set_num_threads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = ORTModelForCausalLM.from_pretrained(folder, session_options=options)

    def generate(request: Request, **settings: Any) -> Any:
        ids = torch.tensor([request.tokens])
        mask = torch.ones_like(ids)
        limit = request.new_tokens
        return model.generate(
            ids, attention_mask=mask, max_new_tokens=limit, do_sample=False, **settings
        )

    def plain(request: Request) -> Output:
        return Output(generate(request)[0, len(request.tokens) :].tolist())

    def gated(request: Request) -> Output:
        result = generate(request, return_dict_in_generate=True, output_logits=True)
        logs = torch.stack(result.logits, dim=1).log_softmax(-1)
        entropy = -(logs.exp() * logs).sum(-1)
        tokens = result.sequences[0, len(request.tokens) :].tolist()
        return Output(tokens, -float(entropy.mean()))

    return {PLAIN: plain, GATED: gated, GRAPH: _graph_mode(model.session)}


def _graph_mode(session: Any) -> Mode:
    shapes = {node.name: node.shape for node in session.get_inputs()}
    caches = {
        name: np.zeros((1, shape[1], 0, shape[3]), np.float32)
        for name, shape in shapes.items()
        if name.startswith("past_key_values.")
    }

    def run(request: Request) -> Output:
        ids = np.array([request.tokens], np.int64)
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "position_ids": np.arange(ids.shape[1])[None],
            **caches,
        }
        logits, *_ = session.run(None, {name: feeds[name] for name in shapes})
        return Output([int(logits[0, -1].argmax())])

    return run


def open_genai(folder: Path) -> Mapping[str, Mode]:
    """Open a folder of onnxruntime-genai's builder."""
    import onnxruntime_genai as og

    og.disable_telemetry_events()
    config = og.Config(str(folder))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": _GENAI_THREADS}}}))
    model = og.Model(config)

    def start(request: Request) -> Any:
        settings = og.GeneratorParams(model)
        settings.set_search_options(
            max_length=len(request.tokens) + request.new_tokens, do_sample=False
        )
        generator = og.Generator(model, settings)
        generator.append_tokens(np.array(request.tokens, np.int32))
        return generator

    def plain(request: Request) -> Output:
        generator = start(request)
        while not generator.is_done():
            generator.generate_next_token()
        return Output(_new_tokens(generator, request))

    def gated(request: Request) -> Output:
        generator, total = start(request), 0.0
        while not generator.is_done():
            total += _negative_entropy(generator.get_logits().reshape(-1))
            generator.generate_next_token()
        tokens = _new_tokens(generator, request)
        return Output(tokens, total / len(tokens))

    return {PLAIN: plain, GATED: gated}


def _new_tokens(generator: Any, request: Request) -> list[int]:
    tokens: list[int] = generator.get_sequence(0)[len(request.tokens) :].tolist()
    return tokens


def _negative_entropy(logits: Any) -> float:
    shifted = logits - logits.max()
    weights = np.exp(shifted)
    total = weights.sum()
    return float(weights @ shifted / total - np.log(total))


_ENGINES: Final[dict[str, tuple[Callable[[Path], Mapping[str, Mode]], str]]] = {
    DECODER: (open_decoder, "onnxruntime"),
    OPTIMUM: (open_optimum, "optimum-onnx"),
    GENAI: (open_genai, "onnxruntime-genai"),
}
"""How to open each engine, and the distribution whose version it reports."""

if __name__ == "__main__":
    _open, _distribution = _ENGINES[sys.argv[1]]
    serve(lambda: _open(Path(sys.argv[2])), _distribution)
