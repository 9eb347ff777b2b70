"""What an operator holds in hand: TLS and tokens, logs, metrics, health, reflection."""
