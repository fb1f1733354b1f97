"""Objectives as tables and figures, without a network."""
