"""Who teaches: a checkpoint, whose logits are known, or a running server, which says less."""

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

# MERGEDOC train/teacher_cache.py: 'Asks a teacher about every row once, and keeps what it said until the student is written.'

if TYPE_CHECKING:
    from edge_runtime.cloud.model import CloudModel

Logits = npt.NDArray[np.float32]
_DEADLINE_S = 60.0
_REQUEST_BYTES = 16 << 20  # of pictures; a server takes 64 MiB
_REQUEST_PICTURES = 64

_CHUNK = 256
_SAVE_EVERY_S = 10.0
_LOOKED_AT = 64  # inputs whose content goes into the key; all of them would cost another decoding


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
    checkpoint = move_to(open_checkpoint(folder, kind=data.kind), device)
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


def cache_file(out: Path) -> Path:
    """Return where the answers for the student `out` are kept: beside it, hidden."""
    return out.parent / f".{out.name}.teacher.npz"


def teacher_logits(teacher: Teacher, data: LabelledData, cache: Path) -> npt.NDArray[np.float32]:
    """Return the teacher's logits of every row, float32 [n, C], asking only for those not kept.

    They are written to `cache` every few seconds and at the end, also where Ctrl-C or an error is
    the end. A kill loses the last seconds. Answers of another teacher or of other data are not
    taken. The caller removes the file when the student is written.

    Args:
        teacher: Who is asked.
        data: The rows.
        cache: The file.

    Raises:
        TeacherError: A server gives no usable answer, or the teacher gives NaN.
        FullDiskError: The file could not be written.
    """
    key = _key(teacher, data)
    logits, done = _kept(cache, key, (len(data), len(data.label_names)))
    if done == len(data):
        return logits
    saved_s, begun = time.monotonic(), done
    with tqdm(total=len(data), initial=done, unit="row", desc="teacher", disable=None) as bar:
        try:
            while done < len(data):
                inputs = data.inputs[done : done + _CHUNK]
                logits[done : done + len(inputs)] = _numbers(teacher.logits(inputs))
                done += len(inputs)
                bar.update(len(inputs))
                if time.monotonic() - saved_s > _SAVE_EVERY_S and done < len(data):
                    _keep(cache, key, logits, done)
                    saved_s = time.monotonic()
        finally:
            if done > begun:
                _keep(cache, key, logits, done)
    return logits


def _numbers(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if np.isnan(logits).any():
        raise TeacherError("expected numbers from the teacher, got NaN: its weights are broken")
    return logits


def _key(teacher: Teacher, data: LabelledData) -> str:
    digest = hashlib.sha256(teacher.key.encode())
    digest.update("\0".join((*data.label_names, *data.ids)).encode())
    for row in sorted({i * len(data) // _LOOKED_AT for i in range(_LOOKED_AT)}):
        content = data.inputs[row]
        digest.update(content.encode() if isinstance(content, str) else content.tobytes())
    return digest.hexdigest()


def _kept(cache: Path, key: str, shape: tuple[int, int]) -> tuple[npt.NDArray[np.float32], int]:
    """Return (logits, how many rows of them are known)."""
    try:
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as found:
            if str(found["key"]) == key and found["logits"].shape == shape:
                return found["logits"].astype(np.float32), int(found["done"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # not there, or not ours
    return np.empty(shape, np.float32), 0


def _keep(cache: Path, key: str, logits: npt.NDArray[np.float32], done: int) -> None:
    values: dict[str, Any] = {"key": key, "logits": logits, "done": done}
    cache.parent.mkdir(parents=True, exist_ok=True)
    with explain_full_disk(cache.parent, " and run again"):
        write_atomically(cache, lambda file: np.savez(file, **values))
