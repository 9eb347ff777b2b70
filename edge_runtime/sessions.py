"""Opens ONNX Runtime sessions, with settings that suit small devices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from edge_runtime.errors import BundleError, SettingError

# MERGEDOC edge_runtime/providers.py: "Where a graph runs: ONNX Runtime's execution providers, asked for by name, never swapped."

_ERROR_LEVEL: Final = 3  # ONNX Runtime warns of every initializer that may be fed: our threshold

Provider = str | tuple[str, dict[str, Any]]
CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
_BY_NAME: Final = {"cpu": (CPU,), "cuda": (CUDA, CPU)}
# TF32 rounds to 10 bits, which moves confidences by 1e-3: a threshold chosen on a CPU would defer
# other inputs on a GPU.
_DEFAULTS: Final[dict[str, dict[str, Any]]] = {CUDA: {"use_tf32": 0}}


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """How ONNX Runtime runs the graph.

    Attributes:
        threads: Threads of one run; ONNX Runtime's default (a thread a core) when None.
        providers: Execution providers in order of preference, each a name or (name, options), e.g.
            `("CUDAExecutionProvider", "CPUExecutionProvider")`.
        spinning: Whether threads that wait for work keep their cores busy. Faster by microseconds
            where calls follow each other closely; costs a battery its charge, and other programs
            their cores.
        arena: Whether memory is kept between runs. Off, each run asks the system anew, which costs
            time and leaves more memory to others.
    """

    threads: int | None = None
    providers: Sequence[Provider] = (CPU,)
    spinning: bool = False
    arena: bool = True

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise SettingError(f"expected at least 1 thread, got {self.threads}")


def require_version(graph: Path, least: tuple[int, ...]) -> None:
    """Refuse a graph that the installed ONNX Runtime would not run, or would run wrongly.

    Args:
        graph: Its file.
        least: The first version that runs it, e.g. `(1, 23, 1)`.

    Raises:
        BundleError: The installed version is older.
    """
    here = tuple(int(number) for number in re.findall(r"\d+", ort.__version__)[:3])
    if here < least:
        wanted = ".".join(map(str, least))
        raise BundleError(
            f"expected ONNX Runtime {wanted} or newer for {graph}, got {ort.__version__}, which "
            f"does not run it rightly: pip install --upgrade 'onnxruntime>={wanted}'"
        )


def open_session(graph: Path, settings: SessionSettings) -> Any:
    """Return a session of a graph.

    Raises:
        BundleError: The graph does not load.
        SettingError: A provider is not to be had here.
    """
    wanted = require_offered(settings.providers)
    options = ort.SessionOptions()
    options.log_severity_level = _ERROR_LEVEL
    if settings.threads is not None:
        options.intra_op_num_threads = settings.threads
    options.enable_cpu_mem_arena = settings.arena
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(settings.spinning)))
    try:
        session = ort.InferenceSession(str(graph), options, providers=wanted)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises its own unrelated classes
        raise BundleError(
            f"{graph} does not load in ONNX Runtime {ort.__version__} ({reason_of(error)}): "
            "export the bundle again, or update onnxruntime"
        ) from None
    require_started(session, wanted)
    return session


def reason_of(error: Exception) -> str:
    """Return the beginning of what ONNX Runtime said, in one line."""
    return " ".join(str(error).split())[:200]


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
