"""The value-function fit by minibatches, as SB3 does it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from agents.critic.critic import Critic, return_unit, shuffled
from agents.rollout.batch import Batch


class MinibatchCritic(Critic):
    """Regression on the returns by minibatches, with the policy's own optimizer.

    Only the critic's parameters change: all others in the optimizer have no gradient, so it skips them.
    """

    def _losses(self, batch: Batch) -> list[Tensor]:
        optimizer = self.policy.optimizer
        # Errors in units of the returns' standard deviation, since Adam adds a constant ε to their gradients.
        unit = return_unit(self.policy).square().to(batch.returns.dtype)
        losses = []
        optimizer.zero_grad(set_to_none=True)
        for _ in range(self.passes):
            for states in shuffled(batch, self.batch_size, self.ranks):
                values = self.policy.predict_values(batch.select(states)).flatten()
                loss = F.mse_loss(values, batch.returns[states])
                own = torch.autograd.grad(loss / unit, self.parameters)
                loss, gradients = self.averaged(loss.detach(), own, len(states))
                for parameter, gradient in zip(self.parameters, gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()
                losses.append(loss)
        optimizer.zero_grad(set_to_none=True)
        return losses
