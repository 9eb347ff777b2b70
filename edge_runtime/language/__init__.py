"""Decodes on the device: a gated language model in ONNX Runtime, step by step.

`Decoder.open("bundle").generate(["..."])` answers prompts greedily and says of each answer whether
the large model should give it instead; `stream` gives the text while it is generated.
"""

from edge_runtime.language.decoder import Decoder
from edge_runtime.language.generation import Ended, Generation, GenerationTimings

__all__ = ["Decoder", "Ended", "Generation", "GenerationTimings"]
