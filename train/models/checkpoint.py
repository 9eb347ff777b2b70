"""Opens and saves checkpoints: Hugging Face folders of image classifiers."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from train.errors import CheckpointError
from train.models.small_cnn import SmallCNN, SmallCNNConfig
from train.models.small_resnet import SmallResNet, SmallResNetConfig

for _config, _model in ((SmallCNNConfig, SmallCNN), (SmallResNetConfig, SmallResNet)):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForImageClassification.register(_config, _model, exist_ok=True)

_BATCH = 256


@dataclass(frozen=True)
class Checkpoint:
    """A classifier with what belongs to it.

    Attributes:
        model: In eval mode; takes `pixel_values`, returns `.logits`.
        processor: Turns pictures into `pixel_values`.
        labels: Class names in the order of the logits.
        path: Its folder, or None where it was just built.
    """

    model: Any
    processor: Any
    labels: tuple[str, ...]
    path: Path | None

    def pixel_values(self, images: Sequence[npt.NDArray[np.uint8]]) -> torch.Tensor:
        """Return float32 [n, channels, height, width] for pictures uint8 [height, width, 3]."""
        processed = self.processor(
            list(images), return_tensors="np", input_data_format="channels_last"
        )
        return torch.from_numpy(np.ascontiguousarray(processed["pixel_values"], dtype=np.float32))

    def predict(
        self, images: Sequence[npt.NDArray[np.uint8]], batch_size: int = _BATCH
    ) -> npt.NDArray[np.float32]:
        """Return logits float32 [n, classes] for pictures uint8 [height, width, 3]."""
        if not len(images):
            return np.empty((0, len(self.labels)), np.float32)
        device = next(self.model.parameters()).device
        logits = []
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                chunk = [images[i] for i in range(start, min(start + batch_size, len(images)))]
                output = self.model(pixel_values=self.pixel_values(chunk).to(device))
                logits.append(output.logits.float().cpu().numpy())
        return np.concatenate(logits)


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Open a checkpoint folder; no code and no pickle of it is run.

    Raises:
        CheckpointError: It is missing, damaged, has no safetensors weights, no processor, or is not
            an image classifier with all its weights.
    """
    folder = Path(path)
    _check_files(folder)
    try:
        model, report = AutoModelForImageClassification.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        processor = AutoImageProcessor.from_pretrained(
            folder, use_fast=False, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # noqa: BLE001 - safetensors, json and transformers raise alike
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"expected an image classifier's checkpoint at {folder}, it does not open: {reason}"
        ) from None
    wrong = [
        k for key in ("missing_keys", "mismatched_keys", "unexpected_keys") for k in report[key]
    ]
    if wrong:
        raise CheckpointError(
            f"expected all weights of {type(model).__name__} in {folder}, {len(wrong)} do not fit, "
            f"e.g. {wrong[0]}: it is a checkpoint of another model, or has no classification head"
        )
    return Checkpoint(model.eval(), processor, _labels(model.config, folder), folder)


def _labels(config: Any, folder: Path) -> tuple[str, ...]:
    numbers = list(range(config.num_labels))
    if sorted(config.id2label) != numbers:
        raise CheckpointError(
            f"expected id2label with 0 to {config.num_labels - 1} in {folder}/config.json, got "
            f"{sorted(config.id2label)[:5]} ...: number the labels from 0"
        )
    return tuple(str(config.id2label[i]) for i in numbers)


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise CheckpointError(f"expected a checkpoint folder, nothing is at {folder}")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"expected a config.json in {folder}: {error}") from None
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"expected safetensors weights in {folder}, found none: pickled weights can run code "
            "and are not opened, save the model with safe_serialization=True"
        )


def save(checkpoint: Checkpoint, path: Path | str, *, extra: dict[str, Any] | None = None) -> None:
    """Write a checkpoint folder in one step, so that a kill leaves the old one or the new one.

    Args:
        checkpoint: What to write.
        path: The folder; an older one is replaced.
        extra: Written beside it as `training.json`.
    """
    folder = Path(path)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        fresh = Path(scratch) / "fresh"
        checkpoint.model.save_pretrained(fresh, safe_serialization=True)
        checkpoint.processor.save_pretrained(fresh)
        if extra is not None:
            text = json.dumps(extra, indent=2) + "\n"
            (fresh / "training.json").write_text(text, encoding="utf-8")
        if folder.exists():
            shutil.move(folder, Path(scratch) / "old")
        fresh.rename(folder)


transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
