"""Labelled pictures by name, by folder or by file; free of torch.

`export` and `cloud_stub` may import this package of `train`.
"""

from train.data.additions import load_unlabelled, with_extra, with_unlabelled
from train.data.labelled import NO_LABEL, Kind, LabelledData, Splits
from train.data.loading import load, load_all, load_train

__all__ = [
    "NO_LABEL",
    "Kind",
    "LabelledData",
    "Splits",
    "load",
    "load_all",
    "load_train",
    "load_unlabelled",
    "with_extra",
    "with_unlabelled",
]
