"""Kinds of policies that SB3 does not have, in every algorithm of ours."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from masked_env import SPACES, MaskedEnv
from spaces_env import ACTIONS, OBSERVATIONS, SpacesEnv
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from agents import ACKTR, CPO

BOX, CHOICE = OBSERVATIONS["box"], ACTIONS["discrete"]
SHIFTED = spaces.Dict({"a": spaces.Discrete(4, start=-2), "b": spaces.MultiDiscrete([3, 2], start=[5, -1])})
LSTM = {"lstm_hidden_size": 8}


class Attention(BaseFeaturesExtractor):
    """One layer over tokens."""

    def __init__(self, space: spaces.Box):
        super().__init__(space, 4)
        self.encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean of the outputs."""
        return self.encoder(x).mean(1)


def own(observations: spaces.Space, actions: spaces.Space, **policy_kwargs: Any) -> tuple[Any, ...]:
    """Return a task with these spaces, and arguments of a policy."""
    name = "MultiInputPolicy" if isinstance(observations, spaces.Dict) else "MlpPolicy"
    return name, lambda: SpacesEnv(observations, actions), policy_kwargs


KINDS: dict[str, tuple[str, Callable[[], Any], dict[str, Any]]] = {
    **{
        name: own(BOX, ACTIONS["box"], distribution=name)
        for name in ("beta", "full_gaussian", "state_dependent_gaussian")
    },
    "attention": own(spaces.Box(-1, 1, (3, 4), np.float32), CHOICE, features_extractor_class=Attention),
    "shifted": own(SHIFTED, spaces.Discrete(3, start=5)),
    "shifted choices": own(BOX, spaces.MultiDiscrete([2, 3], start=[-1, 7])),
    "integers": own(spaces.Box(-3, 9, (2,), np.int64), spaces.Box(-2, 5, (2,), np.int64)),
    "masks and LSTM": ("MlpLstmPolicy", MaskedEnv, LSTM),
    **{
        f"masks and GRU, {name}": (
            "MlpLstmPolicy",
            lambda s=SPACES[name]: MaskedEnv(s),
            {"cell": "gru", **LSTM},
        )
        for name in ("multi_discrete", "multi_binary")
    },
}


@pytest.mark.covering(1)
@pytest.mark.parametrize("kind", KINDS)
def test_learns_and_is_saved(
    algorithm: type, make: Callable, weights: Callable, tmp_path: Path, kind: str
) -> None:
    """Two updates move the policy; a loaded agent predicts the same, and learns on."""
    policy, build, kwargs = KINDS[kind]
    if "use_masking" not in inspect.signature(algorithm).parameters:
        pytest.skip("not one of ours")
    if "Lstm" in policy and issubclass(algorithm, ACKTR | CPO):
        pytest.skip("no recurrent policies")
    env = DummyVecEnv([build] * 2)
    agent = make(policy, env, policy_kwargs={"net_arch": [8], **kwargs})
    before = weights(agent.policy)
    after = weights(agent.learn(64).policy)
    assert torch.isfinite(after).all() and not torch.equal(before, after)
    assert agent.masked is ("masks" in kind)
    agent.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env, device="cpu")
    masks = {"action_masks": env.env_method("action_masks")} if agent.masked else {}
    observations = env.reset()
    found = [each.predict(observations, deterministic=True, **masks)[0] for each in (agent, loaded)]
    assert np.array_equal(*found) and all(map(env.action_space.contains, found[0]))
    assert loaded.learn(32, reset_num_timesteps=False).num_timesteps == 96
