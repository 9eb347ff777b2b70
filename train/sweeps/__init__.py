"""Trains many settings over several seeds, compares them, and names the one to take."""
