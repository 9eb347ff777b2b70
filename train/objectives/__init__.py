"""The losses that the commands offer, as the training loop calls them."""

from train.objectives.abstention import DeepGamblers, SelfAdaptive
from train.objectives.basic import (
    CascadeAware,
    CrossEntropy,
    Distillation,
    Gatekeeper,
    Objective,
    Step,
)
from train.objectives.heads import Auxiliary

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
