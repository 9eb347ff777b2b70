"""Measures what the edge runtime costs beyond its libraries: `python -m benchmarks runtime`."""
