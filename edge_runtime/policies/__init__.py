"""Policies of a cascade: its mode, a deferral budget, an alarm for drifting inputs.

Each is imported from its own module, and all of them need the standard library alone.
"""
