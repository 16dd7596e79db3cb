"""The base class of critic fits, which undoes a fit that produces NaN or infinity."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from agents.policy.policies import MlpPolicy
from agents.policy.snapshot import Snapshot
from agents.rollout.batch import Batch
from npg import host


@dataclass(frozen=True)
class CriticFit:
    """The result of one critic fit.

    Attributes:
        loss: the mean squared error before the steps, in squared units of the return; NaN if there was
            nothing to fit, or the fit was rejected.
        rejected: whether a number was not finite; if so, nothing was changed.
    """

    loss: float
    rejected: bool


class Critic(ABC):
    """Fit a policy's values to the returns of a batch.

    A subclass implements `_losses`, which changes the critic's parameters. If a number is not finite, `fit`
    rejects the fit: parameters, optimizer and return statistics are restored bitwise.

    Args:
        policy: provides `predict_values` and `optimizer`.
        parameters: the critic's own parameters, which the action distribution does not depend on.
        passes: passes over the batch per fit.
        batch_size: states per step; None for all states. Not every fit uses it.
    """

    draws_random_numbers: ClassVar[bool] = True

    def __init__(
        self,
        policy: ActorCriticPolicy,
        parameters: Sequence[Tensor],
        *,
        passes: int,
        batch_size: int | None = None,
    ):
        self.policy = policy
        self.parameters = parameters
        self.passes = passes
        self.batch_size = batch_size

    def fit(self, batch: Batch) -> CriticFit:
        """Update the return normaliser with the returns, then fit the values to them."""
        normaliser = self.policy if isinstance(self.policy, MlpPolicy) else None
        statistics = [] if normaliser is None else normaliser.written_by_returns()
        if not (self.parameters or statistics):
            return CriticFit(math.nan, False)
        before = Snapshot([*self.parameters, *statistics], self.policy.optimizer)
        if normaliser is not None:
            normaliser.observe_returns(batch.returns)
        losses = self._losses(batch) if self.passes and self.parameters else []
        numbers = host.read(
            finite=before.still_finite(), **{f"loss {i}": loss for i, loss in enumerate(losses)}
        )
        finite = numbers.pop("finite")
        loss = sum(numbers.values()) / len(losses) if losses else math.nan
        if finite and (math.isfinite(loss) or not losses):
            return CriticFit(loss, False)
        before.restore()
        return CriticFit(math.nan, True)

    @abstractmethod
    def _losses(self, batch: Batch) -> list[Tensor]:
        """Change the parameters and return the mean squared error before each step, 0-d."""


def return_unit(policy: ActorCriticPolicy) -> Tensor:
    """Return the unit of the last layer's output, as a multiple of the return's unit, 0-d."""
    moments = policy.return_moments if isinstance(policy, MlpPolicy) else None
    return torch.ones((), device=policy.device) if moments is None else moments.deviation


def last_layer(policy: ActorCriticPolicy) -> nn.Module:
    """Return the last linear layer of the value network, or the whole network if it has none."""
    layers = [module for module in policy.value_net.modules() if isinstance(module, nn.Linear)]
    return layers[-1] if layers else policy.value_net


def shuffled(states: int, batch_size: int | None, device: torch.device) -> tuple[Tensor, ...]:
    """Return the indices of random minibatches on a device; the order comes from torch's CPU generator."""
    return torch.randperm(states).to(device).split(batch_size or states)
