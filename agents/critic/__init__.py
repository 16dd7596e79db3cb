"""Fit the value function."""
