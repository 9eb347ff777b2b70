"""Reads what callers pass: arrays, pictures, texts and their files, as batches of a graph."""
