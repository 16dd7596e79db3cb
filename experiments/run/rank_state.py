"""The part of a checkpoint that differs between ranks: their environments and generators."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents import PolicyGradientAgent
from agents.ranks import Ranks
from envs.state.vec_env_checkpointer import LOST, NORMALISER
from experiments.run.generators import take_generators

# Of agent.moving.
OWN = ("_last_obs", "_last_original_obs", "_last_episode_starts", "recurrent_states")


def ranks_of(agent: OnPolicyAlgorithm) -> Ranks:
    """Return the ranks that train an agent: one if it is SB3's."""
    return agent.ranks if isinstance(agent, PolicyGradientAgent) else Ranks()


def take_part(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a rank's content that the other ranks do not have."""
    agent = content["agent"]
    return {
        "moving": {name: agent["moving"][name] for name in OWN if name in agent["moving"]},
        "noise": agent["noise"],
        "envs": content["envs"],
        "generators": content["generators"],
    }


def content_for(agent: OnPolicyAlgorithm, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's content as this rank is to restore it.

    On another number of ranks than the checkpoint's, environments and generators start anew.
    """
    ranks = ranks_of(agent)
    others = content.get("ranks", [])
    if len(others) + 1 != ranks.size:
        assert agent.env is not None
        present = agent.resumable_state() if isinstance(agent, PolicyGradientAgent) else {}
        part = {
            "moving": {
                **{name: present[name] for name in OWN if name in present},
                "_last_obs": agent.env.reset(),
                "_last_original_obs": None,
                "_last_episode_starts": np.ones(agent.n_envs, dtype=bool),
            },
            "noise": {},
            "envs": {LOST: "the number of ranks has changed", NORMALISER: None},
            "generators": take_generators(),
        }
    elif ranks.rank == 0:
        return dict(content)
    else:
        part = others[ranks.rank - 1]
    state = content["agent"]
    own = {"moving": state["moving"] | part["moving"], "noise": part["noise"]}
    return {**content, "agent": state | own, "envs": part["envs"], "generators": part["generators"]}


def number_of_environments(content: Mapping[str, Any]) -> int:
    """Return the number of environments of all ranks that made a checkpoint."""
    parts = (content["agent"], *content.get("ranks", ()))
    return sum(len(part["moving"]["_last_episode_starts"]) for part in parts)
