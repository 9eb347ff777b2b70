"""Records deferred inputs with M_L's answers, for later training of M_S."""
