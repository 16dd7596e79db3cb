"""The value-function fit by K-FAC."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.nn import functional as F

from agents.critic.critic import Critic, CriticFit, last_layer, return_unit, shuffled
from agents.ranks import ONE, Ranks
from agents.rollout.batch import Batch
from npg import DiagGaussian, KroneckerStepper, SingularMatrixError, host


class ValueDistribution(nn.Module):
    """The critic as a Gaussian whose mean is the value v and whose standard deviation is 1.

    Its Fisher matrix is E[∇v ∇vᵀ], the Gauss-Newton matrix (Wu et al. 2017, section 3.1). It does not contain
    the variance of the errors, so averages over updates with different errors make sense. v is measured in
    units of the last layer's output: those of the return, or the returns' running standard deviation if the
    policy normalises them.

    Args:
        policy: provides `predict_values` and stays the owner of its parameters.
        parameters: the critic's own parameters.
    """

    def __init__(self, policy: ActorCriticPolicy, parameters: list[nn.Parameter]):
        super().__init__()
        self.policy = policy
        self._own = {id(p) for p in parameters}

    def forward(self, observations: Any) -> DiagGaussian:
        """Return the Gaussians (N, 1) of N states."""
        values = self.policy.predict_values(observations)
        return DiagGaussian(values / return_unit(self.policy).to(values.dtype), values.new_zeros(1))

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the critic's own parameters, in the policy's order."""
        for name, parameter in super().named_parameters(*args, **kwargs):
            if id(parameter) in self._own:
                yield name, parameter


class KroneckerCritic(Critic):
    """Natural gradient steps that fit the values to the returns, whatever the unit of the reward.

    With σ the root mean squared error of the values, a step's KL is dᵀE[∇v ∇vᵀ]d / 2σ², half the mean squared
    change of the values in units of σ. The last layer's parameters have the unit of v, and its block is
    damped by λ. All other parameters are dimensionless, and their blocks are damped by λσ². Momentum is kept
    in units of σ. σ is measured in every update; the damping follows it only when the inverses are refreshed.

    Other arguments are those of `Critic`.

    Args:
        values: the critic as a distribution.
        stepper: a stepper with the Fisher matrix of `values`.
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
        ranks: Ranks = ONE,
    ):
        super().__init__(
            values.policy,
            stepper.fisher.parameters.tensors,
            passes=passes,
            batch_size=batch_size,
            ranks=ranks,
        )
        self.values = values
        self.stepper = stepper
        self.step_size = step_size
        self.target_kl = target_kl

    def fit(self, batch: Batch) -> CriticFit:
        """Make the natural gradient steps, or none of them if a number is not finite."""
        velocity = self.stepper.velocity
        fit = super().fit(batch)
        if fit.rejected:
            self.stepper.velocity = velocity
        return fit

    def _losses(self, batch: Batch) -> list[Tensor]:
        unit = return_unit(self.policy).to(batch.returns)
        returns = batch.returns / unit
        errors = returns - batch.old_values / unit
        variance = self.ranks.mean(errors.square().mean(), len(batch))
        deviation = host.read(deviation=variance.sqrt())["deviation"]
        if deviation <= math.sqrt(torch.finfo(errors.dtype).tiny):  # its square would be 0
            return [errors.new_tensor(0.0)]
        if not math.isfinite(deviation):
            return [errors.new_tensor(math.nan)]
        fisher, last = self.stepper.fisher, last_layer(self.policy)
        names = [n for n in fisher.parameters.by_module() if self.values.get_submodule(n) is not last]
        fisher.damping_units = dict.fromkeys(names, deviation**2)
        try:
            self.stepper.observe(batch.observations)
        except (FloatingPointError, SingularMatrixError):
            return [errors.new_tensor(math.nan)]
        self.stepper.velocity = self.stepper.velocity * deviation
        losses: list[Tensor] = []
        whole = self.batch_size is None or self.batch_size >= self.ranks.sum(len(batch))
        for _ in range(self.passes):
            parts: list[Any] = [slice(None)]
            if not whole:
                parts = shuffled(batch, self.batch_size, self.ranks)
            for states in parts:
                loss = self._step(batch.select(states), returns[states], self.target_kl * deviation**2)
                losses.append(loss * unit.square())
        self.stepper.velocity = self.stepper.velocity / deviation
        return losses

    def _step(self, observations: Any, returns: Tensor, target_kl: float) -> Tensor:
        """Make one step and return the mean squared error before it, in units of v."""
        parameters = self.stepper.fisher.parameters
        loss = F.mse_loss(self.values(observations).mean.flatten(), returns)
        # The gradient of the mean log-likelihood, which increases as the squared error falls.
        gradient = torch.autograd.grad(-0.5 * loss, parameters.tensors, allow_unused=True)
        loss, gradients = self.averaged(loss.detach(), gradient, len(returns))
        step = self.stepper.displacement(
            parameters.flatten(gradients), step_size=self.step_size, target_kl=target_kl
        )
        parameters.add_(step, known_finite=True)  # checked at the end of the fit
        self.stepper.keep(step)
        return loss
