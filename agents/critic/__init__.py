"""Fit the value function."""

from agents.critic.critic import Critic, CriticFit
from agents.critic.lbfgs import LbfgsCritic
from agents.critic.minibatch import MinibatchCritic

__all__ = ["CRITICS", "Critic", "CriticFit", "LbfgsCritic", "MinibatchCritic"]

# By the name that an agent's `critic_fit` takes.
CRITICS: dict[str, type[Critic]] = {"minibatch": MinibatchCritic, "lbfgs": LbfgsCritic}
