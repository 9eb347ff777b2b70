"""Decodes picture files outside the event loop, the clients taking turns."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from cloud_stub.errors import BadRequestError, RefusedRowsError
from cloud_stub.protocol.bounds import check_aspect
from cloud_stub.scheduling.batcher import Batcher, Limits
from cloud_stub.scheduling.queue import Job
from cloud_stub.scheduling.workers import give_way
from edge_runtime.errors import DependencyError, InputError
from edge_runtime.inputs import pictures

MAX_REQUEST_PIXELS: Final = pictures.MAX_PIXELS
"""Limit of all decoded pictures of a request together, or that of one picture if it is greater."""
_PIXEL_BYTES: Final = 3
_PIECE_S: Final = 0.002
"""Time after which the rest of a request's pictures waits for its next turn."""
_LARGE_PIXELS: Final = 1 << 20

Pictures: TypeAlias = list[npt.NDArray[np.uint8]]
_T = TypeVar("_T")


class PictureDecoder:
    """Decodes some pictures of one request, then some of the next one.

    Large pictures, which cannot be decoded in pieces, have a thread of their own that leaves the
    processor to the others.

    Args:
        max_queue: Most requests that may wait.
    """

    def __init__(self, max_queue: int) -> None:
        limits = Limits(max_batch=1, max_queue=max_queue)
        self._small = Batcher(_work, workers=1, limits=limits, name="pictures")
        self._large = Batcher(_work_nicely, workers=1, limits=limits, name="large-pictures")

    async def decode(
        self,
        encoded: Sequence[bytes],
        *,
        client: str,
        deadline: float,
        max_pixels: int,
        hold: Callable[[int], None],
    ) -> Pictures:
        """Return pictures uint8 [h, w, 3] RGB.

        Args:
            encoded: Their files.
            client: The caller's connection.
            deadline: Time at which the caller gives up, on the clock of `time.monotonic`.
            max_pixels: Limit of each picture.
            hold: Function that gets the bytes that the pictures will take, before they are decoded.

        Raises:
            RefusedRowsError: Pictures cannot be decoded, have too many pixels, or are far
                longer than wide.
            BadRequestError: Together they have too many pixels.
            OverloadError: Too many requests wait, or `hold` refuses their size.
        """

        async def each(batcher: Batcher, step: Callable[[bytes, int], _T]) -> list[_T]:
            done: list[_T] = []
            while len(done) < len(encoded):
                work: Any = {"work": partial(_some, step, encoded, len(done))}
                piece = len(done) or None
                done += await batcher.run(
                    Job(work, 1, key=None, client=client, deadline=deadline, piece=piece)
                )
            return done

        sizes = await each(self._small, _pixels)
        largest, total = max(sizes), sum(min(size, max_pixels) for size in sizes)
        if total > max(MAX_REQUEST_PIXELS, max_pixels):
            raise BadRequestError(
                f"expected pictures of at most {MAX_REQUEST_PIXELS} pixels together, got {total}: "
                "send fewer at once"
            )
        hold(total * _PIXEL_BYTES)
        batcher = self._large if largest > _LARGE_PIXELS else self._small
        return await each(batcher, partial(_decode, max_pixels))

    def close(self) -> None:
        """Release the workers."""
        self._small.close()
        self._large.close()


def _work(jobs: list[Job]) -> list[Any]:
    work: Any = jobs[0].inputs["work"]
    return [work()]


def _work_nicely(jobs: list[Job]) -> list[Any]:
    give_way()
    return _work(jobs)


def _some(
    step: Callable[[bytes, int], _T], encoded: Sequence[bytes], start: int
) -> list[_T] | Exception:
    """Take a step with each file from one on, for a short time."""
    until, done = monotonic() + _PIECE_S, []
    for row in range(start, len(encoded)):
        try:
            done.append(step(encoded[row], row))
        except (InputError, BadRequestError) as error:
            return RefusedRowsError({row: str(error)})
        except DependencyError as error:
            return error
        if monotonic() > until:
            break
    return done


def _pixels(encoded: bytes, _: int) -> int:
    """Return the size that a file's header claims; 0 if it has none, which decoding will tell."""
    try:
        from PIL import Image

        with warnings.catch_warnings():  # Pillow's of a large one: it may be one too many here
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(encoded), formats=pictures.FORMATS) as picture:
                return picture.width * picture.height
    except Exception:  # noqa: BLE001 - Pillow raises many unrelated classes
        return 0


def _decode(max_pixels: int, encoded: bytes, row: int) -> npt.NDArray[np.uint8]:
    picture = pictures.decode_picture(encoded, f"picture {row}", max_pixels=max_pixels)
    check_aspect(*picture.shape[:2])
    return picture
