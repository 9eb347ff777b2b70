"""Keeps inputs for a later retuning."""
