"""A custom MLServer runtime that follows the cloud contract, so that its answers need no mapping.

It serves an ONNX graph with the outputs `prediction` and `confidence`, for example that of
the large model's bundle. Place this file next to `model.onnx` and this `model-settings.json`:

    {
      "name": "large",
      "implementation": "gatekeeper_runtime.GatekeeperRuntime",
      "parameters": {"uri": "./model.onnx", "extra": {"labels": ["cat", "dog"], "threads": 1}}
    }

Pixels come as UINT8 [n, height, width, 3], picture files and texts as BYTES [n].
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from typing import Any

# ONNX Runtime reads this on import: else it looks up a host and leaves a device id.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput
from mlserver.utils import get_model_uri
from PIL import Image

# As the device decodes pictures: see edge_runtime/inputs/pictures.py for the reasons.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MAX_PIXELS = 64 * 1024 * 1024
ORIENTATION = 0x0112
XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's numbers


class GatekeeperRuntime(MLModel):
    """Returns `prediction` INT64, `label` BYTES and `confidence` FP32 for each row."""

    async def load(self) -> bool:
        """Open the graph."""
        settings = self.settings.parameters.extra
        self._labels = settings["labels"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings["threads"]
        self._session = onnxruntime.InferenceSession(
            await get_model_uri(self.settings), options, providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a batch."""
        feeds = {tensor.name: _decode(tensor) for tensor in payload.inputs}
        prediction, confidence = self._session.run(["prediction", "confidence"], feeds)
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                NumpyCodec.encode_output("prediction", prediction),
                StringCodec.encode_output("label", [self._labels[index] for index in prediction]),
                NumpyCodec.encode_output("confidence", confidence),
            ],
        )


def _decode(tensor: RequestInput) -> Any:
    if tensor.datatype != "BYTES":
        return NumpyCodec.decode_input(tensor)
    if tensor.name == "text":
        return np.array(StringCodec.decode_input(tensor), dtype=object)
    return np.stack([_pixels(data) for data in tensor.data])


def _pixels(data: bytes) -> Any:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS and "progressive" not in picture.info:
                picture.draft(None, (picture.width // 2, picture.height // 2))  # a JPEG alone
            # Checked before decoding: a small file may hold a huge picture.
            if picture.width * picture.height > MAX_PIXELS:
                raise InferenceError(f"expected at most {MAX_PIXELS} pixels, got {picture.size}")
            return _as_rgb(_upright(picture), picture.format)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InferenceError(f"expected a picture file, got none: {error}") from None


def _upright(picture: Any) -> Any:
    is_turned = picture.format == "TIFF" and ORIENTATION in picture.getexif()
    picture.load()
    found = None
    with contextlib.suppress(Exception):  # damaged EXIF
        found = picture.getexif().get(ORIENTATION)
    if found is None and (match := XMP_ORIENTATION.search(picture.info.get("xmp", b""))):
        found = int(match[1])
    return picture if is_turned or found not in TURNS else picture.transpose(TURNS[found])


def _as_rgb(picture: Any, form: str) -> Any:
    if picture.mode.startswith("I;16") or (picture.mode == "I" and form == "PNG"):
        grey = ((np.asarray(picture).astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if picture.mode[0] in "IF":
        raise InferenceError(f"expected 8 bits a channel or 16-bit grey, got mode {picture.mode}")
    if "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return np.asarray(picture.convert("RGB"))
