"""Environments whose states are tensors: all environments take one step in a few operations on one device."""
