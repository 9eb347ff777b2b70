"""Fuses preprocessing, model and gate into one ONNX graph, and chooses its threshold."""

import edge_runtime  # noqa: F401 - switches off what libraries report, before their import
