"""Labelled pictures by name, by folder or by file; free of torch.

`export` and `cloud_stub` may import this package of `train`.
"""

from train.data.images import ImageData, Splits
from train.data.loading import load

__all__ = ["ImageData", "Splits", "load"]
