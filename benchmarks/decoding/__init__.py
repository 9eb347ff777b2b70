"""Measures what a generation on the device promises, on graphs that `export lm` wrote."""
