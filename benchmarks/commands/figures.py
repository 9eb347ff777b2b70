"""Settings of the commands that measure costs and hold them against limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from edge_runtime import contract
from edge_runtime.cli import Command, field
from edge_runtime.errors import SettingError

RuntimeGroup = Literal["calls", "client", "memory", "footprint", "drift", "outage"]
RUNTIME_GROUPS: tuple[RuntimeGroup, ...] = get_args(RuntimeGroup)
CloudGroup = Literal["peer", "front", "overload", "fairness", "drain", "connections", "soak"]
CLOUD_GROUPS: tuple[CloudGroup, ...] = get_args(CloudGroup)
KINDS = ("none", "fp16", "int8", "int8-dynamic", "int4")
GOALS = ("target-deferral", "target-accuracy", "max-risk", "max-harm")
SOURCES = ("checkpoint", "program", "onnx")


@dataclass(frozen=True, kw_only=True)
class ResultFile(Command):
    """`--out`, for a command that writes its result to one file."""

    out: Path | None = field("write the result to this JSON file", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        # The result may take minutes: a missing folder must show before.
        if self.out is not None and not self.out.absolute().parent.is_dir():
            raise SettingError(f"expected --out in an existing folder, got {self.out}")


@dataclass(frozen=True, kw_only=True)
class OverheadSettings(ResultFile, does="benchmarks.losses.overhead:measure"):
    """Print what the gate in the graph and the loss in training cost, relative to bare peers.

    Example: python -m benchmarks overhead --out overhead.json
    """

    rounds: int = field("alternating rounds of each comparison", default=60, least=1)
    seed: int = field("seed of the SmallCNN's weights and the picture", default=0, least=0)


@dataclass(frozen=True, kw_only=True)
class EncodingSettings(ResultFile, does="benchmarks.runtime.encoding:measure"):
    """Print what encoding the deferred pictures changes in the large model's answers.

    Example: python -m benchmarks encoding --checkpoint runs/large --data photographs
    """

    checkpoint: Path = field("checkpoint folder of the large model")
    data: tuple[str, ...] = field("data sets of pictures with labels: folders or tables")
    qualities: tuple[int, ...] = field(
        "qualities of JPEG", default=(95, 90, 75, 50), within=(1, 100)
    )
    max_side: int | None = field("longest side of an encoded picture", default=None, least=1)


@dataclass(frozen=True, kw_only=True)
class LinearLossSettings(ResultFile, does="benchmarks.losses.linear:measure"):
    """Print memory and time of the linear Gatekeeper loss, relative to losses on dense logits.

    On CUDA in bfloat16 and float32, and relative to Liger's fused linear cross-entropy where
    liger-kernel is installed.

    Example: python -m benchmarks linear-loss --out linear-loss.json
    """

    vocabulary: int = field("rows of the output layer", default=256_000, least=1)
    hidden: int = field("width of the hidden states", default=1024, least=1)
    tokens: int = field("positions in the loss", default=2048, least=1)
    rounds: int = field(
        "alternating rounds of timing, and processes for memory", default=5, least=1
    )
    device: Literal["cpu", "cuda"] = field("device to measure on", default="cpu")
    seed: int = field("seed of the inputs", default=0, least=0)


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings(ResultFile, does="benchmarks.runtime.figures:measure"):
    """Compare the edge runtime with its bare libraries, each figure with its limit, met or missed.

    Example: python -m benchmarks runtime --only calls,client --out runtime.json
    """

    only: tuple[RuntimeGroup, ...] = field("groups to measure, all if not given", default=())
    rounds: int = field(
        "alternating rounds of each comparison of calls; fewer are quicker and noisier",
        default=60,
        least=1,
    )
    edge_calls: int = field(
        "edge-answered calls while memory is watched; many, for the limit is one byte per call",
        default=1_000_000,
        least=1,
    )
    deferred_calls: int = field(
        "deferred calls while memory is watched, fewer because each takes longer",
        default=100_000,
        least=1,
    )
    starts: int = field(
        "processes started for each figure of start time and memory; the median counts",
        default=9,
        least=1,
    )
    months: int = field(
        "simulated months without a drift, and simulated drifts of each kind",
        default=1_000,
        least=1,
    )
    seed: int = field("seed of weights, pictures and simulated calls", default=0, least=0)


@dataclass(frozen=True, kw_only=True)
class CloudSettings(ResultFile, does="benchmarks.serving.figures:measure"):
    """Compare the server with its peers under load, each figure with its limit, met or missed.

    Takes about 15 minutes on 2 cores, more than half of them for a million requests.

    Example: python -m benchmarks cloud --only front,overload --out cloud.json
    """

    only: tuple[CloudGroup, ...] = field("groups to measure, all if not given", default=())
    peer_rounds: int = field(
        "alternating rounds of the comparison with MLServer; fewer are quicker and noisier",
        default=8,
        least=1,
    )
    rounds: int = field(
        "alternating rounds of the comparison with a bare handler", default=60, least=1
    )
    overload_rounds: int = field(
        "rounds of loads up to three times the capacity", default=3, least=1
    )
    fairness_rounds: int = field(
        "rounds of one caller beside the largest calls of another", default=3, least=1
    )
    drains: int = field("times that one of two servers is stopped under load", default=8, least=1)
    connections: int = field(
        "idle connections next to a busy one; each needs an open file on both sides",
        default=2000,
        least=1,
    )
    requests: int = field(
        "requests while memory is watched; many, for the limit is one byte per request",
        default=1_000_000,
        least=1,
    )
    seed: int = field("seed of weights, requests and the times of calls", default=0, least=0)


@dataclass(frozen=True, kw_only=True)
class LatencySettings(ResultFile, does="benchmarks.latency:measure"):
    """Time a bundle on this device: calls answered here, and deferred calls where --cloud is given.

    For a language model's bundle: the time to the first token, of each further token, and to the
    verdict, separately for what the edge answers and what it defers.

    Example: python -m benchmarks latency --bundle runs/demo/bundle-tuned --cloud localhost:8001
    """

    bundle: Path = field("bundle folder", word=True)
    cloud: str | None = field("host:port of the large model", default=None)
    model: str = field("the large model's name on that server", default=contract.DEFAULT_MODEL)
    calls: int | None = field(
        "timed calls of each kind (default: 1000, for a language model 100)", default=None, least=1
    )
    prompts: Path | None = field(
        "file with one prompt per line, for a language model (default: one built-in prompt)",
        default=None,
    )
    threads: int | None = field(
        "threads of one run on the edge (default: one per core)", default=None, least=1
    )
    deadline_s: float = field("longest wait for the cloud, in seconds", default=5.0, above=0)
    seed: int = field("seed of the random picture", default=0, least=0)


@dataclass(frozen=True, kw_only=True)
class GuaranteeSettings(ResultFile, does="benchmarks.calibration.guarantee:measure"):
    """Choose thresholds on many calibration draws, and count how often the risk exceeds the bound.

    The populations are known exactly, and so is the true risk of a threshold. Fails when there are
    more violations than delta allows (one-sided binomial test at 0.001).

    Example: python -m benchmarks guarantee --out guarantee.json
    """

    draws: int = field("calibration draws from each population", default=2000, least=1)
    size: int = field("inputs per draw", default=5000, least=1)
    max_risk: float = field("bound of the risk, e", default=0.05, above=0, below=1)
    delta: float = field("allowed share of violations, d", default=0.05, above=0, below=1)
    seed: int = field("seed of populations and draws", default=0, least=0)
    samples: Path = field(
        "result folder whose inputs are the third population",
        default=Path(__file__).parents[1] / "results" / "cifar10-jpeg",
    )


@dataclass(frozen=True, kw_only=True)
class QuantizationSettings(ResultFile, does="benchmarks.calibration.quantization:measure"):
    """Export a model in every precision, and compare size, time, accuracy and decisions.

    Every bundle is calibrated as it ships, for each goal in turn. Accuracy, deferral ratio, flips
    and whether a guarantee held are measured on the test split. A precision or goal that is not
    possible is listed with the reason.

    Example: python -m benchmarks quantization --checkpoint runs/small --data digits
    """

    checkpoint: Path = field("checkpoint folder")
    program: Path | None = field("the same model as a torch.export program, to add", default=None)
    onnx: Path | None = field("the same model as an ONNX file from elsewhere, to add", default=None)
    data: str = field("data set to calibrate and test on", default="digits")
    split: Literal["validation", "test"] = field(
        "split to choose the thresholds on; the figures are of test", default="validation"
    )
    kinds: tuple[str, ...] = field("precisions", default=KINDS)
    goals: tuple[str, ...] = field(
        f"goals to calibrate for, NAME=VALUE of {', '.join(GOALS)}; flips are counted for the "
        "first",
        default=("target-deferral=0.3",),
        nonempty=True,
    )
    large: Path | None = field("checkpoint folder of M_L, for max-harm", default=None)
    rounds: int = field("alternating rounds of the timing", default=20, least=1)
    threads: int | None = field("threads of one run (default: one per core)", default=None, least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or "none" not in self.kinds:
            raise SettingError(
                f"expected --kinds among {', '.join(KINDS)}, with none (the float graph) among "
                f"them, got {', '.join(self.kinds)}"
            )
        for goal in self.goals:
            goal_flags(goal, self.large)

    @property
    def sources(self) -> dict[str, Path]:
        """The files and folders that hold the model, by the flag of `export` that takes them."""
        named = {name: getattr(self, name) for name in SOURCES}
        return {name: path for name, path in named.items() if path is not None}


def goal_flags(goal: str, large: Path | None) -> dict[str, Any]:
    """Return `export`'s settings for a goal like `max-risk=0.05`.

    Raises:
        SettingError: It is not a goal, or M_L is missing for it.
    """
    name, _, text = goal.partition("=")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if name not in GOALS or not 0.0 <= value <= 1.0:
        raise SettingError(
            f"expected --goals like target-deferral=0.3, of {', '.join(GOALS)} with a value in "
            f"[0, 1], got {goal}"
        )
    if name != "max-harm":
        return {name.replace("-", "_"): value}
    if large is None:
        raise SettingError("expected --large CHECKPOINT with the goal max-harm")
    return {"max_harm": value, "large": large}
