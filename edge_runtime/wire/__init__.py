"""The Open Inference Protocol for both sides of a cascade: messages, tensors, addresses."""
