"""Language models: what trains them, what they answer, and how they are compared."""
