"""Moved to `experiments.export`."""

from agents.moved import moved

moved(__name__, "export")
