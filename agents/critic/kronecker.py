"""The value-function fit by K-FAC."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.nn import functional as F

from agents.rollout.batch import Batch
from npg import DiagGaussian, KroneckerStepper, SingularMatrixError


class ValueDistribution(nn.Module):
    """The critic seen as a Gaussian over returns, so that it has a Fisher matrix and a trust region.

    Its mean is the value, its deviation the root mean squared error of the values, in which a trust region
    is then measured. Its Fisher matrix is that of the Gauss-Newton method (Wu et al. 2017, section 3.1).

    Args:
        policy: gives `predict_values` and stays the owner of its parameters.
        parameters: the critic's own.

    Attributes:
        deviation: of the returns around the values, in units of the return.
    """

    def __init__(self, policy: ActorCriticPolicy, parameters: list[nn.Parameter]):
        super().__init__()
        self.policy = policy
        self.deviation = 1.0
        self._own = {id(p) for p in parameters}

    def forward(self, observations: Any) -> DiagGaussian:
        """Return the Gaussians (N, 1) of N states."""
        values = self.policy.predict_values(observations)
        return DiagGaussian(values, values.new_tensor([self.deviation]).log())

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the critic's own, in the policy's order."""
        for name, parameter in super().named_parameters(*args, **kwargs):
            if id(parameter) in self._own:
                yield name, parameter


def fit_critic_by_kronecker(
    critic: ValueDistribution,
    stepper: KroneckerStepper,
    batch: Batch,
    *,
    epochs: int,
    batch_size: int,
    step_size: float,
    target_kl: float,
) -> float:
    """Move the values towards the returns by natural steps; one that is not finite moves nothing.

    Args:
        critic: the values as a distribution.
        stepper: with the Fisher matrix of `critic`.
        batch: observations and returns.
        epochs: passes over the batch.
        batch_size: states a step.
        step_size: η of the stepper.
        target_kl: δ of the stepper, in nats.

    Returns:
        The mean squared error over all steps, each before it is made; NaN without any, or where a number
        was not finite.
    """
    errors = batch.returns - batch.old_values
    deviation = float(errors.square().mean().sqrt())
    if not (epochs and 0 < deviation < math.inf):
        return 0.0 if epochs and deviation == 0 else math.nan
    critic.deviation = deviation
    try:
        stepper.observe(batch.observations)
    except (FloatingPointError, SingularMatrixError):
        return math.nan
    velocity = stepper.velocity
    parameters = stepper.fisher.parameters
    losses = []
    for indices in _parts(epochs, len(batch), batch_size):
        values = critic(batch.select(indices)).mean.flatten()
        loss = F.mse_loss(values, batch.returns[indices])
        # Of the mean log-likelihood, which ascends as the squared error falls.
        gradient = parameters.flatten(
            torch.autograd.grad(-0.5 * loss / critic.deviation**2, parameters.tensors, allow_unused=True)
        )
        step = stepper.displacement(gradient, step_size=step_size, target_kl=target_kl)
        try:
            parameters.add_(step)
        except FloatingPointError:
            losses.append(math.nan)
            continue
        losses.append(loss.item())
        stepper.keep(step)
    error = sum(losses) / len(losses)
    if not math.isfinite(error):
        stepper.velocity = velocity
    return error


def _parts(epochs: int, states: int, batch_size: int) -> Iterator[Tensor | slice]:
    for _ in range(epochs):
        if batch_size >= states:
            yield slice(None)
        else:
            yield from torch.randperm(states).split(batch_size)
