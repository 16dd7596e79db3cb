"""The value-function fit by minibatches, as SB3 does it."""

from torch import Tensor

from agents.critic.critic import Critic, shuffled
from agents.critic.squared_error import squared_error
from agents.rollout.batch import Batch


class MinibatchCritic(Critic):
    """Regression on the returns by minibatches, with the policy's own optimizer.

    Only the critic's parameters change: all others in the optimizer have no gradient, so it skips them.
    """

    draws_random_numbers = False  # since `prepare` does

    _minibatches: list[Tensor] | None = None

    def prepare(self, batch: Batch) -> None:
        """Draw the minibatches of all passes."""
        device = batch.returns.device
        passes = (shuffled(len(batch), self.batch_size, device, self.ranks) for _ in range(self.passes))
        self._minibatches = [states for minibatches in passes for states in minibatches]

    def _losses(self, batch: Batch) -> list[Tensor]:
        if self._minibatches is None:
            self.prepare(batch)
        assert self._minibatches is not None
        optimizer = self.policy.optimizer
        error_of = squared_error(self.policy, self.parameters, batch)
        losses = []
        optimizer.zero_grad(set_to_none=True)
        for states in self._minibatches:
            loss, gradients = self.averaged(*error_of(states), len(states))
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            losses.append(loss)
        optimizer.zero_grad(set_to_none=True)
        return losses
