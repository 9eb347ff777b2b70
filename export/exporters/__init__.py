"""Translate a checkpoint's model to ONNX: behind one seam, optimum or `torch.onnx`."""

from export.exporters.choice import Exporter, export_logits
from export.exporters.torch_onnx import OPSET, quiet

__all__ = ["OPSET", "Exporter", "export_logits", "quiet"]
