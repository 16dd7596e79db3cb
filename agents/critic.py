"""The value-function fit."""

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from torch.nn import functional as F

from agents.batch import Batch


def fit_critic(
    policy: ActorCriticPolicy,
    parameters: list[nn.Parameter],
    batch: Batch,
    *,
    epochs: int,
    batch_size: int,
    unit: float = 1.0,
) -> float:
    """Regress the policy's values on the returns by minibatches, with the policy's own optimizer.

    Only the given parameters move; whatever else the optimizer holds keeps no gradient, and optimizers
    pass such parameters over. A minibatch whose loss or gradient is not finite moves nothing.

    Args:
        policy: gives `predict_values` and `optimizer`.
        parameters: the critic's own, which the policy does not read.
        batch: observations and returns.
        epochs: passes over the batch.
        batch_size: of a minibatch.
        unit: the returns' deviation. The gradient is that of errors in this unit: optimizers such as Adam
            compare it with a constant of their own.

    Returns:
        The mean squared error over all minibatches, each before its step; NaN without any.
    """
    if not (epochs and parameters):
        return float("nan")
    losses = []
    policy.optimizer.zero_grad(set_to_none=True)
    for _ in range(epochs):
        for indices in torch.randperm(len(batch)).split(batch_size):
            values = policy.predict_values(batch.select(indices)).flatten()
            loss = F.mse_loss(values, batch.returns[indices])
            gradients = torch.autograd.grad(loss / unit**2, parameters)
            losses.append(loss.item())
            if not torch.isfinite(nn.utils.get_total_norm(gradients)):
                continue
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            policy.optimizer.step()
    policy.optimizer.zero_grad(set_to_none=True)
    return sum(losses) / len(losses)
