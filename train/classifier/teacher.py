"""Answers of a teacher for distillation: from a checkpoint or a server, each row asked once.

A checkpoint gives its logits; a running server gives a class and a confidence. The answers are
kept in a file until the student is written, so that an interrupted run does not ask twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from edge_runtime.bundle import file_sha256
from edge_runtime.errors import CloudError
from edge_runtime.files import write_atomically
from train.data import LabelledData
from train.errors import DataError, TeacherError
from train.models import Checkpoint, open_checkpoint, weight_files
from train.training.output import explain_full_disk
from train.training.schedule import Device, move_to

if TYPE_CHECKING:
    from edge_runtime.cloud.model import CloudModel

Logits = npt.NDArray[np.float32]
_DEADLINE_S = 60.0
_REQUEST_BYTES = 16 << 20  # of pictures; a server accepts 64 MiB
_REQUEST_PICTURES = 64
_CHUNK = 256
_SAVE_EVERY_S = 10.0
_HASHED = 64  # inputs whose content goes into the key: hashing all would cost another decoding


class Teacher(Protocol):
    """A large model whose answers the small one learns."""

    @property
    def key(self) -> str:
        """Name of the model; no other model has the same."""

    def logits(self, inputs: Sequence[Any]) -> Logits:
        """Return float32 [n, C] in the student's order of classes; -inf is probability 0."""


