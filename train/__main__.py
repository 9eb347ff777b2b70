"""`python -m train`."""

import sys

from edge_runtime.cli import main
from train.classifier.convert import ConvertSettings
from train.classifier.deferral_head import DeferralHeadSettings
from train.classifier.distill import DistillSettings
from train.classifier.evaluate import EvaluateSettings
from train.classifier.fit import FitSettings
from train.classifier.harvest import HarvestSettings
from train.classifier.tune import TuneSettings
from train.language.settings import (
    ConvertLanguageSettings,
    EvaluateLanguageSettings,
    FitLanguageSettings,
    NewLanguageSettings,
    TuneLanguageSettings,
)
from train.sweeps.recommend import RecommendSettings
from train.sweeps.settings import SweepSettings
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
