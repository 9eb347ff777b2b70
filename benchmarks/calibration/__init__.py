"""Whether certificates hold, and whether quantization keeps them."""
