"""What `python -m benchmarks cloud` measures: servers of a large model under load."""
