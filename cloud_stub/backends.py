"""What computes the answers: a checkpoint through its library, or an exported bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.bundle import read_bundle
from edge_runtime.errors import BundleError, DependencyError
from edge_runtime.intake import open_intake

Inputs: TypeAlias = Sequence[npt.NDArray[np.uint8]] | Sequence[str]
Predictions: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]


class Backend(Protocol):
    """A model that answers batches of pictures or of texts.

    Attributes:
        takes: `image` or `text`, the input's name on the wire.
        labels: Class names in the order of `predict`'s indices.
        platform: What runs the model, for the metadata call.
        image_size: Fixed height and width of pictures, each None where free.
    """

    takes: str
    labels: tuple[str, ...]
    platform: str
    image_size: tuple[int | None, int | None]

    def predict(self, inputs: Inputs) -> Predictions:
        """Answer n pictures, each uint8 [h, w, 3] RGB, or n texts.

        Returns:
            Class indices int64 [n] and confidences float32 [n].

        Raises:
            InputError: The model does not take them.
        """


class CheckpointBackend:
    """A checkpoint; its own processor resizes, so that pictures may have any size.

    The confidence is the max softmax (paper eq. 6) of M_L.

    Args:
        path: The checkpoint's folder.
        threads: Threads of the model; 0 leaves it to the library.

    Raises:
        GatekeeperError: The folder holds no checkpoint that can be opened.
    """

    platform = "gatekeeper_checkpoint"
    image_size: tuple[int | None, int | None] = (None, None)

    def __init__(self, path: Path, threads: int) -> None:
        try:
            import torch
        except ImportError:
            raise DependencyError("torch", "serving a checkpoint", "cloud") from None
        from train.models import open_checkpoint

        if threads:
            torch.set_num_threads(threads)
        self._checkpoint = open_checkpoint(path, kind=None)
        self.takes = contract.TEXT if self._checkpoint.kind == "text" else contract.IMAGE
        self.labels: tuple[str, ...] = tuple(self._checkpoint.labels)

    def predict(self, inputs: Inputs) -> Predictions:
        """Answer n inputs; see `Backend.predict`."""
        from edge_runtime.metrics import max_softmax

        logits = self._checkpoint.predict(inputs)
        return np.argmax(logits, axis=1), np.asarray(max_softmax(logits), np.float32)


class BundleBackend:
    """An exported bundle: its classifier graph with fused preprocessing, or with its tokenizer.

    Args:
        path: The bundle's folder.
        threads: Threads of the model; 0 leaves it to the library.

    Raises:
        BundleError: The folder holds no bundle, an altered one, or one whose graph takes neither
            uint8 images nor texts.
    """

    platform = "gatekeeper_bundle"

    def __init__(self, path: Path, threads: int) -> None:
        bundle = read_bundle(path)
        metadata, described = bundle.metadata, bundle.metadata.input
        self.takes = contract.TEXT if described.name == contract.TEXT else contract.IMAGE
        self.image_size: tuple[int | None, int | None] = (None, None)
        if self.takes == contract.IMAGE:
            self.image_size = _image_size(described, path)
        self.labels = metadata.labels
        self._session = _open_session(bundle.graph, threads)
        self._intake = open_intake(bundle, self._session.get_inputs())

    def predict(self, inputs: Inputs) -> Predictions:
        """Answer n inputs; pictures of one size go through the graph together."""
        prediction = np.empty(len(inputs), np.int64)
        confidence = np.empty(len(inputs), np.float32)
        for rows in _rows_by_size(inputs):
            batch = self._intake.rows([inputs[row] for row in rows])
            found = self._session.run(
                [contract.PREDICTION, contract.CONFIDENCE], self._intake.feeds(batch)
            )
            prediction[rows], confidence[rows] = found
        return prediction, confidence


def _image_size(described: contract.InputDescription, path: Path) -> tuple[int | None, int | None]:
    if described.dtype != "uint8" or len(described.shape) != 4:  # noqa: PLR2004 - n, h, w, 3
        raise BundleError(
            f"expected a graph that takes uint8 [batch, height, width, 3], {path} takes "
            f"{described.dtype} {list(described.shape)}: export it with fused preprocessing"
        )
    height, width = (side if isinstance(side, int) else None for side in described.shape[1:3])
    return height, width


def _rows_by_size(inputs: Inputs) -> list[list[int]]:
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, given in enumerate(inputs):
        rows.setdefault(getattr(given, "shape", ()), []).append(row)
    return list(rows.values())


def _open_session(graph: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise DependencyError("onnxruntime", "serving a bundle", "cpu") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Warnings about the threshold, an initializer that may be fed, are expected.
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            graph, options, providers=onnxruntime.get_available_providers()
        )
    except Exception as error:  # noqa: BLE001 - onnxruntime has a class for every failure
        raise BundleError(f"{graph} cannot be opened: {error}") from None


def open_backend(checkpoint: Path | None, bundle: Path | None, threads: int) -> Backend:
    """Open whichever of the two folders was named."""
    if checkpoint is not None:
        return CheckpointBackend(checkpoint, threads)
    if bundle is None:
        raise ValueError("expected a checkpoint or a bundle, got neither")
    return BundleBackend(bundle, threads)
