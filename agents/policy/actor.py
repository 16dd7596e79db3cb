"""The actor of an SB3 policy, as a module that maps observations to an npg distribution."""

import copy
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor, distributions, nn

from agents.policy.distributions import to_npg
from agents.policy.masks import split
from agents.policy.recurrent.policies import MlpLstmPolicy
from npg import Distribution
from npg.fisher.jacobian import nodes_before
from npg.fisher.linearisation import first_line

LARGE = 10.0  # the largest number in a sampled observation, unless its space requires larger ones


class PolicyActor(nn.Module):
    """The actor inside an SB3 actor-critic policy.

    Its parameters are those that the action distribution depends on, as found by autograd. Their names do not
    matter: a critic may be called "pi", or an actor "value".

    Args:
        policy: the policy, which stays the owner of its parameters.

    Attributes:
        shares_parameters: whether the value depends on some of them too.
        masked: whether inputs must have masks.
        has_fused_attention: whether the critic uses a kernel that the policy step may replace in all threads.

    Raises:
        TypeError: the policy's action distribution has no npg counterpart, or the policy cannot be
            differentiated.
    """

    def __init__(self, policy: ActorCriticPolicy):
        super().__init__()
        self.policy, self.masked = policy, False
        if isinstance(policy.action_dist, StateDependentNoiseDistribution):
            # gSDE's variance depends on the features. By default SB3 hides this from autograd; but the line
            # search evaluates it, so gradient and Fisher matrix must include it.
            policy.action_dist.learn_features = True
        policy.set_training_mode(False)  # batch norm must not be updated with the example
        probe = example_observations(policy)
        self._actor_names = reached_names(policy, self(probe).coordinates)
        values = policy.predict_values(probe)
        self.has_fused_attention = any("ScaledDotProduct" in n.name() for n in nodes_before([values.grad_fn]))
        value_names = reached_names(policy, (values,))
        self._critic_names = value_names - self._actor_names
        self.shares_parameters = bool(value_names & self._actor_names)

    def forward(self, inputs: Any) -> Distribution:
        """Return the policy's distribution at N observations, already on the policy's device.

        Args:
            inputs: the observations, or a pair of observations and masks (N, K) of the allowed actions.

        Raises:
            ValueError: there are no masks, though the policy acts with masks.
        """
        observations, masks = split(inputs)
        if self.masked and not masks:
            raise ValueError(
                "the policy acts with masks, and the actor's input has none; use batch.inputs instead of "
                "batch.observations"
            )
        with unvalidated():
            return to_npg(self.policy.get_distribution(observations, **masks))

    def unsquash(self, actions: Tensor, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions (N, A) and log-probabilities (N,) before the tanh, if the policy has one.

        Before the tanh the distribution is Gaussian. A bijection changes neither ratios nor KL.
        """
        bijector = getattr(self.policy.action_dist, "bijector", None)
        if bijector is None:
            return actions, log_prob
        before = bijector.inverse(actions)
        return before, log_prob + bijector.log_prob_correction(before).sum(1)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that the distribution depends on, in the policy's order."""
        for name, parameter in super().named_parameters(*args, **kwargs):
            if name.removeprefix("policy.") in self._actor_names:
                yield name, parameter

    def critic_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that a critic fit may change: those of the value, not of the distribution."""
        named = self.policy.named_parameters()
        return [p for name, p in named if name in self._critic_names and p.requires_grad]

    def unreached_names(self) -> list[str]:
        """Return the names of the trainable parameters that neither distribution nor value depends on."""
        trainable = [name for name, p in self.policy.named_parameters() if p.requires_grad]
        return [name for name in trainable if name not in self._actor_names | self._critic_names]


@contextmanager
def unvalidated() -> Iterator[None]:
    """Disable the validation of parameters in torch.distributions.

    A candidate's parameters may be non-finite: the step's own checks reject it, with a reason.
    """
    before = distributions.Distribution._validate_args
    distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        distributions.Distribution.set_default_validate_args(before)


def reached_names(module: nn.Module, outputs: tuple[Tensor, ...]) -> set[str]:
    """Return the names of the module's trainable parameters that the outputs depend on.

    Raises:
        TypeError: torch cannot differentiate the outputs.
    """
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    scalars = [output.sum() for output in outputs if output.requires_grad]
    if not (named and scalars):
        return set()
    # The other leaves, too: torch skips what leads to no input, e.g. a reentrant checkpoint, which hides its
    # parameters and has no gradient by torch.autograd.grad.
    hidden = leaves(scalars) - set(named.values())
    try:
        gradients = torch.autograd.grad(scalars, [*named.values(), *hidden], allow_unused=True)
    except RuntimeError as error:
        raise TypeError(f"{type(module).__name__} cannot be differentiated: {first_line(error)}") from error
    return {name for name, gradient in zip(named, gradients, strict=False) if gradient is not None}


def leaves(outputs: Iterable[Tensor]) -> set[Tensor]:
    """Return the tensors without a history that outputs depend on, and that require a gradient."""
    nodes = [output.grad_fn for output in outputs]
    seen, found = set(nodes), set()
    while nodes:
        node = nodes.pop()
        if (leaf := getattr(node, "variable", None)) is not None:
            found.add(leaf)
        new = {other for other, _ in getattr(node, "next_functions", ())} - seen - {None}
        seen |= new
        nodes += new
    return found


def example_observations(policy: ActorCriticPolicy, n: int = 2, length: int = 1) -> Any:
    """Return n observations from the policy's space, always the same ones, as input of the policy.

    A recurrent policy gets them as sequences of a length.
    """
    observations = obs_as_tensor(sample_observations(policy.observation_space, n), policy.device)
    if isinstance(policy, MlpLstmPolicy):
        return policy.with_memory(observations, length)
    return observations


def sample_observations(space: spaces.Space, n: int, seed: int = 0, largest: float = LARGE) -> Any:
    """Return n random observations in a space, the same for a seed; up to ±`largest` if its bounds allow.

    Some bounds are as wide as the range of floats. Observations of that size overflow in networks, and even
    in Gymnasium's own sampling.
    """
    if isinstance(space, spaces.Dict):
        return {
            key: sample_observations(part, n, seed + i, largest)
            for i, (key, part) in enumerate(space.spaces.items())
        }
    limited = space
    if isinstance(space, spaces.Box):
        low, high = (
            np.clip(bound, -largest, largest).astype(space.dtype) for bound in (space.low, space.high)
        )
        limited = spaces.Box(low, high, dtype=space.dtype)  # type: ignore[arg-type]
    # A copy, since batching a space gives it a generator, and the environment may share the space.
    batched = batch_space(copy.deepcopy(limited), n)
    batched.seed(seed)
    sample = batched.sample()
    return np.clip(sample, space.low, space.high) if isinstance(space, spaces.Box) else sample


def warn_of_unreached(actor: PolicyActor) -> None:
    """Warn of trainable parameters that neither the distribution nor the value depends on."""
    if names := actor.unreached_names():
        warnings.warn(
            "these parameters reach neither the action distribution nor the value and are not trained: "
            f"{', '.join(names)}",
            UserWarning,
            stacklevel=3,
        )
