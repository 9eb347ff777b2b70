"""Fuses preprocessing, model and gate into one ONNX graph, and chooses its threshold."""
