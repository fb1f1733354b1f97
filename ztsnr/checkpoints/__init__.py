"""Weights and training states as files: written, found, and loaded."""
