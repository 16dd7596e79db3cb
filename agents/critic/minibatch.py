"""The value-function fit by minibatches, as SB3 does it."""

from torch import Tensor

from agents.critic.critic import Critic, shuffled
from agents.critic.squared_error import squared_error
from agents.rollout.batch import Batch


class MinibatchCritic(Critic):
    """Regression on the returns by minibatches, with the policy's own optimizer.

    Only the critic's parameters change: all others in the optimizer have no gradient, so it skips them.
    """

    def _losses(self, batch: Batch) -> list[Tensor]:
        optimizer = self.policy.optimizer
        error_of = squared_error(self.policy, self.parameters, batch)
        losses = []
        optimizer.zero_grad(set_to_none=True)
        for _ in range(self.passes):
            for states in shuffled(batch, self.batch_size, self.ranks):
                loss, gradients = self.averaged(*error_of(states), len(states))
                for parameter, gradient in zip(self.parameters, gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()
                losses.append(loss)
        optimizer.zero_grad(set_to_none=True)
        return losses
