"""Load a shared policy, to predict with it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from agents.policy.allocation_limit import AllocationLimit
from agents.policy.names import find_class, with_classes
from agents.registry import ALGORITHMS
from agents.shared_policy import SharedPolicy, read_shared_policy

PEERS = ("sb3:", "contrib:")  # prefixes of algorithms of other libraries, which all have the policies of PPO


class LoadedPolicy:
    """A policy that takes raw observations, with the interface of SB3's `predict`.

    Args:
        shared: the content of its files.
        policy: the network, in evaluation mode on the CPU.

    Attributes:
        policy: the network, which expects observations as `VecNormalize` returns them, if there is one.
        observation_space: its space, with the channels of images first.
        action_space: the space of actions.
    """

    def __init__(self, shared: SharedPolicy, policy: ActorCriticPolicy):
        self.policy = policy
        self.observation_space, self.action_space = policy.observation_space, policy.action_space
        self._shared = shared

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Return actions for one or several raw observations, and the state; see `MlpPolicy.predict`."""
        masks = {} if action_masks is None else {"action_masks": action_masks}
        return self.policy.predict(
            self._normalised(observation), state, episode_start, deterministic, **masks
        )

    def _normalised(self, observation: Any) -> Any:
        moments = self._shared.moments
        if "" in moments:
            return self._normalised_part(observation, "")
        if not moments:
            return observation
        return observation | {key: self._normalised_part(observation[key], key) for key in moments}

    def _normalised_part(self, part: np.ndarray, key: str) -> np.ndarray:
        """Return the part as `VecNormalize` normalises it."""
        mean, var = (self._shared.moments[key][name] for name in ("mean", "var"))
        clip, epsilon = self._shared.clip, self._shared.epsilon
        return np.clip((part - mean) / np.sqrt(var + epsilon), -clip, clip).astype(np.float32)


def load(folder: str | Path) -> LoadedPolicy:
    """Load a folder that `npg share` wrote, which may be untrusted: no code in it is executed.

    A module that it names, e.g. of a policy of its author, must have been imported by the caller.

    Example:
        >>> import agents
        >>> policy = agents.load("cartpole-trpo")  # doctest: +SKIP
        >>> action, _ = policy.predict(observation, deterministic=True)  # doctest: +SKIP

    Args:
        folder: the folder.

    Raises:
        OSError: a file cannot be read, is a link, or is no regular file.
        ValueError: the folder is damaged, or names a class that is unknown.
    """
    shared = read_shared_policy(Path(folder))
    try:
        chosen = policy_class(shared.algorithm, shared.policy)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}; in Python, import it before agents.load") from None
    try:
        # The initial parameters are random; those of the folder replace them.
        with torch.random.fork_rng(devices=[]), AllocationLimit(list(shared.parameters.values())):
            policy = chosen(
                shared.observation_space,
                shared.action_space,
                lambda _: 0.0,  # the learning rate of an unused optimizer
                use_sde=shared.use_sde,
                **with_classes(shared.policy_kwargs),
            )
        check(shared, policy)
        policy.load_state_dict(dict(shared.parameters))
    except Exception as error:  # wrong options can raise any exception in a network
        what = " ".join(str(error).split())
        raise ValueError(
            f"{folder} does not describe the policy of its parameters ({type(error).__name__}: {what:.300}); "
            "it was changed, or shared by another version of npg-toolkit"
        ) from error
    policy.set_training_mode(False)
    return LoadedPolicy(shared, policy)


def check(shared: SharedPolicy, policy: ActorCriticPolicy) -> None:
    """Check the types of parameters, and the shapes of moments; PyTorch itself checks the rest.

    Raises:
        ValueError: one does not fit.
    """
    for name, own in policy.state_dict().items():
        found = shared.parameters.get(name)
        if found is not None and found.dtype != own.dtype:
            raise ValueError(f"{name} must be of type {own.dtype}, not {found.dtype}")
    space = shared.observation_space
    parts = dict(space.items()) if isinstance(space, spaces.Dict) else {"": space}
    for key, moments in shared.moments.items():
        if key not in parts or any(moments[name].shape != parts[key].shape for name in ("mean", "var")):
            raise ValueError(f"the moments of {key or 'observations'} fit no part of {space}")


def policy_class(algorithm: str, policy: str) -> type[ActorCriticPolicy]:
    """Return the class of one of the algorithm's own policies, or of "module:Class".

    Raises:
        ValueError: a name is unknown, or its module was not imported.
    """
    if algorithm in ALGORITHMS:
        aliases: dict[str, Any] = ALGORITHMS[algorithm].policy_aliases
    elif algorithm.startswith(PEERS):
        aliases = PPO.policy_aliases
    elif ":" in algorithm:
        aliases = find_class(algorithm, OnPolicyAlgorithm).policy_aliases  # type: ignore[type-abstract]
    else:
        raise ValueError(f"unknown algorithm {algorithm!r:.80}; register it before loading")
    if policy in aliases:
        found: type[ActorCriticPolicy] = aliases[policy]
        return found
    if ":" in policy:
        return find_class(policy, ActorCriticPolicy)
    raise ValueError(f"unknown policy {policy!r:.80}; register it before loading")
