"""The sequence graph in ONNX Runtime, held to the contract and run step by step."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edge_runtime import contract
from edge_runtime.errors import BundleError, InputError

# MERGEDOC edge_runtime/decoding/running.py: "Two ways to run a graph whose outputs are the next run's inputs; neither copies them."
# MERGEDOC edge_runtime/decoding/cancelling.py: 'Ends a run of the graph from another thread: reading a long prompt takes seconds.'
from edge_runtime.language.settings import DecoderSettings
from edge_runtime.sessions import CUDA, reason_of

_STATE: Final = (contract.STATE_CONFIDENCE, contract.STATE_COUNT, contract.STATE_ACTIVE)
_ACCUMULATED: Final = contract.PRESENT + contract.STATE_CONFIDENCE
_ACTIVE: Final = contract.PRESENT + contract.STATE_ACTIVE
_PAST_ACTIVE: Final = contract.PAST + contract.STATE_ACTIVE
_READ: Final = {
    contract.NEXT_TOKEN: "tensor(int64)",
    contract.CONFIDENCE: "tensor(float)",
    contract.DEFER: "tensor(bool)",
    _ACCUMULATED: "tensor(float)",
    _ACTIVE: "tensor(bool)",
}
"""The outputs that are looked at, in the order of `Step`."""
_CACHE_TYPES: Final = {"tensor(float)": np.float32, "tensor(float16)": np.float16}

LONG: Final = 32
"""Tokens that are worth a thread which watches."""
_LOOK_S: Final = 0.02


class Step(NamedTuple):
    """What one step says of each row.

    Attributes:
        next_token: int64 [batch].
        confidence: float32 [batch], of the tokens so far.
        defer: bool [batch].
        accumulated: float32 [batch], what the confidence is made of; see `floor_of`.
        active: bool [batch], False once the token that ends an answer has come.
    """

    next_token: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    defer: npt.NDArray[np.bool_]
    accumulated: npt.NDArray[np.float32]
    active: npt.NDArray[np.bool_]


class DecoderGraph:
    """A session that follows the contract of the sequence graph.

    Args:
        session: ONNX Runtime's session.
        file: Its graph.
        settings: Limits and special tokens.

    Raises:
        BundleError: The graph does not follow the contract.
    """

    def __init__(self, session: Any, file: Path, settings: DecoderSettings) -> None:
        self.file = file
        self.pad = settings.pad_token_id
        caches = [f"{n}.{part}" for n in range(settings.layers) for part in ("key", "value")]
        self._cache_shape = settings.kv_heads, settings.head_dim
        taken = _checked(session, file, caches)
        self._cache_type = _CACHE_TYPES[taken[contract.PAST + caches[0]]]
        # What is given, by what it is fed as to the next step.
        states = [*caches, *_STATE]
        self.fed_back = {contract.PAST + name: contract.PRESENT + name for name in states}
        mask = contract.PRESENT + contract.ATTENTION_MASK
        self.fed_back[contract.ATTENTION_MASK] = mask
        outputs = [*_READ, *(n for n in self.fed_back.values() if n not in _READ)]
        self.runs = fastest_runs(session, outputs, _READ)

    def beginning(self, prompts: Sequence[Sequence[int]]) -> dict[str, npt.NDArray[Any]]:
        """Return what is fed first: prompts filled on the left, and nothing behind them."""
        rows, longest = len(prompts), max(map(len, prompts))
        ids = np.full((rows, longest), self.pad, np.int64)
        mask = np.zeros((rows, longest), np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = prompt
            mask[row, longest - len(prompt) :] = 1
        heads, size = self._cache_shape
        state: dict[str, npt.NDArray[Any]] = {
            contract.PAST + contract.STATE_CONFIDENCE: np.zeros(rows, np.float32),
            contract.PAST + contract.STATE_COUNT: np.zeros(rows, np.int64),
            _PAST_ACTIVE: np.ones(rows, np.bool_),
        }
        empty = np.zeros((rows, heads, 0, size), self._cache_type)
        caches = {name: empty for name in self.fed_back if name.endswith((".key", ".value"))}
        return {contract.INPUT_IDS: ids, contract.ATTENTION_MASK: mask, **state, **caches}


class Sequences:
    """Sequences that are being decoded together; what one step gives is fed to the next.

    The caches are ONNX Runtime's own and are never copied, but where a row leaves. They are freed
    with this object.

    Args:
        graph: The graph.
        prompts: Tokens of each, none empty.
        threshold: What the graph compares the confidence with.

    Attributes:
        unread: Tokens that the next step reads, in all rows.
    """

    def __init__(
        self, graph: DecoderGraph, prompts: Sequence[Sequence[int]], threshold: float
    ) -> None:
        self._graph = graph
        self._runs = graph.runs
        self.unread = len(prompts) * max(map(len, prompts))
        self._feeds = {n: self._runs.value(a) for n, a in graph.beginning(prompts).items()}
        # ONNX Runtime takes a zero-dimensional array here and nothing else.
        self._feeds[contract.THRESHOLD] = self._runs.value(np.array(threshold, np.float32))

    def step(self, cancel: Event | None = None) -> Step:
        """Generate one token for each row.

        Args:
            cancel: Ends the reading of a long prompt.

        Raises:
            InputError: The graph failed.
            StoppedError: It was ended.
        """
        try:
            with stoppable(cancel, self.unread) as options:
                given = self._runs(self._feeds, options)
        except StoppedError:
            raise
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises its own unrelated classes
            raise InputError(
                f"expected prompts that {self._graph.file} can work on, it failed "
                f"({reason_of(error)}): try fewer or shorter prompts, or export the bundle again"
            ) from None
        step = Step(*(given[name] for name in _READ))
        self._feeds |= {past: given[present] for past, present in self._graph.fed_back.items()}
        self._feeds[contract.INPUT_IDS] = step.next_token[:, None]
        self.unread = len(step.next_token)
        return step

    def rest(self, is_active: Sequence[bool]) -> None:
        """Generate for some rows no more; they stay where they are."""
        self._feeds[_PAST_ACTIVE] = np.array(is_active)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some rows; the others' part of the caches is freed."""
        kept = np.asarray(rows)
        for name in (contract.INPUT_IDS, *self._graph.fed_back):
            self._feeds[name] = self._runs.value(self._runs.array(self._feeds[name])[kept])


