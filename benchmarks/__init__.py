"""Measures the chain: what the user gets, how fast, and whether the printed figures are true."""
