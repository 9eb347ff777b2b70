"""The sequence graph in ONNX Runtime: checked against the contract, run step by step.

The outputs of one run are inputs of the next, and neither runner copies them. A run can be ended
from another thread, as reading a long prompt takes seconds.
"""

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
from edge_runtime.errors import BundleError, InputError, lacks_memory
from edge_runtime.files import one_line
from edge_runtime.language.settings import DecoderSettings
from edge_runtime.sessions import (
    CUDA,
    REASON_LENGTH,
    require_threshold,
    short_of_memory,
    threshold_feed,
)

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
"""The outputs that are read, in the order of `Step`."""
_CACHE_TYPES: Final = {"tensor(float)": np.float32, "tensor(float16)": np.float16}

_LONG_RUN: Final = 32
"""Tokens of a run that is worth a thread watching for its cancellation."""
_POLL_S: Final = 0.02


class Step(NamedTuple):
    """The result of one step for each row.

    Attributes:
        next_token: int64 [batch].
        confidence: float32 [batch], of the tokens so far.
        defer: bool [batch].
        accumulated: float32 [batch], the accumulator of the confidence, as in `floor_of`.
        active: bool [batch], False from the token that ends an answer.
    """

    next_token: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    defer: npt.NDArray[np.bool_]
    accumulated: npt.NDArray[np.float32]
    active: npt.NDArray[np.bool_]


class DecoderGraph:
    """A session that follows the sequence graph's contract; others raise a `BundleError`."""

    def __init__(self, session: Any, file: Path, settings: DecoderSettings) -> None:
        self.file = file
        self.pad = settings.pad_token_id
        caches = [f"{n}.{part}" for n in range(settings.layers) for part in ("key", "value")]
        self._cache_shape = settings.kv_heads, settings.head_dim
        input_types = _check_contract(session, file, caches)
        self._cache_type = _CACHE_TYPES[input_types[contract.PAST + caches[0]]]
        # Output of one step by the input of the next.
        states = [*caches, *_STATE]
        self.fed_back = {contract.PAST + name: contract.PRESENT + name for name in states}
        mask = contract.PRESENT + contract.ATTENTION_MASK
        self.fed_back[contract.ATTENTION_MASK] = mask
        outputs = [*_READ, *(n for n in self.fed_back.values() if n not in _READ)]
        self.runner = open_runner(session, outputs, _READ)

    def first_feeds(self, prompts: Sequence[Sequence[int]]) -> dict[str, npt.NDArray[Any]]:
        """Return the feeds of the first step: prompts padded on the left, and empty caches."""
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
    """Sequences that are decoded together; the outputs of one step are fed to the next.

    The caches are ONNX Runtime's own and are copied only when a row leaves. They are freed with
    this object. `unread` is the number of tokens that the next step reads, in all rows.

    Args:
        graph: The graph.
        prompts: Tokens of each prompt, none empty.
        threshold: The threshold of the gate.
    """

    def __init__(
        self, graph: DecoderGraph, prompts: Sequence[Sequence[int]], threshold: float
    ) -> None:
        self._graph = graph
        self._runner = graph.runner
        self.unread = len(prompts) * max(map(len, prompts))
        feeds = {**graph.first_feeds(prompts), contract.THRESHOLD: threshold_feed(threshold)}
        self._feeds = {name: self._runner.value(array) for name, array in feeds.items()}

    def step(self, cancel: Event | None = None) -> Step:
        """Generate one token for each row; `cancel` ends the reading of a long prompt.

        Raises:
            InputError: The graph failed.
            ShortMemoryError: This device has too little memory for the prompts.
            StoppedError: The event ended the run.
        """
        try:
            with stoppable(cancel, self.unread) as options:
                outputs = self._runner(self._feeds, options)
        except StoppedError:
            raise
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises its own unrelated classes
            if lacks_memory(error):
                raise short_of_memory("these prompts") from None
            raise InputError(
                f"expected prompts that {self._graph.file} can work on, it failed "
                f"({one_line(error, REASON_LENGTH)}): try fewer or shorter prompts, or export the "
                "bundle again"
            ) from None
        step = Step(*(outputs[name] for name in _READ))
        self._feeds |= {past: outputs[present] for past, present in self._graph.fed_back.items()}
        self._feeds[contract.INPUT_IDS] = step.next_token[:, None]
        self.unread = len(step.next_token)
        return step

    def pause(self, is_active: Sequence[bool]) -> None:
        """Stop generating for inactive rows, which stay in the batch."""
        self._feeds[_PAST_ACTIVE] = np.array(is_active)

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with some rows; the others' part of the caches is freed."""
        kept, runner = np.asarray(rows), self._runner
        for name in (contract.INPUT_IDS, *self._graph.fed_back):
            self._feeds[name] = runner.value(runner.array(self._feeds[name])[kept])


