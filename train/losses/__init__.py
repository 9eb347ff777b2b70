"""The Gatekeeper loss as pure torch functions, without settings."""
