"""Record one update in the log."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from agents.critic import CriticFit
from agents.ranks import ONE, Ranks
from agents.rollout.batch import Batch
from npg import PolicyStep

if TYPE_CHECKING:
    from agents.base import PolicyGradientAgent

READ_BY_PEOPLE = ("stdout", "log", "tensorboard")  # SB3's names of formats


def record_update(
    agent: "PolicyGradientAgent", step: PolicyStep, fit: CriticFit, numbers: Mapping[str, float]
) -> None:
    """Count and record an update: numbers that SB3 has too under SB3's names, the others under ``npg/``.

    TensorBoard and the console leave out a count while it is 0, and what another number says already.

    Args:
        agent: the agent after the update.
        step: the update's policy step.
        fit: the update's critic fit.
        numbers: those of `measure`, read from the device.
    """
    agent.outcomes[step.rejection or "accepted"] += 1
    agent.critic_rejected += fit.rejected
    record = agent.logger.record
    record("train/policy_objective", step.surrogate)
    record("train/kl_divergence_loss", step.kl)
    record("train/is_line_search_success", float(step.accepted))
    record("train/value_loss", fit.loss)
    count(agent, "train/critic_rejected", agent.critic_rejected)
    for name, value in numbers.items():
        record(name, value)
    record("train/n_updates", agent._n_updates, exclude="tensorboard")
    replacements = getattr(agent.env, "replacements", None)
    if replacements is not None:  # of workers that died or timed out
        count(agent, "rollout/worker_replacements", replacements)
    twice = said_elsewhere(agent, step)
    for name, value in step.scalars().items():
        record(f"npg/{name}", value, exclude=READ_BY_PEOPLE if name in twice else None)
    if getattr(agent, "target_kl", None) is not None:
        agent.kl_exceeded += step.accepted and step.kl > 2 * agent.scheduled("target_kl")
        count(agent, "npg/kl_exceeded", agent.kl_exceeded)
    for outcome, number in agent.outcomes.items():
        if outcome == "accepted":  # all updates that were not rejected
            record("npg/accepted", number, exclude=READ_BY_PEOPLE)
        else:
            count(agent, f"npg/rejected/{outcome}", number)


def said_elsewhere(agent: "PolicyGradientAgent", step: PolicyStep) -> set[str]:
    """Return the names of a step's scalars that another logged number, or a setting, says already."""
    twice = {"kl"}  # train/kl_divergence_loss
    if agent.normalize_advantage:
        twice.add("gain")  # train/policy_objective, since the mean advantage is 0
    if not getattr(agent, "adaptive_damping", False) and step.damping == getattr(agent, "cg_damping", None):
        twice.add("damping")
    return twice


def count(agent: "PolicyGradientAgent", name: str, number: int) -> None:
    """Record a count of events; as long as there was none, only in the files that programs read."""
    agent.logger.record(name, number, exclude=None if number else READ_BY_PEOPLE)


def measure(policy: ActorCriticPolicy, batch: Batch, ranks: Ranks = ONE) -> dict[str, Tensor]:
    """Return what the log has of the policy and the batch, on the device."""
    numbers = {"train/explained_variance": explained_variance(batch.old_values, batch.returns, ranks)}
    if hasattr(policy, "log_std"):
        numbers["train/std"] = policy.log_std.exp().mean()
    return numbers


def explained_variance(values: Tensor, returns: Tensor, ranks: Ranks = ONE) -> Tensor:
    """Return the fraction of the returns' variance that values (N,) explain, 0-d; NaN without variance."""
    _, _, (variance, unexplained) = ranks.moments(torch.stack([returns, returns - values], dim=1))
    return torch.where(variance == 0, math.nan, 1 - unexplained / variance)
