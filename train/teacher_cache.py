"""Asks a teacher about every row once, and keeps what it said until the student is written."""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from train.data import LabelledData
from train.errors import TeacherError
from train.output import full_disk_in_words
from train.teacher import Teacher

_CHUNK = 256
_SAVE_EVERY_S = 10.0
_LOOKED_AT = 64  # inputs whose content goes into the key; all of them would cost another decoding


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
    fresh = cache.with_suffix(f".{os.getpid()}.part")  # several processes may train together
    cache.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_in_words(cache.parent, " and run again"):
        try:
            with fresh.open("wb") as file:
                np.savez(file, **values)
            os.replace(fresh, cache)  # noqa: PTH105 - in one step also where it exists, on Windows
        finally:
            fresh.unlink(missing_ok=True)
