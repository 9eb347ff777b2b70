"""`python -m benchmarks`."""

import sys

from benchmarks.calibration.guarantee import GuaranteeSettings
from benchmarks.calibration.quantization import QuantizationSettings
from benchmarks.cascade.check import CheckSettings, ReportSettings
from benchmarks.cascade.demo import DemoSettings
from benchmarks.cascade.harvest import HarvestBenchmarkSettings
from benchmarks.language.promises.command import DecodingSettings
from benchmarks.language.speed.command import GenerationSettings
from benchmarks.latency import LatencySettings
from benchmarks.losses.linear import LinearLossSettings
from benchmarks.losses.overhead import OverheadSettings
from benchmarks.runtime.command import RuntimeSettings
from benchmarks.serving.command import CloudSettings
from benchmarks.tasks import TasksSettings
from edge_runtime.cli import main

COMMANDS = {
    "cloud": CloudSettings,
    "decoding": DecodingSettings,
    "demo": DemoSettings,
    "generation": GenerationSettings,
    "guarantee": GuaranteeSettings,
    "harvest": HarvestBenchmarkSettings,
    "latency": LatencySettings,
    "linear-loss": LinearLossSettings,
    "overhead": OverheadSettings,
    "quantization": QuantizationSettings,
    "report": ReportSettings,
    "runtime": RuntimeSettings,
    "tasks": TasksSettings,
    "check": CheckSettings,
}

DEFAULT = None

if __name__ == "__main__":
    sys.exit(main("python -m benchmarks", COMMANDS, default=DEFAULT))
