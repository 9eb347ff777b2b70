"""Decodes picture files outside the event loop, the clients taking turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from cloud_stub.errors import BadRequestError, CallError, OverloadError
from cloud_stub.scheduling.batcher import Batcher, Limits
from cloud_stub.scheduling.queue import Job
from edge_runtime import pictures
from edge_runtime.errors import DependencyError, InputError, PictureSizeError

MAX_REQUEST_PIXELS: Final = pictures.MAX_PIXELS
"""Limit of all decoded pictures of a request together."""

Pictures: TypeAlias = list[npt.NDArray[np.uint8]]


class PictureDecoder:
    """Decodes one request at a time: two at once would be no faster while a model is working.

    Args:
        max_queue: Most requests that may wait.
    """

    def __init__(self, max_queue: int) -> None:
        limits = Limits(max_batch=1, max_queue=max_queue)
        self._batcher = Batcher(_decode, workers=1, limits=limits, name="pictures")

    async def decode(self, encoded: Sequence[bytes], *, client: str, deadline: float) -> Pictures:
        """Return pictures uint8 [h, w, 3] RGB.

        Raises:
            BadRequestError: A picture cannot be decoded.
            OverloadError: Together they exceed `MAX_REQUEST_PIXELS`, or too many requests wait.
        """
        column: Any = encoded
        job = Job({"image": column}, len(encoded), key=None, client=client, deadline=deadline)
        decoded: Pictures = await self._batcher.run(job)
        return decoded

    def close(self) -> None:
        """Release the worker."""
        self._batcher.close()


def decode_pictures(encoded: Iterable[bytes]) -> Pictures:
    """Decode pictures; their headers are checked against the limit before anything is decoded.

    Raises:
        BadRequestError: A picture cannot be decoded.
        OverloadError: Together they exceed `MAX_REQUEST_PIXELS`.
        DependencyError: Pillow is not installed.
    """
    budget = MAX_REQUEST_PIXELS
    images = []
    for row, picture in enumerate(encoded):
        try:
            image = pictures.decode_picture(picture, f"picture {row}", max_pixels=budget)
        except PictureSizeError as error:
            raise OverloadError(str(error)) from None
        except InputError as error:
            raise BadRequestError(str(error)) from None
        budget -= image.shape[0] * image.shape[1]
        images.append(image)
    return images


def _decode(jobs: list[Job]) -> list[Pictures | Exception]:
    (job,) = jobs
    encoded: Any = job.inputs["image"]
    try:
        return [decode_pictures(encoded)]
    except (CallError, DependencyError) as error:
        return [error]
