"""Runs: settings, folders, logs, checkpoints, grids."""
