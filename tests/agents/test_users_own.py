"""Policies, callbacks and environments of the user's own have the effect that they have under SB3."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import torch
from gymnasium import spaces
from spaces_env import SpacesEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from agents import ACKTR, TRPO, VPG, NonFiniteError

STEPS = 32


def learnt(algorithm: type[OnPolicyAlgorithm], policy: Any, env: Any, callback: Any = None) -> Any:
    """Return an agent after one rollout and update."""
    agent = algorithm(policy, env, n_steps=STEPS, batch_size=STEPS, seed=0, device="cpu")
    return agent.learn(STEPS, callback)


def same_rollouts(policy: Any, env: Any, callback: Callable[[], BaseCallback] | None = None) -> Any:
    """Assert that ours leaves the buffer that sb3-contrib leaves, and return ours."""
    ours, theirs = (learnt(a, policy, env, callback and callback()) for a in (TRPO, sb3_contrib.TRPO))
    for name in ("actions", "rewards", "values", "log_probs", "advantages"):
        one, other = (getattr(agent.rollout_buffer, name) for agent in (ours, theirs))
        assert one == pytest.approx(other, rel=1e-5, abs=1e-5), name
    return ours.rollout_buffer


class Masked(ActorCriticPolicy):
    """Never takes action 0."""

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Any:
        logits = self.action_net(latent_pi).clone()
        logits[:, 0] = -1e8
        return self.action_dist.proba_distribution(logits)


class Blind(ActorCriticPolicy):
    """Sees nothing."""

    def extract_features(self, obs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the features of zeros."""
        return super().extract_features(torch.zeros_like(obs), *args, **kwargs)


def test_a_policy_that_masks_actions_masks_them() -> None:
    """By the method that SB3's own policies have for it."""
    env = SpacesEnv(spaces.Box(-1, 1, (3,)), spaces.Discrete(3))
    assert not (same_rollouts(Masked, env).actions == 0).any()


def test_a_policy_extracts_its_own_features() -> None:
    """Acting sees what the update sees."""
    assert len(np.unique(same_rollouts(Blind, "Pendulum-v1").values)) == 1


class Anneal(BaseCallback):
    """Makes the policy calmer with every step, with or without reading what was said of it before."""

    def __init__(self, reads: bool):
        super().__init__()
        self.reads = reads

    def _on_step(self) -> bool:
        if self.reads:
            float(self.locals["log_probs"].sum() + self.locals["values"].sum())
        with torch.no_grad():
            self.model.policy.log_std.fill_(-0.05 * self.n_calls)
            self.model.policy.value_net.bias.fill_(self.n_calls)
        return True


@pytest.mark.parametrize("reads", [False, True])
def test_a_callback_may_change_the_policy_within_a_rollout(reads: bool) -> None:
    """Every step is judged by the policy that took it."""
    values = same_rollouts("MlpPolicy", "Pendulum-v1", lambda: Anneal(reads)).values
    assert np.abs(np.diff(values.flatten()) - 1).max() < 0.5


class Replace(BaseCallback):
    """Puts another layer and discount in place before a rollout."""

    def _on_rollout_start(self) -> None:
        layer = nn.Linear(64, 2)
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor([-50.0, 50.0]))
        self.model.policy.action_net = layer
        self.model.gamma = 0.5

    def _on_step(self) -> bool:
        return True


def test_a_callback_may_replace_layers_before_a_rollout() -> None:
    """They act in it."""
    agent = TRPO("MlpPolicy", "CartPole-v1", n_steps=STEPS, seed=0, device="cpu")
    _, callback = agent._setup_learn(STEPS, Replace())
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, STEPS)
    assert (agent.rollout_buffer.actions == 1).all()


@pytest.mark.parametrize("shape", [(2, 3), ()])
@pytest.mark.parametrize("agent_class", [TRPO, VPG, ACKTR])
def test_actions_have_any_shape(agent_class: type[OnPolicyAlgorithm], shape: tuple[int, ...]) -> None:
    """The environment sees its shape, distributions a row."""
    env = SpacesEnv(spaces.Box(-1, 1, (3,)), spaces.Box(-9, 9, shape))
    agent = agent_class("MlpPolicy", env, n_steps=STEPS, seed=0, device="cpu").learn(2 * STEPS)
    assert agent.rollout_buffer.actions.shape == (STEPS, int(np.prod(shape)))


class Numbered(BaseFeaturesExtractor):
    """Accept the observations 1 to 5 only, with a constant mask."""

    def __init__(self, space: spaces.Space):
        super().__init__(space, 3)
        self.table = nn.Embedding(5, 3)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, observations: Tensor) -> Tensor:
        """Return the entries of the table."""
        return self.table(observations[:, 0].long() - 1)


class Dice(gym.Env):
    """Shows a number from 1 to 5; its infos have an episode that is None."""

    observation_space = spaces.Box(1, 5, (1,), np.int64)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        """Throw."""
        super().reset(seed=seed)
        return self.np_random.integers(1, 6, 1), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Throw again."""
        return self.np_random.integers(1, 6, 1), 1.0, True, False, {"episode": None}


def test_observations_are_tried_from_their_own_space() -> None:
    """A table of 1 to 5 is never asked for 0."""
    agent = TRPO(
        "MlpPolicy",
        Dice(),
        n_steps=STEPS,
        batch_size=STEPS,
        device="cpu",
        policy_kwargs={"features_extractor_class": Numbered, "normalize_observations": False},
    )
    agent.env.envs[0] = Dice()  # without SB3's Monitor
    agent.learn(STEPS)


def test_a_mask_does_not_keep_the_normaliser_from_learning() -> None:
    """A buffer that always held -inf is none that went wrong."""
    agent = TRPO(
        "MlpPolicy",
        "Pendulum-v1",
        n_steps=STEPS,
        device="cpu",
        policy_kwargs={"normalize_observations": True},
    )
    agent.policy.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    agent.learn(STEPS)
    assert agent.policy.observation_normaliser.moments_0.count == STEPS


class Wrong(BaseFeaturesExtractor):
    """Has a bug."""

    def forward(self, observations: Tensor) -> Tensor:
        """Fail on real observations."""
        if len(observations) == 1:
            raise ValueError("my own bug")
        return observations.float()


def test_a_bug_in_a_policy_keeps_its_name() -> None:
    """It is not taken for NaN."""
    agent = TRPO(
        "MlpPolicy",
        "CartPole-v1",
        device="cpu",
        policy_kwargs={"features_extractor_class": Wrong, "features_extractor_kwargs": {"features_dim": 4}},
    )
    with pytest.raises(ValueError, match="my own bug") as error:
        agent.learn(1)
    assert not isinstance(error.value, NonFiniteError)


class Rows(KVWriter):
    """Keeps the rows of a log."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], *_: Any) -> None:
        """Keep one."""
        self.seen.append(dict(key_values))


def test_iterations_go_on_where_rows_are_rare() -> None:
    """They are counted by rollouts, not by rows of the log."""
    agent = VPG("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    rows = Rows()
    agent.set_logger(Logger(None, [rows]))
    agent.learn(8 * 15, log_interval=10)
    agent.learn(8 * 10, log_interval=10, reset_num_timesteps=False)
    assert [row["time/iterations"] for row in rows.seen if "time/iterations" in row] == [10, 25]
