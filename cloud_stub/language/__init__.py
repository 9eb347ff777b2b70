"""Text generation: answers, engine, checkpoint, bundle, upstream."""
