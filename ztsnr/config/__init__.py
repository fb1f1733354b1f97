"""Hydra: the registry of conf/, the commands' command line, and what identifies a config."""
