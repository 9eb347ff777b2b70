"""Measures of calibration: certificates, and quantization."""
