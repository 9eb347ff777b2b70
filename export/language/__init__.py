"""Exports causal language models: one graph for prefill and decode, with a running gate."""
