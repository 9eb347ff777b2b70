"""The commands for language models: made, converted, fitted, tuned and evaluated."""
