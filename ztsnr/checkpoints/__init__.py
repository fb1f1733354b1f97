"""Weights and training states as files: saved, found, and loaded."""