def _check_contract(session: Any, file: Path, caches: Sequence[str]) -> dict[str, str]:
    """Check the graph against the contract; return the types of its inputs."""
    inputs = {node.name: node.type for node in session.get_inputs()}
    outputs = {node.name: node.type for node in session.get_outputs()}
    states = [*caches, *_STATE, contract.ATTENTION_MASK]
    expected = {contract.INPUT_IDS, contract.ATTENTION_MASK}
    expected |= {contract.PAST + name for name in (*caches, *_STATE)}
    if expected != inputs.keys():
        odd = sorted(expected ^ inputs.keys())
        raise BundleError(
            f"expected the inputs of a decoder of {len(caches) // 2} layers in {file}, "
            f"{odd[0]!r} is missing or too much: export the bundle again"
        )
    missing = [n for n in states if contract.PRESENT + n not in outputs]
    wrong = [n for n, kind in _READ.items() if outputs.get(n) != kind]
    if missing or wrong or inputs[contract.PAST + caches[0]] not in _CACHE_TYPES:
        odd_one = (*(contract.PRESENT + n for n in missing), *wrong, contract.PAST + caches[0])[0]
        raise BundleError(
            f"expected {odd_one!r} in {file} as in the gate contract, got "
            f"{outputs.get(odd_one) or inputs.get(odd_one)}: export the bundle again"
        )
    require_threshold(session, file)
    return inputs


class Runner(Protocol):
    """Runs a graph on values that stay on the device where it runs."""

    def value(self, array: npt.NDArray[Any]) -> Any:
        """Return an array as a value to feed."""

    def array(self, value: Any) -> npt.NDArray[Any]:
        """Return a value as an array."""

    def __call__(self, feeds: Mapping[str, Any], options: Any = None) -> dict[str, Any]:
        """Run once, with RunOptions or None; return the outputs by name, those read as arrays."""


class ArrayRunner:
    """Runs a graph on the CPU, on arrays.

    Since version 1.19 ONNX Runtime returns arrays over its own memory and reads arrays in place, so
    nothing is copied; binding does the same and took 50 us longer per step (two layers).
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
        values = self._session.run(self._outputs, feeds, options)
        return dict(zip(self._outputs, values, strict=True))


class BoundRunner:
    """Runs a graph on a device: state is bound there, only outputs that are read are copied.

    Args:
        session: ONNX Runtime's session.
        outputs: The outputs to return.
        read: The outputs that are read on the host.
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
        """Run once; values that were read are copied back to the device, a few bytes per row."""
        binding = self._session.io_binding()
        # Kept alive until the end of the run: not every version of ONNX Runtime does so.
        bound = {
            name: value if isinstance(value, ort.OrtValue) else self.value(value)
            for name, value in feeds.items()
        }
        for name, value in bound.items():
            binding.bind_ortvalue_input(name, value)
        for name, place in self._places.items():
            binding.bind_output(name, place)
        self._session.run_with_iobinding(binding, options)
        values = dict(zip(self._places, binding.get_outputs(), strict=True))
        return {n: v.numpy() if n in self._read else v for n, v in values.items()}


def open_runner(session: Any, outputs: Sequence[str], read: Collection[str]) -> Runner:
    """Return the fastest runner for the session's device."""
    if session.get_providers()[0] == CUDA:
        return BoundRunner(session, outputs, read, "cuda")
    return ArrayRunner(session, outputs)


class StoppedError(Exception):
    """An event ended the run, and its results are lost."""


@contextlib.contextmanager
def stoppable(cancel: threading.Event | None, tokens: int) -> Iterator[Any]:
    """Yield RunOptions that end a run soon after an event; None for a run that is short anyway.

    ONNX Runtime checks them between two nodes. While reading 3,500 tokens, which takes 13 s, a run
    ended 0.1 s after the event. A run that was ended raises a `StoppedError`.

    Args:
        cancel: The event; None for a run that is never ended.
        tokens: Number of tokens that the run reads, in all rows.
    """
    if cancel is None or tokens < _LONG_RUN:
        yield None
        return
    options, is_over = ort.RunOptions(), threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            if cancel.wait(_POLL_S):
                options.terminate = True
                return

    # Never joined: the thread ends by itself.
    threading.Thread(target=watch, name="cancel-watch", daemon=True).start()
    try:
        yield options
    except Exception:
        if options.terminate:
            raise StoppedError from None
        raise
    finally:
        is_over.set()
