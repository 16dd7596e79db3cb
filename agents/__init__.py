"""Policy gradient agents on Stable-Baselines3: four answers to how long a step is."""

from agents.acktr import ACKTR
from agents.base import PolicyGradientAgent
from agents.npg import NPG
from agents.rollout.finite import NonFiniteError
from agents.trpo import TRPO
from agents.vpg import VPG

__all__ = ["ACKTR", "ALGORITHMS", "NPG", "TRPO", "VPG", "NonFiniteError"]

ALGORITHMS: dict[str, type[PolicyGradientAgent]] = {"vpg": VPG, "npg": NPG, "trpo": TRPO, "acktr": ACKTR}
