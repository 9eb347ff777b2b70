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

import io
import os
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
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 16_000_000


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
            # Checked before decoding: a small file may hold a huge picture.
            if picture.width * picture.height > MAX_PIXELS:
                raise InferenceError(f"expected at most {MAX_PIXELS} pixels, got {picture.size}")
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except OSError as error:
        raise InferenceError(f"expected a picture file, got none: {error}") from None
