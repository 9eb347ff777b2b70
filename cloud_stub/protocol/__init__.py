"""Calls of the Open Inference Protocol, from request bytes to response bytes."""
