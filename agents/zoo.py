"""Moved to `experiments.zoo`."""

from agents.moved import moved

moved(__name__, "zoo")
