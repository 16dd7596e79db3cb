"""Collect trajectories and turn them into a batch."""
