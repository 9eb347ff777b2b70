"""Servers of others that the cloud side is measured beside."""
