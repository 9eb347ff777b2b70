"""Measures the server of M_L under load: `python -m benchmarks cloud`."""
