"""Answers generation calls: engine, checkpoint, upstream."""
