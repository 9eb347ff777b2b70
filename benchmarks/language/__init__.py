"""Measurements of text generation: a demo, guarantees, and speed."""
