"""The commands `run`, `generate` and `doctor`, and the flags they share."""
