"""Opens ONNX Runtime sessions, with settings for small devices and no silent change of provider."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edge_runtime import contract
from edge_runtime.bundle import Bundle
from edge_runtime.errors import BundleError, SettingError, ShortMemoryError
from edge_runtime.files import one_line

Provider = str | tuple[str, dict[str, Any]]
CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
_PROVIDERS: Final = {"cpu": (CPU,), "cuda": (CUDA, CPU)}
# TF32 rounds to 10 bits, which moves confidences by 1e-3: a threshold chosen on a CPU would defer
# other inputs on a GPU.
_DEFAULTS: Final[dict[str, dict[str, Any]]] = {CUDA: {"use_tf32": 0}}
# ONNX Runtime warns about every initializer that may be fed, as our threshold is, and prints each
# error that it raises as well.
_FATAL_LEVEL: Final = 4
REASON_LENGTH: Final = 200
"""Characters of ONNX Runtime's error text that a message repeats."""


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """Settings of an ONNX Runtime session.

    Attributes:
        threads: Threads of one run; ONNX Runtime's default (one per core) when None.
        providers: Execution providers in order of preference, each a name or (name, options), e.g.
            `("CUDAExecutionProvider", "CPUExecutionProvider")`.
        spinning: Whether idle threads keep their cores busy. Saves microseconds where calls follow
            each other closely, but drains batteries and takes cores from other programs.
        arena: Whether memory is kept between runs. When off, each run requests memory from the
            system again, which is slower and leaves more memory to others.
    """

    threads: int | None = None
    providers: Sequence[Provider] = (CPU,)
    spinning: bool = False
    arena: bool = True

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise SettingError(f"expected at least 1 thread, got {self.threads}")


def open_session(bundle: Bundle, settings: SessionSettings) -> Any:
    """Return a session of a bundle's graph as it was checked.

    Raises:
        BundleError: The graph does not load, or was replaced meanwhile.
        SettingError: A provider is not available here.
    """
    pairs = require_offered(settings.providers)
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_LEVEL
    if settings.threads is not None:
        options.intra_op_num_threads = settings.threads
    options.enable_cpu_mem_arena = settings.arena
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(settings.spinning)))
    try:
        session = load_bundle(bundle, options, pairs)
    except BundleError:
        raise
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises its own unrelated classes
        raise BundleError(
            f"{bundle.graph} does not load in ONNX Runtime {ort.__version__} "
            f"({one_line(error, REASON_LENGTH)}): export the bundle again, or update onnxruntime"
        ) from None
    require_started(session, pairs)
    return session


def load_bundle(bundle: Bundle, options: Any, providers: Sequence[Provider]) -> Any:
    """Return a session over the graph of a bundle as it was checked.

    Raises:
        BundleError: A graph with weights beside it was replaced meanwhile, or its weights.
        Exception: ONNX Runtime does not take the graph.
    """
    # Bytes have no folder, and ONNX Runtime 1.20 cannot be told in which one their weights lie.
    source = bundle.content if bundle.is_whole else str(bundle.graph)
    session = ort.InferenceSession(source, options, providers=providers)
    bundle.require_unchanged()
    # It would keep the bytes for another provider, to which no session here may move.
    session._model_bytes = None  # noqa: SLF001 - there is no public way
    return by_rows(session)


def by_rows(session: Any) -> Any:
    """Return a session that takes any number of rows, also for a graph that takes exactly one."""
    shapes = [node.shape for node in session.get_inputs()]
    return _RowSession(session) if shapes and all(s and s[0] == 1 for s in shapes) else session


class _Node(NamedTuple):
    """An input or output of a graph, in ONNX Runtime's words."""

    name: str
    type: str
    shape: list[int | str | None]


class _RowSession:
    """Runs a graph with a fixed batch of one on each row, and shows its batch axis as free."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._rows = tuple(node.name for node in session.get_inputs())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_inputs(self) -> list[_Node]:
        return [_freed(node) for node in self._session.get_inputs()]

    def get_outputs(self) -> list[_Node]:
        return [_freed(node) for node in self._session.get_outputs()]

    def run(
        self, names: Sequence[str] | None, feeds: Mapping[str, Any], options: Any = None
    ) -> list[npt.NDArray[Any]]:
        count = len(feeds[self._rows[0]])
        if count == 1:
            return list(self._session.run(names, feeds, options))
        others = {name: value for name, value in feeds.items() if name not in self._rows}
        made = [
            self._session.run(
                names, others | {name: feeds[name][i : i + 1] for name in self._rows}, options
            )
            for i in range(count)
        ]
        return [np.concatenate(parts) for parts in zip(*made, strict=True)]


def _freed(node: Any) -> _Node:
    return _Node(node.name, node.type, ["batch", *node.shape[1:]] if node.shape else node.shape)


def quick_run(session: Any) -> Callable[..., Any]:
    """Return a session's `run` without the checks that ONNX Runtime makes twice: 4 us a call."""
    is_plain = type(session) is ort.InferenceSession
    run: Callable[..., Any] = getattr(session, "_sess", session).run if is_plain else session.run
    return run


def require_version(graph: Path, least: tuple[int, ...]) -> None:
    """Raise a `BundleError` where ONNX Runtime is older than the first version for a graph."""
    installed = tuple(int(number) for number in re.findall(r"\d+", ort.__version__)[:3])
    if installed < least:
        version = ".".join(map(str, least))
        raise BundleError(
            f"expected ONNX Runtime {version} or newer for {graph}, got {ort.__version__}, which "
            f"runs it incorrectly: pip install --upgrade 'onnxruntime>={version}'"
        )


def select_providers(name: str) -> tuple[str, ...]:
    """Return the execution providers of a `--provider` flag, in order of preference."""
    return _PROVIDERS[name]


def require_offered(providers: Sequence[Provider]) -> list[tuple[str, dict[str, Any]]]:
    """Return (name, options) of each provider, or raise a `SettingError` if one is not offered."""
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
    """Raise a `SettingError` if ONNX Runtime took the CPU because a provider did not start."""
    running = session.get_providers()
    for name, _ in pairs:
        if name not in running:
            raise SettingError(
                f"expected the graph to run on {name}, it did not start and {', '.join(running)} "
                "took over: check the driver and its libraries, or ask for the CPU"
            )
    # A later failure must not move the session to another provider either.
    session.disable_fallback()


def require_threshold(session: Any, graph: Path) -> None:
    """Raise a `BundleError` for a graph whose threshold cannot be fed."""
    if contract.THRESHOLD not in {node.name for node in session.get_overridable_initializers()}:
        raise BundleError(
            f"expected an initializer {contract.THRESHOLD!r} that can be fed in {graph}, got none: "
            "export the bundle again"
        )


def threshold_feed(threshold: float) -> npt.NDArray[np.float32]:
    """Return a threshold as a graph's feed, float32 [], or raise a `SettingError` for NaN."""
    if np.isnan(threshold):
        raise SettingError("expected a number as threshold, got NaN: it would defer everything")
    # ONNX Runtime takes a zero-dimensional array here and nothing else.
    return np.array(threshold, np.float32)


def short_of_memory(what: str) -> ShortMemoryError:
    """Return the error of inputs for which a graph got no memory."""
    return ShortMemoryError(
        f"expected enough memory on this device for {what}, the model got none: send fewer or "
        "smaller inputs at once"
    )


def _remedy(name: str) -> str:
    if name == CUDA:
        return "pip install 'gatekeeper-edge[gpu]' in place of [cpu], or ask for the CPU"
    return "install an onnxruntime that has it, or ask for the CPU"
