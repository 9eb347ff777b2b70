"""Measures the chain: what the user gets, how fast, and whether the printed figures are true."""

import edge_runtime  # noqa: F401 - switches off what libraries report, before their import
