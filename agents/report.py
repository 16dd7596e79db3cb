"""Moved to `experiments.report`."""

from agents.moved import moved

moved(__name__, "report")
