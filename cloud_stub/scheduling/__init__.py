"""When the model works on what: one fair queue and one dynamic batcher a model."""
