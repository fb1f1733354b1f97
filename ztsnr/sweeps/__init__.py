"""Sweeps, Hydra's multirun: one record of all runs, in which a failing run does not stop the others."""