def _checked(session: Any, file: Path, caches: Sequence[str]) -> dict[str, str]:
    """Hold the graph to the contract; return its inputs' types."""
    taken = {node.name: node.type for node in session.get_inputs()}
    given = {node.name: node.type for node in session.get_outputs()}
    states = [*caches, *_STATE, contract.ATTENTION_MASK]
    wanted = {contract.INPUT_IDS, contract.ATTENTION_MASK}
    wanted |= {contract.PAST + name for name in (*caches, *_STATE)}
    if wanted != taken.keys():
        odd = sorted(wanted ^ taken.keys())
        raise BundleError(
            f"expected the inputs of a decoder of {len(caches) // 2} layers in {file}, "
            f"{odd[0]!r} is missing or too much: export the bundle again"
        )
    missing = [n for n in states if contract.PRESENT + n not in given]
    wrong = [n for n, kind in _READ.items() if given.get(n) != kind]
    if missing or wrong or taken[contract.PAST + caches[0]] not in _CACHE_TYPES:
        odd_one = (*(contract.PRESENT + n for n in missing), *wrong, contract.PAST + caches[0])[0]
        raise BundleError(
            f"expected {odd_one!r} in {file} as the gate contract has it, got "
            f"{given.get(odd_one) or taken.get(odd_one)}: export the bundle again"
        )
    if contract.THRESHOLD not in {n.name for n in session.get_overridable_initializers()}:
        raise BundleError(
            f"expected an initializer {contract.THRESHOLD!r} that can be fed in {file}, got none: "
            "export the bundle again"
        )
    return taken


class Runs(Protocol):
    """Runs a graph on values that stay where it runs."""

    def value(self, array: npt.NDArray[Any]) -> Any:
        """Return an array as a value to feed."""

    def array(self, value: Any) -> npt.NDArray[Any]:
        """Return a value as an array."""

    def __call__(self, feeds: Mapping[str, Any], options: Any = None) -> dict[str, Any]:
        """Run once; return the outputs by name, those that are read as arrays.

        Args:
            feeds: Values by name.
            options: ONNX Runtime's, or None.
        """


