"""The sequence graph in ONNX Runtime, held to the contract and run step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime import contract
from edge_runtime.decoding.cancelling import StoppedError, stoppable
from edge_runtime.decoding.running import fastest_runs
from edge_runtime.decoding.settings import DecoderSettings
from edge_runtime.errors import BundleError, InputError
from edge_runtime.sessions import reason_of

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
