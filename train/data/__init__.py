"""Labelled pictures by name, by folder or by file; free of torch.

`export` and `cloud_stub` may import this package of `train`.
"""

from train.data.labelled import Kind, LabelledData, Splits
from train.data.loading import load, load_all

__all__ = ["Kind", "LabelledData", "Splits", "load", "load_all"]
