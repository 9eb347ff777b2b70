"""Tokens a second, compared with other engines."""
