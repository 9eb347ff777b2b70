"""How the edge asks the deployed model, as text to paste: a call in Python and a command line.

An engine gives class indices or scores and not the labels of our own server, and takes the graph's
own input, so a cascade must be told which is which.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

from cloud_stub.deploy.model import DeployedModel, TensorDescription, is_scores

_PICTURES_RANK: Final = 4
_CHANNELS: Final = 3
_MAX_SPELT_OUT: Final = 20
_SENT: Final = {"UINT8", "FP32", "BYTES"}


def call(model: DeployedModel, name: str, labels_file: Path) -> str:
    """Return the Python call that opens a cascade on the engine.

    Args:
        model: What is served; one that a cascade can ask, see `obstacle`.
        name: Its name on the wire.
        labels_file: Where its labels were written.
    """
    options = {key: repr(value) for key, value in _options(model, name).items()}
    if len(model.labels) > _MAX_SPELT_OUT:
        options["cloud_labels"] = f"Path({str(labels_file)!r}).read_text('utf-8').splitlines()"
    elif model.labels:
        options["cloud_labels"] = repr(model.labels)
    lines = [f"    {key}={value}," for key, value in options.items()]
    return "\n".join(["Cascade.open(", "    BUNDLE,", *lines, ")"])


def command(model: DeployedModel, name: str, labels_file: Path) -> str:
    """Return the same as a command line; see `call`."""
    options = _options(model, name)
    if model.labels:
        options["cloud_labels"] = str(labels_file)
    flags = [(f"--{key.replace('_', '-')}", value) for key, value in options.items()]
    words = ["--bundle", "BUNDLE", *(word for flag in flags for word in flag), "INPUTS"]
    return shlex.join(["python", "-m", "edge_runtime", "run", *words])


def _options(model: DeployedModel, name: str) -> dict[str, str]:
    """Return what both say alike, as `Cascade.open` calls it; the labels they take in two forms."""
    given = model.graph.inputs[0]
    options = {
        "cloud": "HOST:PORT",
        "model": name,
        "cloud_input": given.name,
        "cloud_output": model.answer.name,
    }
    if is_scores(model.answer):
        options["cloud_reduce"] = "argmax"
    if not _takes_originals(given):
        options["forward"] = "model_input"
    return options


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
