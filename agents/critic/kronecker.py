"""The value-function fit by K-FAC."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.nn import functional as F

from agents.critic.critic import Critic, CriticFit, shuffled
from agents.rollout.batch import Batch
from npg import DiagGaussian, KroneckerStepper, SingularMatrixError, host


class ValueDistribution(nn.Module):
    """The critic as a Gaussian over returns, which has a Fisher matrix and a trust region.

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


class KroneckerCritic(Critic):
    """Natural steps of the values towards the returns.

    Arguments not listed are those of `Critic`.

    Args:
        stepper: with the Fisher matrix of a `ValueDistribution`.
        step_size: η of the stepper.
        target_kl: δ of the stepper, in nats.
    """

    def __init__(
        self,
        values: ValueDistribution,
        stepper: KroneckerStepper,
        *,
        passes: int,
        batch_size: int | None,
        step_size: float,
        target_kl: float,
    ):
        super().__init__(
            values.policy, stepper.fisher.parameters.tensors, passes=passes, batch_size=batch_size
        )
        self.values = values
        self.stepper = stepper
        self.step_size = step_size
        self.target_kl = target_kl

    def fit(self, batch: Batch) -> CriticFit:
        """Make the natural steps, or none of them."""
        velocity = self.stepper.velocity
        fit = super().fit(batch)
        if fit.rejected:
            self.stepper.velocity = velocity
        return fit

    def _losses(self, batch: Batch) -> list[Tensor]:
        errors = batch.returns - batch.old_values
        deviation = host.read(deviation=errors.square().mean().sqrt())["deviation"]
        if not 0 < deviation < math.inf:
            return [errors.new_tensor(0.0 if deviation == 0 else math.nan)]
        self.values.deviation = deviation
        try:
            self.stepper.observe(batch.observations)
        except (FloatingPointError, SingularMatrixError):
            return [errors.new_tensor(math.nan)]
        losses: list[Tensor] = []
        whole = self.batch_size is None or self.batch_size >= len(batch)
        for _ in range(self.passes):
            if whole:
                losses.append(self._step(batch, slice(None)))
                continue
            for states in shuffled(len(batch), self.batch_size, batch.returns.device):
                losses.append(self._step(batch, states))
        return losses

    def _step(self, batch: Batch, states: Tensor | slice) -> Tensor:
        """Make one step and return the mean squared error before it."""
        parameters = self.stepper.fisher.parameters
        values = self.values(batch.select(states)).mean.flatten()
        loss = F.mse_loss(values, batch.returns[states])
        # Of the mean log-likelihood, which ascends as the squared error falls.
        gradient = parameters.flatten(
            torch.autograd.grad(-0.5 * loss / self.values.deviation**2, parameters.tensors, allow_unused=True)
        )
        step = self.stepper.displacement(gradient, step_size=self.step_size, target_kl=self.target_kl)
        parameters.add_(step, known_finite=True)  # checked at the end of the fit
        self.stepper.keep(step)
        return loss.detach()
