"""Fuses preprocessing, model and gate into one ONNX graph, and chooses its threshold."""

from edge_runtime import __version__ as __version__  # its import switches off what libraries report
