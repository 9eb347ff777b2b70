"""Compares the speed of generation with other engines: `python -m benchmarks generation`."""
