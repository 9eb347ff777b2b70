"""Where a graph of logits comes from: a checkpoint, a program of `torch.export`, an ONNX file."""

from export.sources.opening import open_source
from export.sources.source import Inputs, Source

__all__ = ["Inputs", "Source", "open_source"]
