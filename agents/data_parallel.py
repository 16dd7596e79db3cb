"""What an agent does differently if it is trained on several ranks."""

import itertools
import re
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed

from agents.hyperparameters import defaults_of
from agents.policy.statistics import has_batch_norm
from agents.ranks import Ranks, check_same_settings

if TYPE_CHECKING:
    from agents.base import PolicyGradientAgent


@dataclass(frozen=True)
class Share:
    """One rank's environments among those of all ranks.

    Attributes:
        first: index of its first environment.
        total: the number of environments of all ranks.
    """

    first: int
    total: int

    @classmethod
    def of(cls, ranks: Ranks, n_envs: int) -> "Share":
        """Return the share of this rank, which has `n_envs` environments."""
        counts = ranks.gather(n_envs, "the number of environments")
        return cls(sum(counts[: ranks.rank]), sum(counts))


def join(agent: "PolicyGradientAgent") -> None:
    """Give all ranks the same policy, and each its own random numbers, after the policy was built.

    Rank 0 keeps the state of its generators: it is that of an agent on one process.

    Raises:
        RankError: the ranks have different settings.
        ValueError: the agent has batch norm or a `VecNormalize`, whose statistics each rank would compute
            from its own states.
    """
    ranks = agent.ranks
    if not ranks.several:
        return
    if agent.get_vec_normalize_env() is not None:
        raise ValueError(
            "VecNormalize would have other statistics on each rank; normalise in the policy instead, with "
            'policy_kwargs={"normalize_observations": True, "normalize_returns": True}'
        )
    if has_batch_norm(agent.policy):
        raise ValueError("batch norm would have other statistics on each rank; use a policy without it")
    check_same_settings(ranks, settings_of(agent))
    with torch.no_grad():
        for name, tensor in agent.policy.state_dict().items():
            tensor.copy_(ranks.of_first(tensor, f"the initial {name}"))
    if agent.seed is not None and ranks.rank > 0:
        own = int(np.random.SeedSequence([agent.seed, ranks.rank]).generate_state(1)[0])
        set_random_seed(own)  # not the environments': they have theirs by index
        agent.action_space.seed(own)


def settings_of(agent: "PolicyGradientAgent") -> dict[str, Any]:
    """Return what has to be the same on all ranks, as text."""
    settings = {name: getattr(agent, name, None) for name in defaults_of(type(agent))}
    settings |= {
        "the algorithm": type(agent).__qualname__,
        "the policy": agent.policy,
        "the observation space": agent.observation_space,
        "the action space": agent.action_space,
        "the seed": agent.seed,
        **{f"the version of {name}": version(name) for name in ("torch", "stable-baselines3")},
    }
    return {name: re.sub(r" at 0x[0-9a-f]+", "", str(value)) for name, value in settings.items()}


def share_rollout(agent: "PolicyGradientAgent", complete: bool) -> bool:
    """Give every rank the episodes of all ranks, and return whether all of them completed the rollout.

    The episodes come in the order of one process with all environments: by step, then by environment.
    """
    if not agent.ranks.several:
        return complete
    own, agent.own_episodes = agent.own_episodes, []
    ends = agent.ranks.gather((complete, agent.num_timesteps, own), "the end of the rollout")
    agent.num_timesteps = max(steps for _, steps, _ in ends)
    ended = itertools.chain.from_iterable(episodes for _, _, episodes in ends)
    for _, infos, dones in sorted(ended, key=lambda episode: episode[0]):
        OnPolicyAlgorithm._update_info_buffer(agent, infos, dones)
    return all(completed for completed, _, _ in ends)
