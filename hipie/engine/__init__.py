"""Training: trainer, optimizer, learning-rate schedule, event writers, processes."""
