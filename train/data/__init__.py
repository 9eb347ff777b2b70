"""Labelled pictures and texts by name, by folder or by file; without torch.

`export` and `cloud_stub` import this package and `train.models`, and nothing else of `train`.
"""

from train.data.additions import load_unlabelled, with_extra, with_unlabelled
from train.data.labelled import NO_LABEL, Kind, LabelledData, Splits
from train.data.readable import count_unreadable
from train.data.sets import load, load_all, load_train

__all__ = [
    "NO_LABEL",
    "Kind",
    "LabelledData",
    "Splits",
    "count_unreadable",
    "load",
    "load_all",
    "load_train",
    "load_unlabelled",
    "with_extra",
    "with_unlabelled",
]
