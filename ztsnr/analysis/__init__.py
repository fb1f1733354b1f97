"""Describes objectives in tables and figures, without a network."""
