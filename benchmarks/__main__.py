"""`python -m benchmarks`."""

import sys

from benchmarks.check import CheckSettings
from benchmarks.cloud import CloudSettings
from benchmarks.decoding.command import DecodingSettings
from benchmarks.demo import DemoSettings
from benchmarks.generation.command import GenerationSettings
from benchmarks.guarantee import GuaranteeSettings
from benchmarks.harvest import HarvestBenchmarkSettings
from benchmarks.latency import LatencySettings
from benchmarks.linear_loss import LinearLossSettings
from benchmarks.overhead import OverheadSettings
from benchmarks.quantization import QuantizationSettings
from benchmarks.report import ReportSettings
from benchmarks.runtime import RuntimeSettings
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

if __name__ == "__main__":
    sys.exit(main("python -m benchmarks", COMMANDS))
