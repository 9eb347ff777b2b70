"""ONNX Runtime's session, as a server opens it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_runtime.errors import BundleError, DependencyError

_FATAL_ONLY = 4


def open_session(graph: Path, threads: int) -> Any:
    """Open a graph on the best device there is.

    Args:
        graph: An ONNX file.
        threads: Threads of one run; 0 leaves it to ONNX Runtime.

    Raises:
        BundleError: It cannot be opened.
        DependencyError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise DependencyError("onnxruntime", "serving an ONNX graph", "cpu") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Warnings about the threshold, an initializer that may be fed, are expected; errors are raised
    # as well, and written past all logging, with what of the input did not fit.
    options.log_severity_level = _FATAL_ONLY
    try:
        return onnxruntime.InferenceSession(
            graph, options, providers=onnxruntime.get_available_providers()
        )
    except Exception as error:  # noqa: BLE001 - onnxruntime has a class for every failure
        reason = " ".join(str(error).split())
        raise BundleError(f"{graph} cannot be opened: {reason}") from None
