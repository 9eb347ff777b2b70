"""Prompts that verify a language model where no task is at hand."""

from typing import Final

PROMPTS: Final = (
    "What is it?",
    "Text: a short text\nLabel:",
    "Once upon a time, there was",
    "1 + 2 =",
)
