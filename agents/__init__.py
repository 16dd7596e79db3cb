"""Policy gradient agents on Stable-Baselines3: four answers to how long a step is."""

from agents.npg import NPG
from agents.rollouts import NonFiniteError
from agents.trpo import TRPO
from agents.vpg import VPG

__all__ = ["NPG", "TRPO", "VPG", "NonFiniteError"]
