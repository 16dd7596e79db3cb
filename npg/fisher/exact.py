"""The Fisher information matrix of a policy as a linear operator.

For a policy π_θ(a | s) with score s_θ = ∇log π_θ and N states,

    F = 1/N Σ_s E_a[s_θ s_θᵀ] = 1/N Σ_s J_sᵀ M_s J_s,

where J is the Jacobian of the distribution's coordinates z (means, logits) in the parameters and M the
metric that the distribution knows in closed form. Who integrates the action, and how, is what the classes
here differ in:

| operator                 | matrix                                  | one product                          |
|--------------------------|-----------------------------------------|--------------------------------------|
| `ExactFisher`            | Jᵀ M J, the action integrated out       | 2 passes backward                    |
| `FiniteDifferenceFisher` | the same, J v by a forward difference   | 1 forward, 1 backward                |
| `SampledFisher`          | s sᵀ over k actions drawn from π        | 2 backward through k log-probs       |
| `EmpiricalFisher`        | s sᵀ over the actions that were taken   | 2 backward                           |

Where the policy is linear layers one after another, `npg/fisher/chain.py` makes these passes by hand.

Each reads the policy at construction and stands for the parameters that it had then; with micro-batches
it keeps a copy of them. `hessian.py` has the same matrix as a Hessian, `diagonal.py` and `kfac.py` have
approximations with an inverse. Kakade 2001, "A natural policy gradient"; Martens 2020, "New insights and
perspectives on the natural gradient method", on the exact and the empirical matrix.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from npg.distributions import Distribution
from npg.fisher.chain import ChainJacobian, jacobian_of
from npg.fisher.jacobian import DifferenceJacobian, Jacobian
from npg.fisher.state_mean import StateMean, StateSum
from npg.parameters import FlatParameters
from npg.policy import evaluate
from npg.reduction import Reduce, identity

# Every sample lengthens a chain in the graph, whose destruction recurses: 30 000 overflow the stack.
MOST_SAMPLES = 10_000


class ExactFisher(StateMean):
    """The matrix Jᵀ M J / N: positive semi-definite by construction, free of sampling noise.

    Args:
        actor: a module whose forward maps observations to an npg distribution. Put it in evaluation
            mode: dropout would make the two passes see two networks.
        observations: what `actor` takes, N states. They may be a part of a larger batch.
        micro_batch_size: states linearised at a time, which bounds the memory at any N; None keeps one
            graph of all N, which makes products faster.
        reduce: maps a local mean to the mean over all processes.

    Raises:
        ValueError: there is no state, no trainable parameter reaches the distribution, or micro-batches
            would be empty.
        TypeError: the actor does not return an npg distribution, or can be differentiated only once.
    """

    def __init__(
        self,
        actor: nn.Module,
        observations: Any,
        *,
        micro_batch_size: int | None = None,
        reduce: Reduce = identity,
    ):
        parameters = FlatParameters(actor)
        theta = None if micro_batch_size is None else parameters.copies()
        tensors = parameters.tensors if theta is None else theta.values()

        @torch.enable_grad()
        def linearise(observations: Any) -> StateSum:
            distribution = evaluate(actor, observations, theta)
            return metric_sum(jacobian_of(distribution.coordinates, tensors), distribution, parameters)

        super().__init__(parameters, linearise, (observations,), micro_batch_size, reduce)


class FiniteDifferenceFisher(StateMean):
    """The exact matrix, with J v by a forward difference and Jᵀ u by one pass backward.

    For modules that cannot be differentiated twice, such as a fused LSTM. Products err by a relative √eps
    or so of the dtype (1e-7 in float64, 1e-3 in float32) times the policy's curvature, and are symmetric
    and linear only up to that. Arguments and errors are those of `ExactFisher`.
    """

    def __init__(
        self,
        actor: nn.Module,
        observations: Any,
        *,
        micro_batch_size: int | None = None,
        reduce: Reduce = identity,
    ):
        parameters = FlatParameters(actor)
        theta = parameters.copies()

        @torch.enable_grad()
        def linearise(observations: Any) -> StateSum:
            distribution = evaluate(actor, observations, theta)

            def displaced(steps: Sequence[Tensor]) -> tuple[Tensor, ...]:
                moved = torch._foreach_add(list(theta.values()), list(steps))
                return evaluate(actor, observations, dict(zip(theta, moved, strict=True))).coordinates

            jacobian = DifferenceJacobian(distribution.coordinates, theta.values(), displaced)
            return metric_sum(jacobian, distribution, parameters)

        super().__init__(parameters, linearise, (observations,), micro_batch_size, reduce)


class EmpiricalFisher(StateMean):
    """1/N Σ s sᵀ over the scores s = ∇log π(a | s) of given actions: the covariance of the score.

    It is the Fisher matrix only if the actions were drawn from this very policy, and then only as N grows.
    Away from that it can be far off (Kunstner et al. 2019, "Limitations of the empirical Fisher
    approximation"): `npg.relative_gap` measures how far.

    Arguments not listed, and errors, are those of `ExactFisher`.

    Args:
        actions: one a state, shaped as the distribution's `log_prob` takes them.
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
        parameters = FlatParameters(actor)
        theta = None if micro_batch_size is None else parameters.copies()
        linearise = partial(_score_sum, actor, parameters, theta)
        super().__init__(parameters, linearise, (observations, (actions,)), micro_batch_size, reduce)


class SampledFisher(StateMean):
    """1/(N k) Σ s sᵀ over the scores of k actions a state, drawn from the policy itself.

    Unbiased for F, with a relative error that falls as 1/√(N k). The actions are drawn once, so that
    every product is with one and the same matrix.

    Arguments not listed, and errors, are those of `ExactFisher`.

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
                f"SampledFisher takes 1 to {MOST_SAMPLES} samples a state, got {samples}; for less noise use "
                "more states, or ExactFisher, which has none"
            )
        parameters = FlatParameters(actor)
        theta = None if micro_batch_size is None else parameters.copies()
        with torch.no_grad():
            policy = evaluate(actor, observations)
        actions = tuple(policy.sample(generator) for _ in range(samples))
        linearise = partial(_score_sum, actor, parameters, theta)
        super().__init__(parameters, linearise, (observations, actions), micro_batch_size, reduce)


def metric_sum(
    jacobian: Jacobian | ChainJacobian | DifferenceJacobian,
    distribution: Distribution,
    parameters: FlatParameters,
) -> StateSum:
    """Return v ↦ Σ_s J_sᵀ M_s J_s v."""
    metric = distribution.snapshot()

    def product(vector: Tensor) -> Tensor:
        pushed = jacobian.push_forward(parameters.unflatten(vector))
        return parameters.flatten(jacobian.pull_back(metric.fisher_product(pushed)))

    return StateSum(product, distribution.coordinates[0].shape[:-1].numel())


@torch.enable_grad()
def _score_sum(
    actor: nn.Module,
    parameters: FlatParameters,
    theta: Mapping[str, Tensor] | None,
    observations: Any,
    actions: tuple[Tensor, ...],
) -> StateSum:
    """Return v ↦ Σ_s mean over the k actions of s (sᵀv): log π as the output, and the identity as metric."""
    distribution = evaluate(actor, observations, theta)
    log_prob = torch.stack([distribution.log_prob(action) for action in actions])
    jacobian = jacobian_of((log_prob,), parameters.tensors if theta is None else theta.values())

    def product(vector: Tensor) -> Tensor:
        (derivative,) = jacobian.push_forward(parameters.unflatten(vector))
        return parameters.flatten(jacobian.pull_back((derivative / len(actions),)))

    return StateSum(product, log_prob[0].numel())
