"""The demo cascade: train, measure, report, check."""
