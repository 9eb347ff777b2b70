"""Measures cascades of language models: the demo of a task."""
