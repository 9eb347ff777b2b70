"""Times the calls of a bundle; needs only the runtime's dependencies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.commands.figures import LatencySettings
from benchmarks.documents import write_json
from benchmarks.errors import BenchmarkError
from benchmarks.language.speed.latency import Plan, lines, time_generations
from benchmarks.timing import percentiles_ms, time_each
from edge_runtime import Cascade, contract
from edge_runtime.bundle import role_of
from edge_runtime.environment import describe
from edge_runtime.errors import SettingError
from edge_runtime.reading import read_text

_SIZE = 32  # where the graph leaves height or width free
_TEXT = "what do I have to do when my card does not come by post?"
_WARM_UP = 20
_CALLS = 1000
_GENERATIONS = 100


def measure(settings: LatencySettings) -> None:
    """Print the percentiles of the times, and write them to a file if one is named."""
    is_decoder = role_of(settings.bundle) == contract.ROLE_DECODER
    calls = settings.calls or (_GENERATIONS if is_decoder else _CALLS)
    result: dict[str, Any] = {**describe("benchmarks"), "calls": calls}
    hardware = result["hardware"]
    print(f"{hardware['cores']} cores of {hardware['processor']}, {calls} calls each")
    result |= _generations(settings, calls) if is_decoder else _classifications(settings, calls)
    if settings.out is not None:
        write_json(settings.out, result)


def _generations(settings: LatencySettings, calls: int) -> dict[str, Any]:
    result = time_generations(
        Plan(
            bundle=settings.bundle,
            prompts=[_TEXT] if settings.prompts is None else _read(settings.prompts),
            calls=calls,
            threads=settings.threads,
            cloud=settings.cloud,
            model=settings.model,
            deadline_s=settings.deadline_s,
        )
    )
    print(*lines(result), sep="\n")
    return result


def _classifications(settings: LatencySettings, calls: int) -> dict[str, Any]:
    if settings.prompts is not None:
        raise SettingError(
            f"--prompts needs a language model's bundle, {settings.bundle} is a classifier's: "
            "leave it out"
        )
    # The thresholds force each side, so that the model's confidence does not choose what is timed.
    result = {"edge": _time(settings, calls, threshold=float("-inf"), cloud=None)}
    if settings.cloud is not None:
        deferred = _time(settings, calls, threshold=float("inf"), cloud=settings.cloud)
        result["deferred"] = deferred
    for side, times in result.items():
        print(f"{side:9}" + "".join(f"  {k} {v:.4f}" for k, v in times.items()))
    return result


def _time(
    settings: LatencySettings, calls: int, *, threshold: float, cloud: str | None
) -> dict[str, float]:
    with Cascade.open(
        settings.bundle,
        cloud=cloud,
        model=settings.model,
        threshold=threshold,
        threads=settings.threads,
        deadline_s=settings.deadline_s,
    ) as cascade:
        picture = random_input(cascade.edge.metadata.input, settings.seed)
        answer = cascade(picture)
        if cloud is not None and answer.error:
            raise BenchmarkError(f"the cloud does not answer: {answer.error}")
        time_each(lambda: cascade(picture), _WARM_UP)
        times_ns = time_each(lambda: cascade(picture), calls)
    return percentiles_ms(np.array(times_ns) / 1e9)


def _read(file: Path) -> list[str]:
    prompts = [line for line in read_text(file).splitlines() if line.strip()]
    if not prompts:
        raise BenchmarkError(f"expected prompts in {file}, one per line, got none")
    return prompts


def random_input(described: contract.InputDescription, seed: int) -> npt.NDArray[Any] | str:
    """Return one random input of the described type and size; a free height or width is 32."""
    if described.name == contract.TEXT:
        return _TEXT
    shape = [size if isinstance(size, int) else _SIZE for size in described.shape[1:]]
    values = np.random.default_rng(seed).integers(0, 256, shape)
    return values.astype(described.dtype)
