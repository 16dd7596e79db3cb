"""Every kind of policy, by command: train, resume, measure, evaluate, record, export and share."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from imported_modules import imported_module

from experiments import command
from experiments.run.plain_data import to_bytes
from experiments.run.run_folder import RunFolder

MODULE = '''
import copy

import gymnasium
import numpy as np
from gymnasium import spaces
from masked_env import SPACES, MaskedEnv
from spaces_env import ACTIONS, OBSERVATIONS, SpacesEnv
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from agents.policy.policies import MlpPolicy


class Pictures:
    """Draws pictures, and has a state that can be restored."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    render_mode = None

    def render(self):
        return np.full((16, 16, 3), 20, np.uint8)


class Task(Pictures, SpacesEnv):
    def __init__(self, observations, actions, render_mode=None):
        # Copies, since a space has a generator, and several environments may be in one process.
        super().__init__(*copy.deepcopy((SPACES_OF[observations], SPACES_OF[actions])))
        self.metadata, self.render_mode = Pictures.metadata, render_mode

    def get_state(self):
        return {"step": self._step}

    def set_state(self, state):
        self._step = state["step"]


class Masked(Pictures, MaskedEnv):
    def __init__(self, actions, render_mode=None):
        super().__init__(copy.deepcopy(SPACES[actions]))
        self.render_mode = render_mode


class Attention(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, 4)
        self.encoder = nn.TransformerEncoderLayer(space.shape[1], 2, 8, batch_first=True)
        self.out = nn.Linear(space.shape[1], 4)

    def forward(self, x):
        return self.out(self.encoder(x).mean(1))


class AttentionPolicy(MlpPolicy):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, features_extractor_class=Attention)


SPACES_OF = {
    **{f"obs_{name}": space for name, space in OBSERVATIONS.items()},
    **ACTIONS,
    "obs_shifted": spaces.Dict(
        {"a": spaces.Discrete(4, start=-2), "b": spaces.MultiDiscrete([3, 2], start=[5, -1])}
    ),
    "shifted": spaces.Discrete(3, start=5),
    "multi_shifted": spaces.MultiDiscrete([2, 3], start=[-1, 7]),
    "integers": spaces.Box(-2, 5, (2,), np.int64),
    "obs_tokens": spaces.Box(-1, 1, (3, 4), np.float32),
}
gymnasium.register("Task-v0", Task, kwargs={"observations": "obs_box", "actions": "box"})
gymnasium.register("Masked-v0", Masked, kwargs={"actions": "discrete"})
'''


def words(env: str, env_kwargs: list[str], settings: tuple[str, ...], policy_kwargs: Any) -> list[str]:
    """Return options of `npg train`; the network is small."""
    kwargs = json.dumps({"net_arch": [8]} | policy_kwargs)
    changed = ["n_steps=16", "n_critic_updates=1", *settings, f"policy_kwargs={kwargs}"]
    return ["--env", f"user_policies:{env}", "--env-kwargs", *env_kwargs, "--set", *changed]


def task(observations: str, actions: str, *settings: str, **policy_kwargs: Any) -> list[str]:
    """Return options for a task with these spaces."""
    spaces = [f"observations=obs_{observations}", f"actions={actions}"]
    return words("Task-v0", spaces, settings, policy_kwargs)


def masked(actions: str, *settings: str, **policy_kwargs: Any) -> list[str]:
    """Return options for a task with masks."""
    return words("Masked-v0", [f"actions={actions}"], settings, policy_kwargs)


LSTM: dict[str, Any] = {"lstm_hidden_size": 8}
GRU = LSTM | {"cell": "gru"}
MEMORY = "policy=MlpLstmPolicy"
CASES = {
    "LSTM": task("box", "discrete", MEMORY, **LSTM),
    "GRU, dictionaries": task("dict", "multi_binary", "policy=MultiInputLstmPolicy", **GRU),
    "LSTM, images": task("image_last", "multi_discrete", "policy=CnnLstmPolicy", **LSTM),
    "LSTM, squashed": task("box", "box", MEMORY, "use_sde=true", squash_output=True, **LSTM),
    "GRU, Beta": task("box", "box", MEMORY, distribution="beta", **GRU),
    "masks": masked("discrete"),
    "masks, MultiBinary": masked("multi_binary"),
    "masks, LSTM": masked("discrete", MEMORY, **LSTM),
    "masks, GRU, MultiDiscrete": masked("multi_discrete", MEMORY, **GRU),
    "squashed": task("box", "box", "use_sde=true", squash_output=True),
    "attention": task("tokens", "discrete", "policy=user_policies:AttentionPolicy"),
    "finite differences": task("box", "box", "fisher=finite_difference"),
    "shifted": task("shifted", "shifted", "policy=MultiInputPolicy"),
    "shifted, MultiDiscrete": task("multi_discrete", "multi_shifted"),
    "integers": task("box", "integers"),
    "integers, Beta": task("box", "integers", distribution="beta"),
}
SHORT = ("--device", "cpu", "--n-envs", "2", "--episodes", "3")
IMPORT = ("--import", "user_policies")


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A current folder with the module."""
    with imported_module(tmp_path_factory.mktemp("user"), "user_policies", MODULE) as folder:
        yield folder


def train(case: list[str], out: Path, steps: int, vec_env: str = "dummy", *others: str) -> Path:
    """Train for a moment, and return the run's folder."""
    options = ["--steps", str(steps), "--out", str(out), "--vec-env", vec_env, *IMPORT, *SHORT, *others]
    assert command.main(["train", *options, *case]) == 0
    (config,) = out.rglob("config.yaml")
    return config.parent


def read_state(run: Path) -> dict[str, Any]:
    """Return what a run's last checkpoint has of the agent and its environments."""
    content = RunFolder(run).read_checkpoint()[1]
    agent = content["agent"]
    return {"parameters": agent["parameters"], "moving": agent["moving"], "envs": content["envs"]}


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_from_training_to_a_shared_folder(name: str, tmp_path: Path) -> None:
    """Resumed, and in processes, a run has the bits of an uninterrupted one; a copy plays as it does."""
    for package in ("imageio_ffmpeg", "onnxruntime", "onnxscript", "safetensors"):
        pytest.importorskip(package)
    case = CASES[name]
    run = train(case, tmp_path / "run", 64)
    assert command.main(["train", "--resume", str(run), *IMPORT, "--steps", "96"]) == 0
    whole = train(case, tmp_path / "whole", 96, "dummy", "--geometry", "1")
    assert to_bytes(read_state(run)) == to_bytes(read_state(whole))
    for vec_env in ("workers", "subproc"):
        other = train(case, tmp_path / vec_env, 96, vec_env)
        assert to_bytes(read_state(run)["parameters"]) == to_bytes(read_state(other)["parameters"])
    assert "npg/geometry/condition" in (whole / "progress.csv").read_text().splitlines()[0]

    assert command.main(["evaluate", str(run), "--video", *IMPORT]) == 0
    returns = read_json(run / "evaluation.json")["returns"]
    assert returns == read_json(run / "evaluate.json")["returns"] and (run / "video.mp4").stat().st_size
    sampled = ["evaluate", str(run), "--stochastic", "--out", str(tmp_path / "sampled.json"), *IMPORT]
    assert command.main(sampled) == 0
    assert command.main(["export", str(run), *IMPORT]) == 0
    shared = tmp_path / "shared"
    assert command.main(["share", str(run), "--to", str(shared), *IMPORT]) == 0
    assert command.main(["evaluate", str(shared), *IMPORT]) == 0
    assert read_json(shared / "evaluate.json")["returns"] == returns
