"""Training: tasks, steps, the loop with exact resume, checkpoints, metrics, plans."""
