"""The demo of a cascade of language models: `python -m benchmarks demo --task`."""
