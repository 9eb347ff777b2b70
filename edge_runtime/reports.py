"""Switches off what libraries report about their user, before any of them is imported.

`edge_runtime` calls this when it is imported, and every other package imports `edge_runtime` first.
Processes that they start inherit the variables.
"""

from __future__ import annotations

import os
from typing import Final

OFF: Final = {
    # ONNX Runtime 1.32 and onnxruntime-genai: on import they look up a host, and keep a device id
    # and a database of events below the user's cache folder. Their API comes too late for that.
    "ORT_DISABLE_TELEMETRY": "1",
    # huggingface_hub, transformers, datasets: versions and a session id in each request.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # datasets: tells a host which data set is loaded, to count it.
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    # transformers: asks a service to convert the weights of a repository without safetensors.
    "DISABLE_SAFETENSORS_CONVERSION": "true",
}
"""Environment variable -> value that switches a report off."""


def switch_off() -> None:
    """Set the variables that the user has not set."""
    for name, value in OFF.items():
        os.environ.setdefault(name, value)
