"""The demo of a cascade of language models."""
