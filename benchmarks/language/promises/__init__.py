"""Exactness of generation on the device."""
