"""Experiment records."""
