"""What the gate and the loss add in time and memory."""
