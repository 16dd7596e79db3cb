"""Moved to `experiments.evaluate`."""

from agents.moved import moved

moved(__name__, "evaluate")
