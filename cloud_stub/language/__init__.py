"""Text generation: answers, engine, checkpoint, upstream."""
