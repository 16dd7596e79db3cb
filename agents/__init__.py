"""Policy gradient agents on Stable-Baselines3.

base.py has the training loop; each algorithm's file has its policy step. docs/extending.md shows how to add
an algorithm, a distribution, a policy, a critic fit or a Fisher operator.
"""

import agents.shadowed  # noqa: F401  # first: the others import npg
from agents.acktr import ACKTR
from agents.base import PolicyGradientAgent
from agents.cpo import CPO
from agents.critic import Critic, CriticFit, register_critic
from agents.loaded_policy import LoadedPolicy, load
from agents.natural_gradient import NaturalGradientAgent, register_fisher
from agents.npg import NPG
from agents.policy.actor import PolicyActor
from agents.policy.distributions import register_distribution
from agents.policy.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, register_policy
from agents.policy.recurrent.policies import CnnLstmPolicy, MlpLstmPolicy, MultiInputLstmPolicy
from agents.registry import ALGORITHMS, REGISTRY, Algorithm, Interval, register_algorithm
from agents.rollout.batch import Batch
from agents.rollout.finite import NonFiniteError
from agents.trpo import TRPO
from agents.vpg import VPG

__all__ = [
    "ACKTR",
    "ALGORITHMS",
    "CPO",
    "NPG",
    "REGISTRY",
    "TRPO",
    "VPG",
    "Algorithm",
    "Batch",
    "CnnLstmPolicy",
    "CnnPolicy",
    "Critic",
    "CriticFit",
    "Interval",
    "LoadedPolicy",
    "MlpLstmPolicy",
    "MlpPolicy",
    "MultiInputLstmPolicy",
    "MultiInputPolicy",
    "NaturalGradientAgent",
    "NonFiniteError",
    "PolicyActor",
    "PolicyGradientAgent",
    "load",
    "register_algorithm",
    "register_critic",
    "register_distribution",
    "register_fisher",
    "register_policy",
]
