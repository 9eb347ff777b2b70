"""Figures that compare two models on one split."""
