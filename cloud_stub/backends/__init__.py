"""Models of every kind behind one protocol, `Backend`."""
