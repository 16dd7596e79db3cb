"""The value-function fit by L-BFGS."""

import torch
from torch import Tensor
from torch.nn import functional as F

from agents.critic.critic import Critic
from agents.rollout.batch import Batch


class LbfgsCritic(Critic):
    """Regression on the returns by L-BFGS on the whole batch, at most one iteration per pass.

    The objective is the squared error relative to where it starts, so that the unit of the return changes
    nothing; a line search under the strong Wolfe conditions makes every iteration lower it (Nocedal & Wright
    2006, algorithms 7.5 and 3.5). Few iterations keep the values from following the noise of one batch.
    torch's optimizer reads a few numbers from the device in every iteration.
    """

    draws_random_numbers = False

    def _losses(self, batch: Batch) -> list[Tensor]:
        first: Tensor | None = None

        def relative_error() -> Tensor:
            nonlocal first
            error = F.mse_loss(self.policy.predict_values(batch.observations).flatten(), batch.returns)
            first = error.detach() if first is None else first
            relative = error / torch.where(first > 0, first, 1)  # 0: a perfect critic, with gradient 0
            gradients = torch.autograd.grad(relative, self.parameters)
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient
            return relative.detach()

        torch.optim.LBFGS(
            self.parameters,
            max_iter=self.passes,
            max_eval=2 * self.passes,  # a line search seldom needs a second evaluation, except the first one
            history_size=self.passes,
            tolerance_grad=0,
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        ).step(relative_error)  # type: ignore[arg-type]  # float(closure()) is all it does with the result
        for parameter in self.parameters:
            parameter.grad = None
        assert first is not None
        return [first]
