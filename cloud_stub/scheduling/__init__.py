"""Order and timing of the model's work: one fair queue and one dynamic batcher per model."""