class ArrayRuns:
    """Runs on the CPU, on arrays.

    Since version 1.19 ONNX Runtime gives arrays over its own memory and works on arrays where they
    are, so that nothing is copied; binding does the same and took 50 us a step longer (two layers).

    Args:
        session: ONNX Runtime's session.
        outputs: The outputs to return.
    """

    def __init__(self, session: Any, outputs: Sequence[str]) -> None:
        self._session = session
        self._outputs = list(outputs)

    def value(self, array: npt.NDArray[Any]) -> Any:
        """Return the array itself."""
        return array

    def array(self, value: Any) -> npt.NDArray[Any]:
        """Return the array itself."""
        return np.asarray(value)

    def __call__(self, feeds: Mapping[str, Any], options: Any = None) -> dict[str, Any]:
        """Run once."""
        given = self._session.run(self._outputs, feeds, options)
        return dict(zip(self._outputs, given, strict=True))


class BoundRuns:
    """Runs on a device: what is fed back is bound there, only what is read comes to the host.

    Args:
        session: ONNX Runtime's session.
        outputs: The outputs to return.
        read: Those of them that are read.
        device: ONNX Runtime's name of the device.
    """

    def __init__(
        self, session: Any, outputs: Sequence[str], read: Collection[str], device: str
    ) -> None:
        self._session = session
        self._places = {name: "cpu" if name in read else device for name in outputs}
        self._read = frozenset(read)
        self._device = device

    def value(self, array: npt.NDArray[Any]) -> Any:
        """Return a copy on the device."""
        return ort.OrtValue.ortvalue_from_numpy(array, self._device)

    def array(self, value: Any) -> npt.NDArray[Any]:
        """Return a copy on the host."""
        return np.asarray(value.numpy() if isinstance(value, ort.OrtValue) else value)

    def __call__(self, feeds: Mapping[str, Any], options: Any = None) -> dict[str, Any]:
        """Run once; what was read and is fed back goes to the device again: a few bytes a row."""
        binding = self._session.io_binding()
        # Held to the end of the run: not every version of ONNX Runtime does.
        bound = {
            name: value if isinstance(value, ort.OrtValue) else self.value(value)
            for name, value in feeds.items()
        }
        for name, value in bound.items():
            binding.bind_ortvalue_input(name, value)
        for name, place in self._places.items():
            binding.bind_output(name, place)
        self._session.run_with_iobinding(binding, options)
        given = dict(zip(self._places, binding.get_outputs(), strict=True))
        return {n: v.numpy() if n in self._read else v for n, v in given.items()}


def fastest_runs(session: Any, outputs: Sequence[str], read: Collection[str]) -> Runs:
    """Return the way that suits where the session runs."""
    if session.get_providers()[0] == CUDA:
        return BoundRuns(session, outputs, read, "cuda")
    return ArrayRuns(session, outputs)


class StoppedError(Exception):
    """The run was ended; what it computed is lost."""


@contextlib.contextmanager
def stoppable(cancel: threading.Event | None, tokens: int) -> Iterator[Any]:
    """Yield options of a run that ends soon after an event; None where it is over soon anyway.

    ONNX Runtime looks at them between two nodes. Of 3,500 tokens, read in 13 s, the end came 0.1 s
    after the event.

    Args:
        cancel: The event; None never comes.
        tokens: How many the run reads, in all rows.

    Raises:
        StoppedError: The run failed because it was ended.
    """
    if cancel is None or tokens < LONG:
        yield None
        return
    options, is_over = ort.RunOptions(), threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            if cancel.wait(_LOOK_S):
                options.terminate = True
                return

    # Nobody waits for it: it ends by itself.
    threading.Thread(target=watch, name="cancel-watch", daemon=True).start()
    try:
        yield options
    except Exception:
        if options.terminate:
            raise StoppedError from None
        raise
    finally:
        is_over.set()
