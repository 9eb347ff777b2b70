"""The command line `python -m train`."""

import sys

from edge_runtime.cli import main
from train.classifier.settings import (
    ConvertSettings,
    DeferralHeadSettings,
    DistillSettings,
    EvaluateSettings,
    FitSettings,
    HarvestSettings,
    TuneSettings,
)
from train.language.settings import (
    ConvertLanguageSettings,
    EvaluateLanguageSettings,
    FitLanguageSettings,
    NewLanguageSettings,
    TuneLanguageSettings,
)
from train.sweeps.settings import RecommendSettings, SweepSettings
from train.tasks import TasksSettings

COMMANDS = {
    "fit": FitSettings,
    "distill": DistillSettings,
    "tune": TuneSettings,
    "deferral-head": DeferralHeadSettings,
    "evaluate": EvaluateSettings,
    "evaluate-lm": EvaluateLanguageSettings,
    "sweep": SweepSettings,
    "recommend": RecommendSettings,
    "convert": ConvertSettings,
    "harvest": HarvestSettings,
    "new-lm": NewLanguageSettings,
    "convert-lm": ConvertLanguageSettings,
    "fit-lm": FitLanguageSettings,
    "tune-lm": TuneLanguageSettings,
    "tasks": TasksSettings,
}

DEFAULT = None

if __name__ == "__main__":
    sys.exit(main("python -m train", COMMANDS, default=DEFAULT))
