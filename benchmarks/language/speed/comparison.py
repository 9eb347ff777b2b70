"""Lets processes generate the same in alternating rounds, and compares what it took them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import sleep
from typing import Final

import numpy as np
from tqdm.auto import tqdm

from benchmarks.errors import BenchmarkError
from benchmarks.figures import Figure
from benchmarks.language.speed import decoder_process, genai, genai_process, models, optimum_process
from benchmarks.language.speed.answer_loop import Request
from benchmarks.language.speed.models import Made
from benchmarks.language.speed.peer_process import Generating, Timed
from edge_runtime.metrics import bootstrap_interval

_PAUSE_S: Final = 0.02
_TOLERANCE: Final = 1e-4
_DECODER: Final = "decoder"
OURS: Final = "ours"
OPTIMUM: Final = "optimum's generate"
OPTIMUM_GATED: Final = "optimum's generate, entropy in torch"
OPTIMUM_GRAPH: Final = "optimum's graph"
GENAI: Final = "onnxruntime-genai's loop"
GENAI_GATED: Final = "onnxruntime-genai's loop, entropy in numpy"
_PEERS: Final = {
    OPTIMUM: (models.OPTIMUM, optimum_process.PLAIN),
    OPTIMUM_GATED: (models.OPTIMUM, optimum_process.GATED),
    OPTIMUM_GRAPH: (models.OPTIMUM, optimum_process.GRAPH),
    GENAI: (models.GENAI, genai_process.PLAIN),
    GENAI_GATED: (models.GENAI, genai_process.GATED),
}
"""Whose process it is, and its name there."""
_MISSING: Final = {
    models.OPTIMUM: "optimum-onnx is not installed: pip install 'gatekeeper-edge[optimum]'",
    models.GENAI: genai.MISSING,
}
Turns = dict[str, list[float]]
"""Milliseconds of each round, by who generated."""
Field = Mapping[str, tuple[Generating, str]]
"""Those that generate, ready: process and way, by name; ours first."""


@contextlib.contextmanager
def field_of(made: Made, peers: Sequence[str], logs: Path) -> Iterator[Field]:
    """Start our process and the peers' that are installed.

    Args:
        made: The model.
        peers: Names of `_PEERS`.
        logs: Folder for what they say.

    Raises:
        BenchmarkError: One does not start.
    """
    places: dict[str, tuple[Path | str, str, Path | None]] = {
        _DECODER: (sys.executable, decoder_process.__name__, made.bundle),
        models.OPTIMUM: (sys.executable, optimum_process.__name__, made.optimum),
        models.GENAI: (genai.PYTHON, genai_process.__name__, made.genai),
    }
    wanted = {_DECODER, *(_PEERS[name][0] for name in peers)}
    with contextlib.ExitStack() as started:
        processes = {
            name: started.enter_context(
                Generating(python, module, folder, log=logs / f"{name}.log")
            )
            for name, (python, module, folder) in places.items()
            if name in wanted and folder is not None
        }
        ways = {OURS: (processes[_DECODER], decoder_process.GATED)}
        for name in peers:
            process, way = _PEERS[name]
            if process in processes:
                ways[name] = processes[process], way
        yield ways


def alternate(
    field: Field, request: Request, rounds: int, *, peers: Sequence[str], calls: int = 1
) -> Turns:
    """Return what each took, a round each; the first round warms up and is left out.

    Args:
        field: Those that generate.
        request: What all are to generate.
        rounds: How often they take turns.
        peers: Who is beside us; those that are not there are passed over.
        calls: How often one generates in a turn; the median counts.

    Raises:
        BenchmarkError: Two did not generate the same tokens, or with another confidence: their
            times could not be compared.
    """
    order = [OURS, *(name for name in peers if name in field)]
    turns: Turns = {name: [] for name in order}
    for i in tqdm(range(rounds + 1), desc="rounds", leave=False, disable=None):
        said: dict[str, Timed] = {}
        # Nobody always follows the same one.
        for name in order if i % 2 else reversed(order):
            process, way = field[name]
            sleep(_PAUSE_S)
            turn = [process(request._replace(way=way)) for _ in range(calls)]
            said[name] = turn[-1]
            if i:
                turns[name].append(median(one.took_ns for one in turn) / 1e6)
        _require_equal(said, request)
    return turns


def _require_equal(said: Mapping[str, Timed], request: Request) -> None:
    ours = said[OURS]
    for name, one in said.items():
        if len(one.tokens) != request.new_tokens or one.tokens != ours.tokens:
            raise BenchmarkError(
                f"expected {request.new_tokens} tokens, the same of all, got {ours.tokens} of ours "
                f"and {one.tokens} of {name}: take another --seed"
            )
        if one.confidence is None or ours.confidence is None:
            continue  # it has no gate
        if not abs(one.confidence - ours.confidence) <= _TOLERANCE:
            raise BenchmarkError(
                f"expected one confidence of all, got {ours.confidence} of ours and "
                f"{one.confidence} of {name}: take another --seed"
            )


def versions(field: Field) -> dict[str, str]:
    """Return who generates with what."""
    return {name: process.version for name, (process, _) in field.items()}


def how_to_install(peer: str) -> str:
    """Return what to do where a peer is not there."""
    return _MISSING[_PEERS[peer][0]]


@dataclass(frozen=True)
class Compared:
    """What was measured side by side.

    Attributes:
        name: What was timed.
        conditions: Under which.
        turns: What each took.
        versions: Of the libraries, by who generated.
        share: What the times are divided by in words, for example the number of tokens.
    """

    name: str
    conditions: str
    turns: Turns
    versions: Mapping[str, str]
    share: int = 1

    def figure(self, peer: str, limit: float | None = None) -> Figure:
        """Return our time over a peer's, pair by pair.

        Args:
            peer: Who is beside us; where it is not installed, the figure says so.
            limit: What the ratio may be at most; None where it is only told.
        """
        title = f"{self.name}, ours / {peer}"
        if peer not in self.turns:
            return Figure(title, None, limit, "x", how_to_install(peer))
        ratios = np.array(self.turns[OURS]) / np.array(self.turns[peer])
        interval = bootstrap_interval(np.median, ratios)
        ours, theirs = (median(self.turns[one]) / self.share for one in (OURS, peer))
        detail = (
            f"{ours:.3g} and {theirs:.3g} ms, {self.conditions}; {self.versions[peer]}; 95 % "
            f"interval {interval.low:.3f} to {interval.high:.3f} over {len(ratios)} rounds"
        )
        return Figure.of(title, ratios.tolist(), limit, "x", detail)
