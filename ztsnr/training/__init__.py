"""The trainer: one loop, its steps, optimizers and averages."""
