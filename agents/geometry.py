"""Moved to `experiments.geometry`."""

raise ImportError("agents.geometry is now experiments.geometry")
