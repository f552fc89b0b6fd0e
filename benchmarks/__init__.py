"""Measurements: what a step costs, and against what."""
