"""Measures what encoding the deferred pictures changes in M_L's answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.commands.figures import EncodingSettings
from benchmarks.figures import Figure, write_figures
from edge_runtime.cloud.outgoing import Compression
from edge_runtime.inputs.pictures import decode_picture
from train import data
from train.models import open_checkpoint


def measure(settings: EncodingSettings) -> None:
    """Print bytes, changed labels and accuracy for PNG and each quality of JPEG."""
    checkpoint = open_checkpoint(settings.checkpoint)
    loaded = [data.load_all(str(one)) for one in settings.data]
    pictures = [np.asarray(picture) for one in loaded for picture in one.inputs]
    labels = np.concatenate([one.labels for one in loaded])

    def answer(batch: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([checkpoint.predict([p]).argmax(axis=-1) for p in batch])

    plain = answer(pictures)
    accuracy = float((plain == labels).mean())
    detail = f"{len(pictures)} pictures, accuracy {accuracy:.4f} as pixels"
    ways = [Compression("png", max_side=settings.max_side)]
    ways += [Compression("jpeg", q, settings.max_side) for q in settings.qualities]
    figures = []
    for way in ways:
        name = f"{way.encode} {way.quality}" if way.encode == "jpeg" else "png"
        files = [way(picture) for picture in pictures]
        got = answer([decode_picture(file, name) for file in files])
        share = sum(map(len, files)) / sum(picture.nbytes for picture in pictures)
        for what, value in (
            ("bytes", share),
            ("changed labels", float((got != plain).mean())),
            ("accuracy", float((got == labels).mean())),
        ):
            figures.append(Figure(f"{name}: {what}", 100 * value, None, "%", detail))
            print(figures[-1].line(), flush=True)
    if settings.out is not None:
        write_figures(settings.out, figures)
