"""Fits, tunes and judges causal language models on tasks of prompts and answers."""
