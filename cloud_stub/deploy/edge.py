"""How the edge asks the deployed model: the arguments of `Cascade.open`, as text to paste.

An engine gives class indices or scores and not the labels of our own server, and takes the graph's
own input, so a cascade must be told which is which.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cloud_stub.deploy.graph import TensorDescription
from cloud_stub.deploy.model import DeployedModel, is_scores

_PICTURES_RANK: Final = 4
_CHANNELS: Final = 3
_MAX_SPELT_OUT: Final = 20
_SENT: Final = {"UINT8", "FP32", "BYTES"}


def usage(model: DeployedModel, name: str, address: str, labels_file: Path) -> str:
    """Return the call that opens a cascade on the engine.

    Args:
        model: What is served; one that a cascade can ask, see `obstacle`.
        name: Its name on the wire.
        address: Where the engine is thought to listen.
        labels_file: Where its labels were written.
    """
    given, answer = model.graph.inputs[0], model.answer
    lines = [
        f"cloud={address!r},",
        f"model={name!r},",
        f"cloud_input={given.name!r},",
        f"cloud_output={answer.name!r},",
    ]
    if is_scores(answer):
        lines.append("cloud_reduce='argmax',")
    lines += _labels(model, labels_file)
    if not _takes_originals(given):
        lines.append("forward='model_input',")
    return "\n".join(["Cascade.open(", "    BUNDLE,", *(f"    {line}" for line in lines), ")"])


def notes(model: DeployedModel, max_batch: int) -> list[str]:
    """Return what else whoever opens a cascade should know, a sentence each.

    Args:
        model: What is served.
        max_batch: Most rows of one run.
    """
    reason = obstacle(model)
    if reason is not None:
        return [f"no cascade can ask it: {reason}"]
    given, found = model.graph.inputs[0], []
    if model.has_rows:
        found.append(f"the engine refuses calls of more than {max_batch} inputs")
    elif given.has_free_rows:
        found.append("the engine runs each call alone: requests are not put together")
    else:
        found.append(f"the engine takes exactly the shape {given}")
    if not model.labels:
        found.append("cloud_labels is not known: without it the edge model's own order is assumed")
    if not _takes_originals(given):
        found.append(f"the edge model must take the same input: {given}")
    return found


def obstacle(model: DeployedModel) -> str | None:
    """Return why no cascade can ask the model, None where one can."""
    inputs = model.graph.inputs
    described = "; ".join(map(str, inputs))
    if len(inputs) != 1:
        return f"the edge sends one input, the graph takes {len(inputs)} ({described})"
    if inputs[0].datatype not in _SENT:
        return f"the edge sends UINT8, FP32 or BYTES, the graph takes {described}"
    if inputs[0].datatype == "BYTES" and len(inputs[0].shape) != 1:
        return f"the edge sends texts as BYTES [-1], the graph takes {described}"
    return None


def _takes_originals(given: TensorDescription) -> bool:
    """Tell whether an input is what the device has: texts, or pictures [rows, h, w, 3]."""
    if given.datatype == "BYTES":
        return True
    is_pictures = len(given.shape) == _PICTURES_RANK and given.shape[-1] == _CHANNELS
    return given.datatype == "UINT8" and is_pictures


def _labels(model: DeployedModel, file: Path) -> list[str]:
    if not model.labels:
        return []
    if len(model.labels) <= _MAX_SPELT_OUT:
        return [f"cloud_labels={model.labels!r},"]
    return [f"cloud_labels=Path({str(file)!r}).read_text('utf-8').splitlines(),"]
