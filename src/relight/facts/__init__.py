"""What follows from checkpoint, target, environment and intent: derived, cached, pure."""
