"""optimum's `ORTModelForCausalLM` as a process, with its own export: `... FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.language.speed.answer_loop import Request, Said, Way, serve

PLAIN: Final = "generate"
GATED: Final = "generate and entropy"
GRAPH: Final = "graph"
"""One run of the bare graph, without `generate` around it: the prompt and one token."""


def ways(folder: Path) -> Mapping[str, Way]:
    """Open a folder that optimum exported, on one thread; nothing else is set."""
    import onnxruntime
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM

    torch.set_num_threads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = ORTModelForCausalLM.from_pretrained(folder, session_options=options)

    def generated(request: Request, **settings: Any) -> Any:
        ids = torch.tensor([request.tokens])
        mask = torch.ones_like(ids)
        most = request.new_tokens
        return model.generate(
            ids, attention_mask=mask, max_new_tokens=most, do_sample=False, **settings
        )

    def plain(request: Request) -> Said:
        return Said(generated(request)[0, len(request.tokens) :].tolist())

    def gated(request: Request) -> Said:
        given = generated(request, return_dict_in_generate=True, output_logits=True)
        logs = torch.stack(given.logits, dim=1).log_softmax(-1)
        entropy = -(logs.exp() * logs).sum(-1)
        tokens = given.sequences[0, len(request.tokens) :].tolist()
        return Said(tokens, -float(entropy.mean()))

    return {PLAIN: plain, GATED: gated, GRAPH: _graph_way(model.session)}


def _graph_way(session: Any) -> Way:
    takes = {node.name: node.shape for node in session.get_inputs()}
    caches = {
        name: np.zeros((1, shape[1], 0, shape[3]), np.float32)
        for name, shape in takes.items()
        if name.startswith("past_key_values.")
    }

    def graph(request: Request) -> Said:
        ids = np.array([request.tokens], np.int64)
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "position_ids": np.arange(ids.shape[1])[None],
            **caches,
        }
        logits, *_ = session.run(None, {name: feeds[name] for name in takes})
        return Said([int(logits[0, -1].argmax())])

    return graph


if __name__ == "__main__":
    serve(lambda: ways(Path(sys.argv[1])), "optimum-onnx")
