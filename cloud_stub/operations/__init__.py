"""Tools for the operator: TLS and tokens, logs, metrics, health, reflection."""
