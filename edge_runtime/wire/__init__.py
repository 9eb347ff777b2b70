"""The Open Inference Protocol as both sides of a cascade speak it: messages, tensors, addresses."""
