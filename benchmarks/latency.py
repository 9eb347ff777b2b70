"""The command `python -m benchmarks latency`; needs the runtime's dependencies alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.errors import BenchmarkError
from benchmarks.timing import percentiles_ms, time_each
from edge_runtime import contract
from edge_runtime.bundle import role_of
from edge_runtime.cli import Command, field
from edge_runtime.environment import describe
from edge_runtime.errors import SettingError

_SIZE = 32  # for a free height or width
_TEXT = "what do I have to do when my card does not come by post?"
_WARM_UP = 20
_CALLS = 1000
_GENERATIONS = 100


@dataclass(frozen=True, kw_only=True)
class LatencySettings(Command):
    """Time a bundle on this device: edge-answered calls, and deferred ones where a cloud is named.

    Of a language model's bundle: the time to the first token, of each further one, and to the
    verdict, what the edge answers and what it defers apart.

    Example: python -m benchmarks latency --bundle runs/demo/bundle-tuned --cloud localhost:8001
    """

    bundle: Path = field("bundle folder")
    cloud: str | None = field("host:port of the large model", default=None)
    model: str = field("the large model's name there", default=contract.DEFAULT_MODEL)
    calls: int | None = field(
        "timed calls of each kind (default: 1000, of a language model 100)", default=None
    )
    prompts: Path | None = field(
        "file of prompts for a language model, one a line (default: a made-up one)", default=None
    )
    threads: int | None = field("threads of one edge run (default: all cores)", default=None)
    deadline_s: float = field("longest wait for the cloud, in seconds", default=5.0)
    seed: int = field("seed of the random picture", default=0)
    out: Path | None = field("write the result here as JSON", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calls is not None and self.calls < 1:
            raise SettingError(f"expected --calls of at least 1, got {self.calls}")

    def run(self) -> None:
        """Print the percentiles, and write them where asked."""
        is_decoder = role_of(self.bundle) == contract.ROLE_DECODER
        calls = self.calls or (_GENERATIONS if is_decoder else _CALLS)
        result: dict[str, Any] = {**describe("benchmarks"), "calls": calls}
        hardware = result["hardware"]
        print(f"{hardware['cores']} cores of {hardware['processor']}, {calls} calls each")
        measure = self._generations if is_decoder else self._classifications
        result |= measure(calls)
        if self.out is not None:
            self.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")

    def _generations(self, calls: int) -> dict[str, Any]:
        from benchmarks.language.speed.latency import Plan, lines, time_generations

        result = time_generations(
            Plan(
                bundle=self.bundle,
                prompts=[_TEXT] if self.prompts is None else _read(self.prompts),
                calls=calls,
                threads=self.threads,
                cloud=self.cloud,
                model=self.model,
                deadline_s=self.deadline_s,
            )
        )
        print(*lines(result), sep="\n")
        return result

    def _classifications(self, calls: int) -> dict[str, Any]:
        if self.prompts is not None:
            raise SettingError(
                f"expected a language model's bundle with --prompts, {self.bundle} is none: leave "
                "it out"
            )
        # The thresholds force each side, so that the model's mood does not choose what is timed.
        result = {"edge": self._time(calls, threshold=float("-inf"), cloud=None)}
        if self.cloud is not None:
            result["deferred"] = self._time(calls, threshold=float("inf"), cloud=self.cloud)
        for side, times in result.items():
            print(f"{side:9}" + "".join(f"  {k} {v:.4f}" for k, v in times.items()))
        return result

    def _time(self, calls: int, *, threshold: float, cloud: str | None) -> dict[str, float]:
        from edge_runtime import Cascade

        with Cascade.open(
            self.bundle,
            cloud=cloud,
            model=self.model,
            threshold=threshold,
            threads=self.threads,
            deadline_s=self.deadline_s,
        ) as cascade:
            picture = random_input(cascade.edge.metadata.input, self.seed)
            answer = cascade(picture)
            if cloud is not None and answer.error:
                raise BenchmarkError(f"the cloud does not answer: {answer.error}")
            time_each(lambda: cascade(picture), _WARM_UP)
            times_ns = time_each(lambda: cascade(picture), calls)
        return percentiles_ms(np.array(times_ns) / 1e9)


def _read(file: Path) -> list[str]:
    prompts = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not prompts:
        raise BenchmarkError(f"expected prompts in {file}, one a line, got none")
    return prompts


def random_input(described: contract.InputDescription, seed: int) -> npt.NDArray[Any] | str:
    """Return one input of the described type and size; a free height or width is 32."""
    if described.name == contract.TEXT:
        return _TEXT
    shape = [size if isinstance(size, int) else _SIZE for size in described.shape[1:]]
    values = np.random.default_rng(seed).integers(0, 256, shape)
    return values.astype(described.dtype)
