"""`python -m benchmarks`."""

import sys

from benchmarks.commands.cascade import (
    CheckSettings,
    DemoSettings,
    HarvestBenchmarkSettings,
    ReportSettings,
)
from benchmarks.commands.figures import (
    CloudSettings,
    EncodingSettings,
    GuaranteeSettings,
    LatencySettings,
    LinearLossSettings,
    OverheadSettings,
    QuantizationSettings,
    RuntimeSettings,
)
from benchmarks.commands.language import DecodingSettings, GenerationSettings, TasksSettings
from edge_runtime.cli import main

COMMANDS = {
    "cloud": CloudSettings,
    "decoding": DecodingSettings,
    "demo": DemoSettings,
    "encoding": EncodingSettings,
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
