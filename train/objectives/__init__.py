"""The losses that the commands offer, in the form the training loop wants them."""

from train.objectives.auxiliary import Auxiliary
from train.objectives.base import Objective, Step
from train.objectives.cascade_aware import CascadeAware
from train.objectives.cross_entropy import CrossEntropy
from train.objectives.deep_gamblers import DeepGamblers
from train.objectives.distillation import Distillation
from train.objectives.gatekeeper import Gatekeeper
from train.objectives.self_adaptive import SelfAdaptive

__all__ = [
    "Auxiliary",
    "CascadeAware",
    "CrossEntropy",
    "DeepGamblers",
    "Distillation",
    "Gatekeeper",
    "Objective",
    "SelfAdaptive",
    "Step",
]
