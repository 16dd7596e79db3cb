"""What a checkpoint stores of an agent: what the agent names."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from spaces_env import SpacesEnv
from stable_baselines3 import A2C

from agents import NPG, TRPO
from experiments.run.agent_state import restore_agent, take_agent
from experiments.run.checkpoint_schema import check_fits
from experiments.run.rank_state import content_for, take_part

SMALL: dict[str, Any] = {"n_steps": 32, "seed": 0, "device": "cpu"}


class Counting(NPG):
    """An agent with a state of its own."""

    resumable = (*NPG.resumable, "count")
    count = 0

    def policy_step(self, *args: Any) -> Any:
        """Count the step."""
        self.count += 1
        return super().policy_step(*args)


def test_an_agent_names_its_state() -> None:
    """SB3's counters, those of every agent, and those that a subclass adds."""
    agent = Counting("MlpPolicy", "CartPole-v1", batch_size=32, adaptive_damping=True, **SMALL).learn(96)
    state = take_agent(agent)
    fresh = Counting("MlpPolicy", "CartPole-v1", batch_size=32, **SMALL | {"seed": 1})
    fresh._setup_learn(96)
    restore_agent(fresh, state)
    assert (fresh.count, fresh.iterations, fresh.num_timesteps, fresh._n_updates) == (3, 3, 96, 3)
    assert fresh.outcomes == agent.outcomes and fresh.cg_damping == agent.cg_damping != 0.1
    pairs = zip(agent.policy.parameters(), fresh.policy.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_checkpoints_of_version_0_1_are_restored() -> None:
    """They have other names for three attributes."""
    agent = TRPO("MlpPolicy", "CartPole-v1", batch_size=32, **SMALL).learn(32)
    state = take_agent(agent)
    moving = state["moving"]
    moving["stop_reasons"] = {**moving.pop("outcomes"), "accepted": 7}
    moving["critic_refused"], moving["refusals"] = 2, ["update 3"]
    del moving["critic_rejected"], moving["rejections"]
    restore_agent(agent, state)
    assert agent.outcomes["accepted"] == 7
    assert (agent.critic_rejected, agent.rejections) == (2, ["update 3"])


def test_sb3s_own_algorithms_have_its_counters() -> None:
    """They declare nothing."""
    agent = A2C("MlpPolicy", "CartPole-v1", **SMALL).learn(64)
    fresh = A2C("MlpPolicy", "CartPole-v1", **SMALL)
    fresh._setup_learn(64)
    restore_agent(fresh, take_agent(agent))
    assert (fresh.num_timesteps, fresh._n_updates) == (64, 2)


def test_what_a_recurrent_policy_remembers() -> None:
    """It is restored on every rank; one of another shape does not fit; a new number of ranks starts anew."""
    options: Any = {"batch_size": 32, "policy_kwargs": {"lstm_hidden_size": 4, "cell": "gru"}}
    agent = TRPO("MlpLstmPolicy", "CartPole-v1", **options, **SMALL).learn(32)
    state = take_agent(agent)
    kept = state["moving"]["recurrent_states"]
    assert np.abs(kept).max() > 0
    content = {"agent": state, "envs": {}, "generators": {}}
    assert take_part(content)["moving"]["recurrent_states"] is kept
    fresh = TRPO("MlpLstmPolicy", "CartPole-v1", **options, **SMALL | {"seed": 1})
    fresh._setup_learn(32)
    check_fits(content, fresh)
    restore_agent(fresh, state)
    assert torch.equal(fresh.recurrent_states, agent.recurrent_states)
    other = TRPO("MlpLstmPolicy", "CartPole-v1", **options, **SMALL)
    moved = content_for(other, content | {"ranks": [take_part(content)]})
    assert not moved["agent"]["moving"]["recurrent_states"].any()
    state["moving"]["recurrent_states"] = kept[:, :, :, :3]
    with pytest.raises(ValueError, match="recurrent_states must be numbers of shape"):
        check_fits(content, fresh)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_have_the_layout_of_the_environments(channels: int) -> None:
    """Channels that were last are still side by side, as in a run that was not interrupted."""
    images = spaces.Box(0, 255, (36, 36, channels), np.uint8)
    env = SpacesEnv(spaces.Dict({"image": images, "choice": spaces.Discrete(3)}), spaces.Discrete(2))
    kwargs = {"features_extractor_kwargs": {"cnn_output_dim": 8}}
    agent = TRPO("MultiInputPolicy", env, batch_size=32, policy_kwargs=kwargs, **SMALL)
    agent._setup_learn(32)
    seen, state = agent._last_obs, take_agent(agent)
    state["moving"]["_last_obs"] = {name: part.copy("C") for name, part in seen.items()}  # as in a file
    agent._last_obs = None  # as before training
    restore_agent(agent, state)
    for name, part in agent._last_obs.items():
        assert np.array_equal(part, seen[name]) and part.strides == seen[name].strides
    assert agent._last_obs["image"].strides[1] == 1 and agent._last_obs is not seen
