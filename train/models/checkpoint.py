"""Opens and saves checkpoints: Hugging Face folders of classifiers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import Tensor

from edge_runtime import contract
from edge_runtime.files import fresh_folder
from train.data import Kind
from train.errors import CheckpointError

# MERGEDOC train/models/training.py: "What a checkpoint's `training.json` says of the data it was made with."
# MERGEDOC train/models/views.py: 'Further views of a picture, by the name that the gate contract gives them.'
from train.models.kinds import SAFE, Family, encode, family_of, open_processor

BATCH = 256
_TEXTS = 32  # in a batch: attention grows with the square of the longest
_BLOCK_BYTES = 1 << 20

FILE = "training.json"
_HOLDOUT = "holdout"  # stage 2 on half of validation
VIEWS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    contract.MIRROR: lambda pixel_values: pixel_values.flip(-1)
}
"""Each takes pixel_values float [n, channels, height, width], as the gate in a graph does: the
processor's crop need not be symmetric."""


@dataclass(frozen=True)
class Checkpoint:
    """A classifier with what belongs to it.

    Attributes:
        model: In eval mode; takes what `encode` returns, returns `.logits`.
        processor: The image processor or the tokenizer.
        labels: Class names in the order of the logits.
        path: Its folder, or None where it was just built.
        kind: What it classifies.
    """

    model: Any
    processor: Any
    labels: tuple[str, ...]
    path: Path | None
    kind: Kind = "image"

    def encode(self, inputs: Sequence[Any]) -> dict[str, Tensor]:
        """Return the model's inputs for pictures uint8 [height, width, 3] or texts."""
        return encode(self.kind, self.processor, inputs)

    def pixel_values(self, images: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
        """Return float32 [n, channels, height, width] for pictures uint8 [height, width, 3]."""
        return self.encode(images)["pixel_values"]

    def predict(
        self, inputs: Sequence[Any], batch_size: int | None = None, *, view: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Return logits float32 [n, classes].

        Args:
            inputs: Pictures uint8 [height, width, 3] or texts.
            batch_size: Inputs that the model sees at once; fewer texts than pictures where it is
                not given.
            view: Show the model another view of each picture, by its name in `train.models.checkpoint`.
        """
        if not len(inputs):
            return np.empty((0, len(self.labels)), np.float32)
        device = next(self.model.parameters()).device
        batch_size = batch_size or (_TEXTS if self.kind == "text" else BATCH)
        logits = []
        with torch.inference_mode():
            for start in range(0, len(inputs), batch_size):
                encoded = self.encode(inputs[start : start + batch_size])
                if view is not None:
                    encoded["pixel_values"] = VIEWS[view](encoded["pixel_values"])
                output = self.model(**{k: v.to(device) for k, v in encoded.items()})
                logits.append(output.logits.float().cpu().numpy())
        return np.concatenate(logits)


def open_checkpoint(path: Path | str, *, kind: Kind | None = "image") -> Checkpoint:
    """Open a checkpoint folder; no code and no pickle of it is run.

    Args:
        path: The folder.
        kind: What it has to classify; None takes either.

    Raises:
        CheckpointError: It is missing, damaged, has no safetensors weights, no processor, or is not
            a classifier of that kind with all its weights.
    """
    folder = Path(path)
    check_files(folder)
    try:
        family = family_of(folder)
        _check_kind(family, kind, folder)
        model, report = family.auto_model.from_pretrained(
            folder,
            dtype=torch.float32,  # transformers 5 would take the type that they are stored in
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `_check_weights` names them, in words of our own
            **SAFE,
        )
        processor = open_processor(family, folder, model)
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - safetensors, json and transformers raise alike
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"expected a classifier's checkpoint at {folder}, it does not open: {reason}"
        ) from None
    _check_weights(report, type(model).__name__, folder)
    labels = _labels(model.config, folder)
    return Checkpoint(model.eval(), processor, labels, folder, family.kind)


def _check_kind(family: Family, kind: Kind | None, folder: Path) -> None:
    if kind is not None and family.kind != kind:
        raise CheckpointError(
            f"expected a classifier of {kind}s in {folder}, it is one of {family.kind}s"
        )


def _check_weights(report: dict[str, Any], model: str, folder: Path) -> None:
    # transformers 4 reports names, transformers 5 names with shapes.
    names = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    shapes = [f"{name} of another shape" for name in names]
    wrong = [*shapes, *report["missing_keys"], *report["unexpected_keys"]]
    if wrong:
        raise CheckpointError(
            f"expected all weights of {model} in {folder}, {len(wrong)} do not fit, "
            f"e.g. {wrong[0]}: it is a checkpoint of another model or of another number of "
            "labels, or has no classification head"
        )


def _labels(config: Any, folder: Path) -> tuple[str, ...]:
    numbers = list(range(config.num_labels))
    if sorted(config.id2label) != numbers:
        raise CheckpointError(
            f"expected id2label with 0 to {config.num_labels - 1} in {folder}/config.json, got "
            f"{sorted(config.id2label)[:5]} ...: number the labels from 0"
        )
    return tuple(str(config.id2label[i]) for i in numbers)


def check_files(folder: Path) -> None:
    """Raise `CheckpointError` where a folder has no configuration or no safetensors weights."""
    if not folder.is_dir():
        raise CheckpointError(f"expected a checkpoint folder, nothing is at {folder}")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"expected a config.json in {folder}: {error}") from None
    if not weight_files(folder):
        raise CheckpointError(
            f"expected safetensors weights in {folder}, found none: pickled weights can run code "
            "and are not opened, save the model with safe_serialization=True"
        )


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint's weights in order; a deferral head beside them is none."""
    return sorted(folder.glob("model*.safetensors"))


def weights_sha256(folder: Path) -> str:
    """Return the hexadecimal sha256 of a checkpoint's weights, several files one after the other.

    Raises:
        OSError: They cannot be read.
    """
    digest = hashlib.sha256()
    for file in weight_files(folder):
        with file.open("rb") as content:
            while block := content.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def save(checkpoint: Checkpoint, path: Path | str, *, extra: dict[str, Any] | None = None) -> None:
    """Write a checkpoint folder in one step, so that a kill leaves the old one or the new one.

    Args:
        checkpoint: What to write.
        path: The folder; an older one is replaced.
        extra: Written beside it as `training.json`.
    """
    write_folder(checkpoint.model, checkpoint.processor, Path(path), extra)


def write_folder(model: Any, processor: Any, folder: Path, extra: dict[str, Any] | None) -> None:
    """Write what `from_pretrained` opens, and `extra` as `training.json`, in one step."""
    with fresh_folder(folder) as fresh:
        model.save_pretrained(fresh, safe_serialization=True)
        processor.save_pretrained(fresh)
        if extra is not None:
            text = json.dumps(extra, indent=2) + "\n"
            (fresh / FILE).write_text(text, encoding="utf-8")


transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@dataclass(frozen=True)
class Training:
    """Which inputs had a part in making a model.

    Attributes:
        data: Data set name, folder or file; of a language model its task.
        fitted_on: Splits whose inputs changed the weights.
        chosen_on: Splits that decided when to stop.
    """

    data: str
    fitted_on: tuple[str, ...]
    chosen_on: tuple[str, ...]

    def as_record(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


def training_of(folder: Path) -> Training | None:
    """Return what is known of a checkpoint's training; None where it is not this toolkit's."""
    try:
        record = json.loads((folder / FILE).read_text(encoding="utf-8"))
        settings = record["settings"]
        # Of a language model its task, beside which `data` may say where that lies.
        data = settings["task"] if "task" in settings else settings["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(data, str):
        return None
    held_out = ("validation",) if settings.get("stage2_data") == _HOLDOUT else ()
    return Training(data, ("train", *held_out), ("validation",))
