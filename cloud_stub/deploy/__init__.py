"""Hands the large model to an engine of others: files for Triton and for KServe."""
