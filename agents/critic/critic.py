"""The base class of critic fits, which undoes a fit that produces NaN or infinity."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from agents.policy.policies import MlpPolicy
from agents.policy.recurrent.sequences import Sequences
from agents.policy.snapshot import Snapshot
from agents.ranks import ONE, Ranks
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
        ranks: the processes that fit the same critic, each with its own states; the fit averages over all.
    """

    draws_random_numbers: ClassVar[bool] = True

    def __init__(
        self,
        policy: ActorCriticPolicy,
        parameters: Sequence[Tensor],
        *,
        passes: int,
        batch_size: int | None = None,
        ranks: Ranks = ONE,
    ):
        self.policy = policy
        self.parameters = parameters
        self.passes = passes
        self.batch_size = batch_size
        self.ranks = ranks

    def fit(self, batch: Batch) -> CriticFit:
        """Update the return normaliser with the returns, then fit the values to them."""
        normaliser = self.policy if isinstance(self.policy, MlpPolicy) else None
        statistics = [] if normaliser is None else normaliser.written_by_returns()
        if not (self.parameters or statistics):
            return CriticFit(math.nan, False)
        before = Snapshot([*self.parameters, *statistics], self.policy.optimizer)
        if normaliser is not None:
            normaliser.observe_returns(batch.returns, self.ranks)
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

    def averaged(
        self, loss: Tensor, gradients: Sequence[Tensor | None], states: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Return a mean over states, 0-d, and its gradients by the parameters, over the states of all ranks.

        Args:
            loss: the mean over this rank's states; not read if there are none.
            gradients: its gradients; None for one that is zero.
            states: the number of this rank's states.
        """
        filled = [
            torch.zeros_like(p) if g is None else g for g, p in zip(gradients, self.parameters, strict=True)
        ]
        if not self.ranks.several:
            return loss, filled
        packed = torch.cat([loss.reshape(1), *(gradient.reshape(-1) for gradient in filled)])
        loss, *parts = self.ranks.mean(packed, states).split([1, *(p.numel() for p in self.parameters)])
        return loss.squeeze(), [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]


def return_unit(policy: ActorCriticPolicy) -> Tensor:
    """Return the unit of the last layer's output, as a multiple of the return's unit, 0-d."""
    moments = policy.return_moments if isinstance(policy, MlpPolicy) else None
    return torch.ones((), device=policy.device) if moments is None else moments.deviation


def last_layer(policy: ActorCriticPolicy) -> nn.Module:
    """Return the last linear layer of the value network, or the whole network if it has none."""
    layers = [module for module in policy.value_net.modules() if isinstance(module, nn.Linear)]
    return layers[-1] if layers else policy.value_net


def shuffled(batch: Batch, batch_size: int | None, ranks: Ranks = ONE) -> list[Tensor]:
    """Return the indices of random minibatches among this rank's states, on their device.

    A minibatch contains `batch_size` states of all ranks' batches together, so the number of this rank's
    varies and may be 0. Sequences are not divided: a minibatch has as many as have at most `batch_size`
    states together, but at least one. The order comes from torch's CPU generator, that of rank 0.
    """
    device, sequences = batch.returns.device, batch.observations
    recurrent = isinstance(sequences, Sequences)
    counts = ranks.gather(len(sequences.lengths) if recurrent else len(batch), "the number of states")
    order = ranks.of_first(torch.randperm(sum(counts)).to(device), "the order of minibatches")
    first = sum(counts[: ranks.rank])
    own = range(first, first + counts[ranks.rank])
    if recurrent:
        lengths = [length for part in ranks.gather(sequences.lengths, "the sequences") for length in part]
        parts = grouped(order.tolist(), lengths, batch_size or sum(lengths))
        states = (sequences.states_of(np.array([i - first for i in part if i in own], int)) for part in parts)
        return [torch.as_tensor(indices, device=device) for indices in states]
    minibatches = order.split(batch_size or len(order))
    if not ranks.several:
        return list(minibatches)
    return [part[(first <= part) & (part < own.stop)] - first for part in minibatches]


def grouped(order: list[int], lengths: Sequence[int], most: int) -> list[list[int]]:
    """Divide sequences, in this order, into groups of at most `most` states, or of one sequence."""
    groups: list[list[int]] = [[]]
    states = 0
    for i in order:
        if groups[-1] and states + lengths[i] > most:
            groups.append([])
            states = 0
        groups[-1].append(i)
        states += lengths[i]
    return groups
