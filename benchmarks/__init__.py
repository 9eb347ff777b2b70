"""Measures the chain: what the user gets, how fast, and whether the printed figures are true."""

from edge_runtime import __version__ as __version__  # its import switches off what libraries report
