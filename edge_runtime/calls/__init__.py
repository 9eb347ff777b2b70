"""The calls of a cascade: their threads, and their end."""
