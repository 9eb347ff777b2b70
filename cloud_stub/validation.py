"""What a request must be before the model sees it; all else is refused in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cloud_stub.errors import BadRequestError, OverloadError
from edge_runtime import contract, pictures
from edge_runtime.errors import InputError, PictureSizeError
from edge_runtime.wire import messages as pb
from edge_runtime.wire import tensors

MAX_REQUEST_PIXELS = pictures.MAX_PIXELS
"""Limit of a request's decoded pictures together."""
OUTPUTS = (contract.PREDICTION, contract.LABEL, contract.CONFIDENCE)
KNOWN_PARAMETERS = frozenset({contract.PARAMETER_CONFIDENCE, contract.PARAMETER_THRESHOLD})
_CHANNELS = 3


def requested_outputs(request: pb.ModelInferRequest) -> tuple[str, ...]:
    """Return the outputs to answer with; all when the request names none.

    Raises:
        BadRequestError: A name is unknown or came twice.
    """
    names = tuple(output.name for output in request.outputs)
    unknown = [name for name in names if name not in OUTPUTS]
    if unknown or len(set(names)) != len(names):
        raise BadRequestError(
            f"expected requested outputs among {', '.join(OUTPUTS)}, each once, "
            f"got {', '.join(names)[:200]}"
        )
    return names or OUTPUTS


def count_unknown_parameters(request: pb.ModelInferRequest) -> int:
    """Return how many parameters have no meaning here; they are ignored."""
    count = sum(name not in KNOWN_PARAMETERS for name in request.parameters)
    count += sum(len(tensor.parameters) for tensor in request.inputs)
    return count + sum(len(output.parameters) for output in request.outputs)


def read_input(request: pb.ModelInferRequest, takes: str) -> tensors.Array:
    """Return the request's one tensor.

    Args:
        request: The request.
        takes: What it has to be called, `image` or `text`.

    Returns:
        uint8 [n, h, w, 3], or an object array [n] of encoded pictures or texts.

    Raises:
        BadRequestError: Another tensor, type or shape came, or no row.
        WireError: The contents are malformed.
    """
    names = [tensor.name for tensor in request.inputs]
    if names != [takes]:
        raise BadRequestError(
            f"expected one input {takes!r}, got {', '.join(names)[:200] or 'none'}"
        )
    datatype, shape = request.inputs[0].datatype, list(request.inputs[0].shape)
    # Before decoding: the message then speaks of the model's input, not of the protocol's.
    is_array = datatype == "UINT8" and len(shape) == 4 and shape[3] == _CHANNELS  # noqa: PLR2004
    is_bytes = datatype == tensors.BYTES and len(shape) == 1
    if not (is_bytes or (is_array and takes == contract.IMAGE)) or min(shape) < 1:
        array = "UINT8 [n, height, width, 3] or " if takes == contract.IMAGE else ""
        raise BadRequestError(
            f"expected {takes} as {array}BYTES [n] with n >= 1, got {datatype[:40]} {shape[:8]}"
        )
    return tensors.decode_tensors(request.inputs, request.raw_input_contents)[takes]


def decode_texts(encoded: Iterable[bytes]) -> list[str]:
    """Decode texts.

    Raises:
        BadRequestError: One is not UTF-8.
    """
    texts = []
    for row, content in enumerate(encoded):
        try:
            texts.append(content.decode())
        except UnicodeDecodeError as error:
            raise BadRequestError(f"expected texts in UTF-8, row {row} is none: {error}") from None
    return texts


def check_size(images: Sequence[Any], size: tuple[int | None, int | None]) -> None:
    """Refuse images of a size that the model does not take.

    Raises:
        BadRequestError: A height or width differs from a fixed one.
    """
    for image in images:
        if any(want not in {None, came} for want, came in zip(size, image.shape[:2], strict=True)):
            wanted = [side or "any" for side in size]
            raise BadRequestError(
                f"expected images of height and width {wanted}, got {list(image.shape[:2])}"
            )


def decode_pictures(encoded: Iterable[bytes]) -> list[npt.NDArray[np.uint8]]:
    """Decode pictures as they came from a file, each to uint8 [h, w, 3] RGB.

    Raises:
        BadRequestError: One cannot be decoded.
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
