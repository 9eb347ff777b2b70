"""What computes the answers, each kind of model behind one protocol."""