@dataclass(frozen=True)
class CheckpointTeacher:
    """A teacher that is a checkpoint.

    Attributes:
        checkpoint: The model, on the device it computes on.
        order: int64 [C], its number of each of the student's classes.
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
    """A teacher that is a running server of the Open Inference Protocol; for pictures only.

    Its answers hold a class and a confidence but no logits, so the rest of the probability is
    spread evenly: the class gets `confidence`, each of the C - 1 others (1 - confidence) / (C - 1).
    The lack of detail softens this already, so the temperature is 1.

    Attributes:
        cloud: The connection; its labels are the student's.
        classes: C.
        key: Address and model name. A server may change its model without a new key.
        address: HOST:PORT.
    """

    cloud: CloudModel
    classes: int
    key: str
    address: str

    def logits(self, inputs: Sequence[Any]) -> Logits:
        """Return the logarithms of the soft labels, float32 [n, C].

        Raises:
            TeacherError: There is no usable answer, or a confidence is not a probability.
        """
        logits = np.empty((len(inputs), self.classes), np.float32)
        pictures = [inputs[i] for i in range(len(inputs))]
        for rows in _requests(pictures):
            try:
                found = self.cloud.infer(np.stack([pictures[row] for row in rows]))
            except CloudError as error:
                raise TeacherError(
                    f"expected the teacher to answer at {self.address}, got none ({error}): start "
                    "it and rerun; the answers so far are kept"
                ) from None
            logits[rows] = soft_labels(found.prediction, found.confidence, self.classes)
        return logits


def soft_labels(
    prediction: npt.NDArray[np.int64], confidence: npt.NDArray[np.float32], classes: int
) -> Logits:
    """Return log p, float32 [n, classes]: p is the confidence at the prediction, the rest is even.

    Raises:
        TeacherError: A confidence is not a probability.
    """
    sure = confidence.astype(np.float64)
    bad = ~((sure >= 0) & (sure <= 1))
    if bad.any():
        raise TeacherError(
            f"expected the teacher's confidence as a probability in [0, 1], got {sure[bad][0]}: "
            "use its checkpoint as --teacher, or a server that gives probabilities"
        )
    p = np.repeat(((1.0 - sure) / (classes - 1))[:, None], classes, axis=1)
    p[np.arange(len(sure)), prediction] = sure
    with np.errstate(divide="ignore"):  # log 0 = -inf is meant
        return np.log(p).astype(np.float32)


@contextlib.contextmanager
def open_server(address: str, model: str, data: LabelledData) -> Iterator[ServerTeacher]:
    """Open a connection to a teacher at HOST:PORT for a split; nothing is sent yet.

    Raises:
        TeacherError: The data hold no pictures.
        SettingError: The address is another machine's.
    """
    from edge_runtime.cloud.model import CloudModel  # only a server's student needs grpc

    if data.kind != "image":
        raise TeacherError(
            f"expected pictures for the teacher at {address}, the data hold {data.kind}s: use its "
            "checkpoint as --teacher"
        )
    names = data.label_names
    with CloudModel.open(address, model, labels=names, deadline_s=_DEADLINE_S) as cloud:
        yield ServerTeacher(cloud, len(names), f"{address} {model}", address)


def open_checkpoint_teacher(
    folder: str, data: LabelledData, *, device: Device
) -> CheckpointTeacher:
    """Open a checkpoint as a teacher for the classes of a split.

    Raises:
        CheckpointError: The folder holds no checkpoint, or one of another kind of input.
        DataError: Its classes differ; the order may.
    """
    checkpoint = move_to(open_checkpoint(folder, kind=data.kind), device)
    numbers = {label: number for number, label in enumerate(checkpoint.labels)}
    odd = sorted(set(data.label_names) ^ numbers.keys())
    if odd:
        raise DataError(
            f"expected a teacher of the {len(data.label_names)} classes of the data "
            f"({', '.join(data.label_names[:5])} ...), {folder} has {len(checkpoint.labels)} and "
            f"differs in {odd[:5]}: use one that was trained for these classes"
        )
    order = np.array([numbers[label] for label in data.label_names], np.int64)
    digest = hashlib.sha256()
    for file in (Path(folder) / "config.json", *weight_files(Path(folder))):
        digest.update(file_sha256(file).encode())
    return CheckpointTeacher(checkpoint, order, digest.hexdigest())


def _requests(pictures: Sequence[npt.NDArray[np.uint8]]) -> Iterator[list[int]]:
    """Group rows of one size into requests that a server accepts."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, picture in enumerate(pictures):
        groups.setdefault(picture.shape, []).append(row)
    for shape, rows in groups.items():
        size = max(1, min(_REQUEST_PICTURES, _REQUEST_BYTES // int(np.prod(shape))))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def cache_file(out: Path) -> Path:
    """Return the hidden file next to the student `out` in which the answers are kept."""
    return out.parent / f".{out.name}.teacher.npz"


def teacher_logits(teacher: Teacher, data: LabelledData, cache: Path) -> Logits:
    """Return the teacher's logits of every row, float32 [n, C], and ask only for missing ones.

    They are written to `cache` every few seconds and at the end, also when Ctrl-C or an error ends
    the run; a kill loses the last seconds. Answers of another teacher or to other data are ignored.
    The caller removes the file once the student is written.

    Raises:
        TeacherError: A server gives no usable answer, or the teacher gives NaN.
        FullDiskError: The file could not be written.
    """
    key = _key(teacher, data)
    logits, done = _read_cache(cache, key, (len(data), len(data.label_names)))
    if done == len(data):
        return logits
    saved_s, first = time.monotonic(), done
    with tqdm(total=len(data), initial=done, unit="row", desc="teacher", disable=None) as bar:
        try:
            while done < len(data):
                inputs = data.inputs[done : done + _CHUNK]
                logits[done : done + len(inputs)] = _require_numbers(teacher.logits(inputs))
                done += len(inputs)
                bar.update(len(inputs))
                if time.monotonic() - saved_s > _SAVE_EVERY_S and done < len(data):
                    _write_cache(cache, key, logits, done)
                    saved_s = time.monotonic()
        finally:
            if done > first:
                _write_cache(cache, key, logits, done)
    return logits


def _require_numbers(logits: Logits) -> Logits:
    if np.isnan(logits).any():
        raise TeacherError("expected numbers from the teacher, got NaN: its weights are broken")
    return logits


def _key(teacher: Teacher, data: LabelledData) -> str:
    digest = hashlib.sha256(teacher.key.encode())
    digest.update("\0".join((*data.label_names, *data.ids)).encode())
    for row in sorted({i * len(data) // _HASHED for i in range(_HASHED)}):
        content = data.inputs[row]
        digest.update(content.encode() if isinstance(content, str) else content.tobytes())
    return digest.hexdigest()


def _read_cache(cache: Path, key: str, shape: tuple[int, int]) -> tuple[Logits, int]:
    """Return (logits, number of rows that are known)."""
    try:
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as found:
            if str(found["key"]) == key and found["logits"].shape == shape:
                return found["logits"].astype(np.float32), int(found["done"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # missing, or of another run
    return np.empty(shape, np.float32), 0


def _write_cache(cache: Path, key: str, logits: Logits, done: int) -> None:
    values: dict[str, Any] = {"key": key, "logits": logits, "done": done}
    with explain_full_disk(cache.parent, " and rerun"):
        write_atomically(cache, lambda file: np.savez(file, **values))
