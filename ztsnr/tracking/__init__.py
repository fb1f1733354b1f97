"""The record of runs in MLflow: written to a spool in the run's folder first, and delivered from there."""
