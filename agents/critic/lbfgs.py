"""The value-function fit by L-BFGS."""

import torch
from torch import Tensor
from torch.nn import functional as F

from agents.critic.critic import Critic, last_layer
from agents.policy.policies import MlpPolicy
from agents.rollout.batch import Batch


class LbfgsCritic(Critic):
    """Regression on the returns by L-BFGS on the whole batch, at most one iteration per pass.

    The objective is the squared error relative to its initial value, and the last layer's parameters are in
    units of the root mean squared error unless the policy normalises returns. So the fit does not depend on
    the unit of the return. With a line search under the strong Wolfe conditions, every iteration lowers the
    objective (Nocedal & Wright 2006, algorithms 7.5 and 3.5). With few iterations, the values do not fit the
    noise of one batch. torch's optimizer reads a few numbers from the device in every iteration.
    """

    draws_random_numbers = False

    def _losses(self, batch: Batch) -> list[Tensor]:
        units = self._units(batch)
        scaled = [(p / unit).detach() for p, unit in zip(self.parameters, units, strict=True)]
        first: Tensor | None = None

        def relative_error() -> Tensor:
            nonlocal first
            with torch.no_grad():
                for parameter, value, unit in zip(self.parameters, scaled, units, strict=True):
                    parameter.copy_(value * unit)
            error = F.mse_loss(self.policy.predict_values(batch.observations).flatten(), batch.returns)
            first = self.ranks.mean(error.detach(), len(batch)) if first is None else first
            relative = error / torch.where(first > 0, first, 1)  # 0: a perfect critic, with gradient 0
            own = torch.autograd.grad(relative, self.parameters)
            relative, gradients = self.averaged(relative.detach(), own, len(batch))
            for value, gradient, unit in zip(scaled, gradients, units, strict=True):
                value.grad = gradient * unit
            return relative

        torch.optim.LBFGS(
            scaled,
            max_iter=self.passes,
            max_eval=2 * self.passes,  # after the first one, a line search rarely needs a second evaluation
            history_size=self.passes,
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        ).step(relative_error)  # type: ignore[arg-type]  # float(closure()) is all it does with the result
        with torch.no_grad():
            for parameter, value, unit in zip(self.parameters, scaled, units, strict=True):
                parameter.copy_(value * unit)
        assert first is not None
        return [first]

    def _units(self, batch: Batch) -> list[Tensor]:
        """Return the unit of each parameter, 0-d."""
        error = (batch.returns - batch.old_values).square().mean()
        error = self.ranks.mean(error, len(batch)).sqrt()
        one = torch.ones_like(error)
        normalised = isinstance(self.policy, MlpPolicy) and self.policy.return_moments is not None
        own = [] if normalised else list(map(id, last_layer(self.policy).parameters()))
        return [torch.where(error > 0, error, 1) if id(p) in own else one for p in self.parameters]
