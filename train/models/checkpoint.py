"""Opens and saves checkpoints (Hugging Face folders of classifiers), and their training record."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import Tensor
from transformers import AutoConfig

from edge_runtime import contract
from edge_runtime.files import fresh_folder, one_line
from edge_runtime.names import unique_names
from edge_runtime.reading import open_regular, read_json
from train.data import Kind
from train.errors import CheckpointError
from train.models.channels import open_channels
from train.models.files import check_files, require_fitting, weight_files
from train.models.kinds import SAFE, Family, encode, family_of, open_processor
from train.models.single_label import require_single_label, split_single_logit

FILE = "training.json"
BATCH = 256
VIEWS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    contract.MIRROR: lambda pixel_values: pixel_values.flip(-1)
}
"""Further views of a picture, by their name in the gate contract.

Each is a function of pixel_values float [n, channels, height, width], as in a gate's graph, because
the processor's crop may not be symmetric.
"""
_TEXT_BATCH = 32  # attention grows with the square of the longest text
_BLOCK_BYTES = 1 << 20
_HOLDOUT = "holdout"  # stage 2 on half of validation

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@dataclass(frozen=True)
class Checkpoint:
    """A classifier with its processor and labels.

    Attributes:
        model: In eval mode; takes the result of `encode`, returns `.logits`.
        processor: The image processor or the tokenizer.
        labels: Class names in the order of the logits.
        path: Its folder, or None for a model that was just built.
        kind: Kind of its inputs.
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
            batch_size: Inputs per forward pass; the default is smaller for texts than for pictures.
            view: Name in `VIEWS` of another view of each picture; None for the original.
        """
        if not len(inputs):
            return np.empty((0, len(self.labels)), np.float32)
        device = next(self.model.parameters()).device
        batch_size = batch_size or (_TEXT_BATCH if self.kind == "text" else BATCH)
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
    """Open a checkpoint folder without running its code or pickles.

    Args:
        path: The folder.
        kind: Required kind of input; None accepts either.

    Raises:
        CheckpointError: It is missing or damaged, has no safetensors weights or no processor, or is
            not a classifier of that kind, of one label an input, with all its weights.
    """
    folder = Path(path)
    check_files(folder)
    try:
        family = family_of(folder)
        _require_kind(family, kind, folder)
        require_fitting(family.auto_model, AutoConfig.from_pretrained(folder, **SAFE), folder)
        model, report = family.auto_model.from_pretrained(
            folder,
            dtype=torch.float32,  # transformers 5 would keep the stored type
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `_require_weights` names them
            **SAFE,
        )
        processor = open_processor(family, folder, model)
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 - safetensors, json and transformers raise alike
        raise CheckpointError(
            f"expected a classifier's checkpoint at {folder}, it does not open: "
            f"{one_line(error, 200)}"
        ) from None
    _require_weights(report, type(model).__name__, folder)
    require_single_label(model.config, folder)
    split_single_logit(model, folder)
    if family.kind == "image":
        open_channels(model, processor, folder)
    labels = _labels(model.config, folder)
    return Checkpoint(model.eval(), processor, labels, folder, family.kind)


def _require_kind(family: Family, kind: Kind | None, folder: Path) -> None:
    if kind is not None and family.kind != kind:
        raise CheckpointError(
            f"expected a classifier of {kind}s in {folder}, it classifies {family.kind}s"
        )


def _require_weights(report: dict[str, Any], model: str, folder: Path) -> None:
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
    return unique_names(str(config.id2label[i]) for i in numbers)


def weights_sha256(folder: Path) -> str:
    """Return the hexadecimal sha256 of a checkpoint's weights, all files joined.

    Raises:
        OSError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for file in weight_files(folder):
        with open_regular(file) as content:
            while block := content.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def save(checkpoint: Checkpoint, path: Path | str, *, extra: dict[str, Any] | None = None) -> None:
    """Write a checkpoint folder in one step, so that a kill leaves the old one or the new one.

    Args:
        checkpoint: The checkpoint.
        path: The folder; an older one is replaced.
        extra: Content of `training.json`.
    """
    write_folder(checkpoint.model, checkpoint.processor, Path(path), extra)


def write_folder(model: Any, processor: Any, folder: Path, extra: dict[str, Any] | None) -> None:
    """Write a folder for `from_pretrained`, with `extra` as `training.json`, in one step."""
    with fresh_folder(folder) as fresh:
        model.save_pretrained(fresh, safe_serialization=True)
        # safetensors lets the owner alone read its files, whatever the umask says.
        for weights in weight_files(fresh):
            weights.chmod(stat.S_IMODE((fresh / "config.json").stat().st_mode))
        processor.save_pretrained(fresh)
        if extra is not None:
            text = json.dumps(extra, indent=2) + "\n"
            (fresh / FILE).write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Training:
    """The inputs that a model was made with.

    Attributes:
        data: Data set name, folder or file; for a language model its task.
        fitted_on: Splits whose inputs changed the weights.
        chosen_on: Splits that decided when to stop.
    """

    data: str
    fitted_on: tuple[str, ...]
    chosen_on: tuple[str, ...]

    def as_record(self) -> dict[str, Any]:
        """Return the record for JSON."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


def training_of(folder: Path) -> Training | None:
    """Return the record of a checkpoint's training; None if this toolkit did not train it."""
    try:
        record = read_json(folder / FILE)
        settings = record["settings"]
        # For a language model the task: its `data` may name the place of the task.
        data = settings["task"] if "task" in settings else settings["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(data, str):
        return None
    held_out = ("validation",) if settings.get("stage2_data") == _HOLDOUT else ()
    return Training(data, ("train", *held_out), ("validation",))
