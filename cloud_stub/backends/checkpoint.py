"""A checkpoint, run by the library that it was trained with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cloud_stub.backends.backend import Batch, Classes, Outputs, classifier_signature
from edge_runtime import contract


class CheckpointBackend:
    """A checkpoint; its own processor resizes, so that pictures may have any size.

    The confidence is the max softmax (paper eq. 6) of M_L.

    Args:
        path: The checkpoint's folder.
        threads: Threads of the model; 0 leaves it to the library.

    Raises:
        GatekeeperError: The folder holds no checkpoint that can be opened.
    """

    workers = 1

    def __init__(self, path: Path, threads: int) -> None:
        import torch

        from train.models import open_checkpoint

        if threads:
            torch.set_num_threads(threads)
        self._checkpoint = open_checkpoint(path, kind=None)
        is_text = self._checkpoint.kind == contract.TEXT
        self._input = contract.TEXT if is_text else contract.IMAGE
        self.signature = classifier_signature(
            "text" if is_text else "image", "gatekeeper_checkpoint"
        )
        self.labels: tuple[str, ...] = tuple(self._checkpoint.labels)
        self._classes = Classes(self.labels)

    def infer(self, batch: Batch) -> Iterator[Outputs]:
        """Answer pictures or texts; see `Backend.infer`."""
        from edge_runtime.metrics import max_softmax

        given: Any = batch.inputs[self._input]
        logits = self._checkpoint.predict(list(given))
        confidence = np.asarray(max_softmax(logits), np.float32)
        yield self._classes.outputs(np.argmax(logits, axis=1), confidence)

    def close(self) -> None:
        """Nothing is held that the process would not let go of."""
