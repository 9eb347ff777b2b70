"""Measures the time and memory that the gate and the loss add."""
