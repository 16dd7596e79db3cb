"""The value-function fit, by minibatches or by L-BFGS."""

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.nn import functional as F

from agents.rollout.batch import Batch


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
        The mean squared error over all minibatches, each before its step; NaN without any, or where a loss
        or gradient was not finite.
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
            if not torch.isfinite(nn.utils.get_total_norm(gradients)):
                losses.append(float("nan"))
                continue
            losses.append(loss.item())
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            policy.optimizer.step()
    policy.optimizer.zero_grad(set_to_none=True)
    return sum(losses) / len(losses)


def fit_critic_by_lbfgs(
    policy: ActorCriticPolicy, parameters: list[nn.Parameter], batch: Batch, *, iterations: int
) -> float:
    """Regress the policy's values on the returns by L-BFGS on the whole batch.

    The objective is the squared error relative to where it starts, so that the units of the return change
    nothing; a line search under the strong Wolfe conditions makes every iteration lower it (Nocedal & Wright
    2006, algorithms 7.5 and 3.5). A fit that does not end in finite numbers moves nothing.

    Args:
        policy: gives `predict_values`.
        parameters: the critic's own, which the policy does not read.
        batch: observations and returns.
        iterations: at most; few of them keep the values from following the noise of one batch.

    Returns:
        The mean squared error before; NaN without any iteration, or where a number was not finite.
    """
    if not (iterations and parameters):
        return float("nan")
    before = [parameter.detach().clone() for parameter in parameters]
    first: Tensor | None = None

    def relative_error() -> float:
        nonlocal first
        error = F.mse_loss(policy.predict_values(batch.observations).flatten(), batch.returns)
        first = error.detach() if first is None else first
        relative = error / first
        for parameter, gradient in zip(parameters, torch.autograd.grad(relative, parameters), strict=True):
            parameter.grad = gradient
        return float(relative.detach())

    torch.optim.LBFGS(
        parameters,
        max_iter=iterations,
        max_eval=2 * iterations,  # a line search seldom needs a second evaluation, but for the first one
        history_size=iterations,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    ).step(relative_error)
    finite = all(bool(torch.isfinite(parameter).all()) for parameter in parameters)
    with torch.no_grad():
        for parameter, old in zip(parameters, before, strict=True):
            parameter.grad = None
            if not finite:
                parameter.copy_(old)
    assert first is not None
    return float(first)
