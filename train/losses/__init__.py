"""The losses as pure torch functions, without settings."""
