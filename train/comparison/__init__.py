"""Figures of M_S and M_L on the same inputs, with intervals, and the files that hold them."""
