"""A small server of the Open Inference Protocol for the large model of a cascade."""
