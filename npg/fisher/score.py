"""Covariances of the score s = ∇log π(a | s): over actions drawn from the policy, or over given ones."""

from typing import Any

import torch
from torch import Generator, Tensor, nn

from npg.distributions import Coordinates, Distribution
from npg.fisher.state_mean import StateMean, StateSum
from npg.policy import evaluate
from npg.reduction import Reduce, identity

# Every sample lengthens a chain in the graph, which is destroyed recursively: 30 000 overflow the stack.
MOST_SAMPLES = 10_000


class _ScoreCovariance(StateMean):
    """1/(N k) Σ s sᵀ over the scores of k actions per state, which are passed as further data."""

    def linearise(self, observations: Any, *actions: Tensor) -> StateSum:
        """Return v ↦ 1/k Σ s (sᵀv) over states and k actions: Jᵀ M J with outputs log π and metric I / k."""

        def log_prob(policy: Distribution) -> Coordinates:
            return (torch.stack([policy.log_prob(action) for action in actions]),)

        policy, jacobian = self.jacobian(observations, log_prob)

        def product(vector: Tensor) -> Tensor:
            (derivative,) = jacobian.push_forward(self.parameters.unflatten(vector))
            return self.parameters.flatten(jacobian.pull_back((derivative / len(actions),)))

        return StateSum(product, policy.coordinates[0].shape[:-1].numel())


class EmpiricalFisher(_ScoreCovariance):
    """1/N Σ s sᵀ over the scores s = ∇log π(a | s) of given actions: the covariance of the score.

    It tends to the Fisher matrix as N grows if the actions were drawn from this very policy. Otherwise it can
    be far from it (Kunstner et al. 2019, "Limitations of the empirical Fisher approximation"):
    `npg.relative_gap` measures how far.

    Other arguments, and errors, are those of `ExactFisher`.

    Args:
        actions: one per state, shaped as the distribution's `log_prob` takes them.
    """

    def __init__(
        self,
        actor: nn.Module,
        observations: Any,
        actions: Tensor,
        *,
        micro_batch_size: int | None = None,
        reduce: Reduce = identity,
    ):
        super().__init__(actor, observations, actions, micro_batch_size=micro_batch_size, reduce=reduce)


class SampledFisher(_ScoreCovariance):
    """1/(N k) Σ s sᵀ over the scores of k actions per state, drawn from the policy itself.

    It is an unbiased estimate of F with a relative error that falls as 1/√(N k). The actions are drawn only
    once, so every product is with the same matrix.

    Other arguments, and errors, are those of `ExactFisher`.

    Args:
        samples: k, from 1 to 10 000.
        generator: source of the actions, on the policy's device; torch's global one by default.
    """

    def __init__(
        self,
        actor: nn.Module,
        observations: Any,
        *,
        samples: int = 1,
        generator: Generator | None = None,
        micro_batch_size: int | None = None,
        reduce: Reduce = identity,
    ):
        if not 1 <= samples <= MOST_SAMPLES:
            raise ValueError(
                f"SampledFisher takes 1 to {MOST_SAMPLES} samples per state, got {samples}; for less noise "
                "use more states, or ExactFisher, which has none"
            )
        with torch.no_grad():
            policy = evaluate(actor, observations)
        actions = [policy.sample(generator) for _ in range(samples)]
        super().__init__(actor, observations, *actions, micro_batch_size=micro_batch_size, reduce=reduce)
