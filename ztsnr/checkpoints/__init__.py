"""Saves, finds and loads files of weights and of training states."""
