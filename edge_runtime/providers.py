"""Where a graph runs: ONNX Runtime's execution providers, asked for by name, never swapped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import onnxruntime as ort

from edge_runtime.errors import SettingError

Provider = str | tuple[str, dict[str, Any]]

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
_BY_NAME: Final = {"cpu": (CPU,), "cuda": (CUDA, CPU)}
# TF32 rounds to 10 bits, which moves confidences by 1e-3: a threshold chosen on a CPU would defer
# other inputs on a GPU.
_DEFAULTS: Final[dict[str, dict[str, Any]]] = {CUDA: {"use_tf32": 0}}


def named(name: str) -> tuple[str, ...]:
    """Return the providers of a `--provider`, in order of preference."""
    return _BY_NAME[name]


def require_offered(providers: Sequence[Provider]) -> list[tuple[str, dict[str, Any]]]:
    """Return (name, options) of each provider.

    Raises:
        SettingError: None was named, or this onnxruntime does not offer one.
    """
    pairs = [(p, _DEFAULTS.get(p, {})) if isinstance(p, str) else p for p in providers]
    if not pairs:
        raise SettingError(f"expected at least one execution provider, got none: name {CPU!r}")
    offered = ort.get_available_providers()
    for name, _ in pairs:
        if name not in offered:
            raise SettingError(
                f"expected an onnxruntime with {name}, version {ort.__version__} here offers "
                f"{', '.join(offered)}: {_remedy(name)}"
            )
    return pairs


def require_started(session: Any, pairs: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Refuse a session that runs elsewhere: where CUDA does not start, ONNX Runtime takes the CPU.

    Raises:
        SettingError: A provider that was asked for is not in use.
    """
    running = session.get_providers()
    for name, _ in pairs:
        if name not in running:
            raise SettingError(
                f"expected the graph to run on {name}, it did not start and {', '.join(running)} "
                "took over: check the driver and its libraries, or ask for the CPU"
            )
    # Nor may a later failure move the session to another provider.
    session.disable_fallback()


def _remedy(name: str) -> str:
    if name == CUDA:
        return "pip install 'gatekeeper-edge[gpu]' in place of [cpu], or ask for the CPU"
    return "install an onnxruntime that has it, or ask for the CPU"
