"""A gated language model on the device, decoded step by step in ONNX Runtime.

`Decoder.open("bundle").generate(["..."])` answers prompts greedily and decides for each answer
whether the large model should give it instead; `stream` yields the text while it is generated.
"""

from edge_runtime.language.decoder import Decoder
from edge_runtime.language.generation import Ended, Generation, GenerationTimings

__all__ = ["Decoder", "Ended", "Generation", "GenerationTimings"]
