"""Fit the value function."""

from agents.critic.critic import Critic, CriticFit
from agents.critic.lbfgs import LbfgsCritic
from agents.critic.minibatch import MinibatchCritic
from agents.policy.names import check_new

__all__ = ["CRITICS", "Critic", "CriticFit", "LbfgsCritic", "MinibatchCritic", "register_critic"]

# By the name in an agent's argument `critic_fit`.
CRITICS: dict[str, type[Critic]] = {"minibatch": MinibatchCritic, "lbfgs": LbfgsCritic}


def register_critic(name: str, critic_class: type[Critic]) -> None:
    """Make a fit of the value function available as ``critic_fit=name``.

    Raises:
        ValueError: the name is taken.
    """
    check_new(name, CRITICS, "critic fit")
    CRITICS[name] = critic_class
