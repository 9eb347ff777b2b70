"""Lets engines generate the same tokens in alternating rounds, and compares their times."""

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
from benchmarks.language.speed import engines, models
from benchmarks.language.speed.answer_loop import Request
from benchmarks.language.speed.engine_process import EngineProcess, TimedOutput
from benchmarks.language.speed.models import ModelForms
from edge_runtime.metrics import bootstrap_interval

_PAUSE_S: Final = 0.02
_TOLERANCE: Final = 1e-4
OURS: Final = "ours"
OPTIMUM: Final = "optimum's generate"
OPTIMUM_GATED: Final = "optimum's generate, entropy in torch"
OPTIMUM_GRAPH: Final = "optimum's graph"
GENAI: Final = "onnxruntime-genai's loop"
GENAI_GATED: Final = "onnxruntime-genai's loop, entropy in numpy"
_PEERS: Final = {
    OPTIMUM: (engines.OPTIMUM, engines.PLAIN),
    OPTIMUM_GATED: (engines.OPTIMUM, engines.GATED),
    OPTIMUM_GRAPH: (engines.OPTIMUM, engines.GRAPH),
    GENAI: (engines.GENAI, engines.PLAIN),
    GENAI_GATED: (engines.GENAI, engines.GATED),
}
"""Engine and mode of each peer."""
_INSTALL: Final = {
    engines.OPTIMUM: "optimum-onnx is not installed: pip install 'gatekeeper-edge[optimum]'",
    engines.GENAI: models.GENAI_MISSING,
}
Turns = dict[str, list[float]]
"""Milliseconds of each round, by name of the peer."""
Engines = Mapping[str, tuple[EngineProcess, str]]
"""Running process and mode by name of the peer; ours first."""


@contextlib.contextmanager
def running_engines(forms: ModelForms, peers: Sequence[str], logs: Path) -> Iterator[Engines]:
    """Start our process and those of the peers that are installed.

    Args:
        forms: The model.
        peers: Names of peers.
        logs: Folder for the logs of the processes.

    Raises:
        BenchmarkError: One does not start.
    """
    places: dict[str, tuple[Path | str, Path | None]] = {
        engines.DECODER: (sys.executable, forms.bundle),
        engines.OPTIMUM: (sys.executable, forms.optimum),
        engines.GENAI: (models.GENAI_PYTHON, forms.genai),
    }
    wanted = {engines.DECODER, *(_PEERS[name][0] for name in peers)}
    with contextlib.ExitStack() as stack:
        processes = {
            name: stack.enter_context(
                EngineProcess(python, engines.__name__, name, str(folder), log=logs / f"{name}.log")
            )
            for name, (python, folder) in places.items()
            if name in wanted and folder is not None
        }
        running = {OURS: (processes[engines.DECODER], engines.GATED)}
        for name in peers:
            engine, mode = _PEERS[name]
            if engine in processes:
                running[name] = processes[engine], mode
        yield running


def alternate(
    running: Engines, request: Request, rounds: int, *, peers: Sequence[str], calls: int = 1
) -> Turns:
    """Return the time of each engine's turns; a first round, the warm-up, does not count.

    Args:
        running: The running engines.
        request: The generation that all of them do.
        rounds: Number of rounds.
        peers: Names of the peers to compare with; those that do not run are skipped.
        calls: Generations in a turn, of which the median counts.

    Raises:
        BenchmarkError: Two engines generated different tokens, or with different confidences:
            their times cannot be compared.
    """
    order = [OURS, *(name for name in peers if name in running)]
    turns: Turns = {name: [] for name in order}
    for i in tqdm(range(rounds + 1), desc="rounds", leave=False, disable=None):
        outputs: dict[str, TimedOutput] = {}
        # The order alternates, so that no engine always follows the same one.
        for name in order if i % 2 else reversed(order):
            process, mode = running[name]
            sleep(_PAUSE_S)
            turn = [process(request._replace(mode=mode)) for _ in range(calls)]
            outputs[name] = turn[-1]
            if i:
                turns[name].append(median(one.took_ns for one in turn) / 1e6)
        _require_equal(outputs, request)
    return turns


def _require_equal(outputs: Mapping[str, TimedOutput], request: Request) -> None:
    ours = outputs[OURS]
    for name, output in outputs.items():
        if len(output.tokens) != request.new_tokens or output.tokens != ours.tokens:
            raise BenchmarkError(
                f"expected the same {request.new_tokens} tokens from all engines, got "
                f"{ours.tokens} from ours and {output.tokens} from {name}: take another --seed"
            )
        if output.confidence is None or ours.confidence is None:
            continue  # it has no gate
        if not abs(output.confidence - ours.confidence) <= _TOLERANCE:
            raise BenchmarkError(
                f"expected the same confidence from all engines, got {ours.confidence} from ours "
                f"and {output.confidence} from {name}: take another --seed"
            )


def engine_versions(running: Engines) -> dict[str, str]:
    """Return distribution and version of each engine."""
    return {name: process.version for name, (process, _) in running.items()}


def install_hint(peer: str) -> str:
    """Return how to install a peer that is missing."""
    return _INSTALL[_PEERS[peer][0]]


@dataclass(frozen=True)
class Comparison:
    """Times that were measured side by side.

    Attributes:
        name: Name of the time.
        conditions: Conditions of the measurement.
        turns: Times of each engine.
        versions: Versions of the engines.
        divisor: Divisor of the printed times, for example the number of tokens.
    """

    name: str
    conditions: str
    turns: Turns
    versions: Mapping[str, str]
    divisor: int = 1

    def figure(self, peer: str, limit: float | None = None) -> Figure:
        """Return the ratio of our time to a peer's, pair by pair.

        Args:
            peer: Name of the peer; if it is not installed, the figure says so.
            limit: Greatest ratio allowed; None for no limit.
        """
        title = f"{self.name}, ours / {peer}"
        if peer not in self.turns:
            return Figure(title, None, limit, "x", install_hint(peer))
        ratios = np.array(self.turns[OURS]) / np.array(self.turns[peer])
        interval = bootstrap_interval(np.median, ratios)
        ours, theirs = (median(self.turns[name]) / self.divisor for name in (OURS, peer))
        detail = (
            f"{ours:.3g} and {theirs:.3g} ms, {self.conditions}; {self.versions[peer]}; 95 % "
            f"interval {interval.low:.3f} to {interval.high:.3f} over {len(ratios)} rounds"
        )
        return Figure.of(title, ratios.tolist(), limit, "x", detail)
