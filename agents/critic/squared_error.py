"""The squared error of a policy's values, and its gradients."""

from collections.abc import Callable, Sequence

import torch
from stable_baselines3.common.policies import ActorCriticPolicy, BaseModel
from torch import Tensor, nn
from torch.nn import functional as F

from agents.critic.critic import return_unit
from agents.policy.normalisation import RunningMoments
from agents.policy.plain_layers import plain_layers
from agents.policy.policies import MlpPolicy
from agents.rollout.batch import Batch

ErrorAndGradients = Callable[[Tensor], tuple[Tensor, list[Tensor]]]

STANDARD_VALUES = (ActorCriticPolicy.predict_values, MlpPolicy.predict_values)
# The gradient at an activation's input, from that at its output and the output.
BACKWARD: dict[type[nn.Module], Callable[[Tensor, Tensor], Tensor]] = {
    nn.Tanh: torch.ops.aten.tanh_backward,
    nn.Sigmoid: torch.ops.aten.sigmoid_backward,
    nn.ReLU: lambda gradient, output: torch.ops.aten.threshold_backward(gradient, output, 0),
    nn.Identity: lambda gradient, _: gradient,
}


def squared_error(policy: ActorCriticPolicy, parameters: Sequence[Tensor], batch: Batch) -> ErrorAndGradients:
    """Return a function that computes the error of the values at some states, with its gradients.

    Args:
        policy: provides `predict_values`.
        parameters: the critic's own parameters.
        batch: N transitions.

    Returns:
        A function of the states' indices. It returns the mean squared error, 0-d, in squared units of the
        return; and its gradients by the parameters, in squared `return_unit`s instead, since Adam adds a
        constant ε to them.
    """
    unit = return_unit(policy).square().to(batch.returns.dtype)
    layers = plain_critic(policy, parameters)
    if layers is not None:
        return PlainError(policy, layers, parameters, batch, unit)

    def by_autograd(states: Tensor) -> tuple[Tensor, list[Tensor]]:
        values = policy.predict_values(batch.select(states)).flatten()
        error = F.mse_loss(values, batch.returns[states])
        return error.detach(), list(torch.autograd.grad(error / unit, parameters))

    return by_autograd


class PlainError:
    """The squared error of a plain MLP, layer by layer.

    The computation is autograd's, bit for bit. On a minibatch it takes half the time, most of which is
    otherwise spent by autograd and SB3 between the arithmetic. Observations are normalised once.

    Args:
        policy: owns the layers.
        layers: see `plain_critic`.
        parameters: the layers' weights and biases.
        batch: N transitions.
        unit: the square of the policy's `return_unit`, 0-d.
    """

    @torch.no_grad()
    def __init__(
        self,
        policy: ActorCriticPolicy,
        layers: list[nn.Module],
        parameters: Sequence[Tensor],
        batch: Batch,
        unit: Tensor,
    ):
        observations = batch.observations
        self._moments: RunningMoments | None = None
        if isinstance(policy, MlpPolicy):
            observations, self._moments = policy._normalised(observations), policy.return_moments
        self._inputs = BaseModel.extract_features(policy, observations, policy.vf_features_extractor)
        self._returns = batch.returns.unsqueeze(1)
        self._layers = layers
        self._gradients = [torch.zeros_like(parameter) for parameter in parameters]
        self._gradient_of = {id(p): g for p, g in zip(parameters, self._gradients, strict=True)}
        self._per_unit = 1 / unit

    @torch.no_grad()
    def __call__(self, states: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the mean squared error at the states with these indices, 0-d, and its gradients.

        The next call overwrites the gradients.
        """
        passed = [self._inputs.index_select(0, states)]
        for layer in self._layers:
            passed.append(layer.forward(passed[-1]))
        values, returns = passed[-1], self._returns.index_select(0, states)
        deviation = None
        if self._moments is not None:
            deviation = self._moments.deviation.to(values)
            values = values * deviation + self._moments.mean.to(values)
        error = F.mse_loss(values, returns)
        gradient = torch.ops.aten.mse_loss_backward(self._per_unit, values, returns, 1)
        if deviation is not None:
            gradient = gradient * deviation
        for i in reversed(range(len(self._layers))):
            layer, inputs = self._layers[i], passed[i]
            if not isinstance(layer, nn.Linear):
                gradient = BACKWARD[type(layer)](gradient, passed[i + 1])
                continue
            torch.mm(gradient.T, inputs, out=self._gradient_of[id(layer.weight)])
            torch.sum(gradient, 0, out=self._gradient_of[id(layer.bias)])
            if i > 0:
                gradient = gradient @ layer.weight
        return error, self._gradients


def plain_critic(policy: ActorCriticPolicy, parameters: Sequence[Tensor]) -> list[nn.Module] | None:
    """Return the critic's layers if they are a plain MLP with exactly these parameters; else None."""
    layers = plain_layers(policy, critic=True)
    if getattr(policy.predict_values, "__func__", None) not in STANDARD_VALUES or layers is None:
        return None
    found = [parameter for layer in layers for parameter in layer.parameters()]
    differentiable = all(
        type(layer) in BACKWARD or getattr(layer, "bias", None) is not None for layer in layers
    )
    same = sorted(map(id, found)) == sorted(map(id, parameters))
    return layers if differentiable and same else None
