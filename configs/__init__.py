"""Experiments, and the reading of them."""
