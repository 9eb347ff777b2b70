"""Files by which Triton or KServe serves the large model."""
