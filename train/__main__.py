"""`python -m train`."""

import sys

from edge_runtime.cli import main
from train.convert import ConvertSettings
from train.deferral_head import DeferralHeadSettings
from train.distill import DistillSettings
from train.evaluate import EvaluateSettings
from train.fit import FitSettings
from train.harvest import HarvestSettings
from train.language.convert import ConvertLanguageModelSettings
from train.sweeps.recommend import RecommendSettings
from train.sweeps.settings import SweepSettings
from train.tune import TuneSettings

COMMANDS = {
    "fit": FitSettings,
    "distill": DistillSettings,
    "tune": TuneSettings,
    "deferral-head": DeferralHeadSettings,
    "evaluate": EvaluateSettings,
    "sweep": SweepSettings,
    "recommend": RecommendSettings,
    "convert": ConvertSettings,
    "harvest": HarvestSettings,
    "convert-lm": ConvertLanguageModelSettings,
}

if __name__ == "__main__":
    sys.exit(main("python -m train", COMMANDS))
