"""Checks the guarantees of generation on the device: `python -m benchmarks decoding`."""
