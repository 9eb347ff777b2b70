"""Figures of `edge_runtime`."""
