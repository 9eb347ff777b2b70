"""Who teaches: a checkpoint, whose logits are known, or a running server, which says less."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle import file_sha256
from edge_runtime.errors import CloudError
from train.data import LabelledData
from train.devices import Device, placed
from train.errors import DataError, TeacherError
from train.models import Checkpoint, open_checkpoint, weight_files

if TYPE_CHECKING:
    from edge_runtime.cloud.model import CloudModel

Logits = npt.NDArray[np.float32]
_DEADLINE_S = 60.0
_REQUEST_BYTES = 16 << 20  # of pictures; a server takes 64 MiB
_REQUEST_PICTURES = 64


class Teacher(Protocol):
    """A large model that answers for the small one to learn."""

    @property
    def key(self) -> str:
        """Names the model; another one has another key."""

    def logits(self, inputs: Sequence[Any]) -> Logits:
        """Return float32 [n, C] in the student's order of classes; -inf is probability 0."""


@dataclass(frozen=True)
class CheckpointTeacher:
    """A checkpoint.

    Attributes:
        checkpoint: The model, on the device it works on.
        order: int64 [C], its class number of each of the student's classes.
        key: Hash of its weights.
    """

    checkpoint: Checkpoint
    order: npt.NDArray[np.int64]
    key: str

    def logits(self, inputs: Sequence[Any]) -> Logits:
        """Return its logits, float32 [n, C] in the student's order of classes."""
        return self.checkpoint.predict(inputs)[:, self.order]


@dataclass(frozen=True)
class ServerTeacher:
    """A running server of the Open Inference Protocol; pictures alone, as they are.

    Its answers hold a class and a confidence and no logits, so the rest of the probability is
    spread evenly: the class gets `confidence`, each of the C - 1 others (1 - confidence) / (C - 1).
    That is softened already by what is not known, so the temperature is 1 for it.

    Attributes:
        cloud: The connection; its labels are the student's.
        classes: C.
        key: Address and model name. A server may change its model behind them.
        address: Where it listens.
    """

    cloud: CloudModel
    classes: int
    key: str
    address: str

    def logits(self, inputs: Sequence[Any]) -> Logits:
        """Return the logarithms of the soft labels, float32 [n, C].

        Raises:
            TeacherError: It gives no usable answer, or confidences that are no probabilities.
        """
        logits = np.empty((len(inputs), self.classes), np.float32)
        pictures = [inputs[i] for i in range(len(inputs))]
        for rows in _requests(pictures):
            try:
                found = self.cloud.infer(np.stack([pictures[row] for row in rows]))
            except CloudError as error:
                raise TeacherError(
                    f"expected the teacher to answer at {self.address}, got none ({error}): start "
                    "it and run again, what it answered so far is kept"
                ) from None
            logits[rows] = soft_labels(found.prediction, found.confidence, self.classes)
        return logits


def soft_labels(
    prediction: npt.NDArray[np.int64], confidence: npt.NDArray[np.float32], classes: int
) -> Logits:
    """Return log p, float32 [n, classes]: p is the confidence at the prediction, the rest is even.

    Args:
        prediction: int64 [n].
        confidence: float [n], in [0, 1].
        classes: C, at least 2.

    Raises:
        TeacherError: A confidence is no probability.
    """
    sure = confidence.astype(np.float64)
    bad = ~((sure >= 0) & (sure <= 1))
    if bad.any():
        raise TeacherError(
            f"expected the teacher's confidence as a probability in [0, 1], got {sure[bad][0]}: "
            "take its checkpoint as --teacher, or a server that gives probabilities"
        )
    p = np.repeat(((1.0 - sure) / (classes - 1))[:, None], classes, axis=1)
    p[np.arange(len(sure)), prediction] = sure
    with np.errstate(divide="ignore"):  # log 0 is what -inf stands for
        return np.log(p).astype(np.float32)


@contextlib.contextmanager
def open_server(address: str, model: str, data: LabelledData) -> Iterator[ServerTeacher]:
    """Open a connection to a teacher for the classes of a split; nothing is sent yet.

    Args:
        address: HOST:PORT.
        model: The model's name there.
        data: What it will be asked about.

    Raises:
        TeacherError: The data holds no pictures.
        SettingError: The address is another machine's.
    """
    from edge_runtime.cloud.model import CloudModel

    if data.kind != "image":
        raise TeacherError(
            f"expected pictures for the teacher at {address}, the data holds {data.kind}s: take "
            "its checkpoint as --teacher"
        )
    names = data.label_names
    with CloudModel.open(address, model, labels=names, deadline_s=_DEADLINE_S) as cloud:
        yield ServerTeacher(cloud, len(names), f"{address} {model}", address)


def open_checkpoint_teacher(
    folder: str, data: LabelledData, *, device: Device
) -> CheckpointTeacher:
    """Open a checkpoint as a teacher for the classes of a split.

    Args:
        folder: The checkpoint's folder.
        data: What it will be asked about.
        device: Where it works.

    Raises:
        CheckpointError: The folder holds no checkpoint, or one of another kind of input.
        DataError: It knows other classes; the same in another order are fine.
    """
    checkpoint = placed(open_checkpoint(folder, kind=data.kind), device)
    numbers = {label: number for number, label in enumerate(checkpoint.labels)}
    odd = sorted(set(data.label_names) ^ numbers.keys())
    if odd:
        raise DataError(
            f"expected a teacher of the {len(data.label_names)} classes of the data "
            f"({', '.join(data.label_names[:5])} ...), {folder} has {len(checkpoint.labels)}, they "
            f"differ in {odd[:5]}: take one that was trained for them"
        )
    order = np.array([numbers[label] for label in data.label_names], np.int64)
    digest = hashlib.sha256()
    for file in (Path(folder) / "config.json", *weight_files(Path(folder))):
        digest.update(file_sha256(file).encode())
    return CheckpointTeacher(checkpoint, order, digest.hexdigest())


def _requests(pictures: Sequence[npt.NDArray[np.uint8]]) -> Iterator[list[int]]:
    """Group rows of one size into requests that a server takes."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, picture in enumerate(pictures):
        groups.setdefault(picture.shape, []).append(row)
    for shape, rows in groups.items():
        size = max(1, min(_REQUEST_PICTURES, _REQUEST_BYTES // int(np.prod(shape))))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]
