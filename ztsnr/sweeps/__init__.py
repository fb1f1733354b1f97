"""Multirun: one record of all runs, in which what goes wrong in a run stays in it."""
