"""Decodes picture files outside the event loop, the clients taking turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from cloud_stub.errors import BadRequestError, OverloadError
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


def _decode(jobs: list[Job]) -> list[Pictures | Exception]:
    (job,) = jobs
    encoded: Any = job.inputs["image"]
    budget = MAX_REQUEST_PIXELS  # checked with each header, before its picture is decoded
    images = []
    try:
        for row, picture in enumerate(encoded):
            image = pictures.decode_picture(picture, f"picture {row}", max_pixels=budget)
            budget -= image.shape[0] * image.shape[1]
            images.append(image)
    except PictureSizeError as error:
        return [OverloadError(str(error))]
    except InputError as error:
        return [BadRequestError(str(error))]
    except DependencyError as error:
        return [error]
    return [images]
