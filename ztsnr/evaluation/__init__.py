"""Measuring a network: validation, samples and sample quality."""
