"""Measures the speed of generation beside other ways to generate."""
