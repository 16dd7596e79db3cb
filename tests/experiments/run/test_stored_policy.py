"""The policy of a checkpoint is the one that SB3 would load, and nothing of the file is run as code."""

import hashlib
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from gymnasium import spaces
from run_folders import CONFIG, change_checkpoint, write_checkpoint
from spaces_env import OBSERVATIONS, SpacesEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

import envs  # noqa: F401 (registers Catch-v0)
from experiments.algorithms import agent_class
from experiments.run.checkpoint_file import HEADER, MAGIC, VERSION, write
from experiments.run.run_folder import RunFolder
from experiments.run.stored_policy import restore_policy

OWN = {"policy_kwargs": {"normalize_observations": True, "normalize_returns": True}}
SMALL = {"policy_kwargs": {"net_arch": [8]}}
SQUASHED = {"policy_kwargs": {"squash_output": True}}
CASES = {
    "own normalisers": ("trpo", "CartPole-v1", "MlpPolicy", OWN),
    "images": ("npg", "Catch-v0", "CnnPolicy", {}),
    "gSDE": ("vpg", "Pendulum-v1", "MlpPolicy", {"use_sde": True} | SMALL),
    "squashed gSDE": ("acktr", "Pendulum-v1", "MlpPolicy", {"use_sde": True} | SQUASHED),
    "ppo": ("sb3:ppo", "CartPole-v1", "MlpPolicy", SMALL),
    "a2c": ("sb3:a2c", "Pendulum-v1", "MlpPolicy", {}),
    "contrib": ("contrib:trpo", "CartPole-v1", "MlpPolicy", SMALL),
}  # fmt: skip


def load_policy(run: Path, env: VecEnv) -> Any:
    """Load a run's policy as `npg evaluate` does."""
    folder = RunFolder(run)
    settings = folder.read_settings()
    return restore_policy(folder.read_checkpoint(), settings, env)[0]


def vec_env(env_id: str = "CartPole-v1") -> VecEnv:
    """Return two environments."""
    return DummyVecEnv([lambda: gym.make(env_id)] * 2)


def write_run(
    run: Path,
    env: VecEnv,
    algo: str = "trpo",
    env_id: str = "CartPole-v1",
    policy: str = "MlpPolicy",
    settings: dict[str, Any] = OWN,
) -> Path:
    """Train for a moment and leave config.yaml, model.zip and a checkpoint as train.py does."""
    batch = {} if algo == "sb3:a2c" else {"batch_size": 32}
    hyperparameters = {"n_steps": 16, **batch, **settings}
    agent = agent_class(algo)(policy, env, seed=0, device="cpu", **yaml.safe_load(yaml.dump(hyperparameters)))
    agent.learn(64)
    run.mkdir(parents=True, exist_ok=True)
    agent.save(run / "model.zip")
    write_checkpoint(run, agent)
    config = {"algo": algo, "env": env_id, "seed": 0, "policy": policy, "normalize": False}
    config = CONFIG | config | {"hyperparameters": hyperparameters}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on CartPole-v1, which no test changes."""
    return write_run(tmp_path_factory.mktemp("runs") / "seed-0", vec_env())


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def change_config(run: Path, **changes: Any) -> None:
    """Write other values into config.yaml."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | changes))


def change_options(run: Path, policy_kwargs: Any) -> None:
    """Write other policy_kwargs into config.yaml."""
    change_config(run, hyperparameters={"policy_kwargs": policy_kwargs})


def checkpoint_of(run: Path) -> Path:
    """Return the path of a run's only checkpoint."""
    (path,) = (run / "checkpoints").iterdir()
    return path


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return what changes the policy's tensors in a run's checkpoint."""
    return lambda run: change_checkpoint(
        run, lambda content: change(content["agent"]["parameters"]["policy"])
    )


@pytest.mark.parametrize("case", CASES)
def test_policy_predicts_as_sb3s_own(case: str, tmp_path: Path) -> None:
    """Deterministic and sampled actions on raw observations are bitwise those of `Algo.load`."""
    algo, env_id, policy, settings = CASES[case]
    if algo == "contrib:trpo":
        pytest.importorskip("sb3_contrib")
    env = vec_env(env_id)
    write_run(tmp_path, env, algo, env_id, policy, settings)
    expected: Any = agent_class(algo).load(tmp_path / "model.zip", device="cpu").policy
    ours: Any = load_policy(tmp_path, env)
    env.seed(3)
    observations = env.reset()
    changing = []
    for _ in range(20):
        for deterministic in (True, False):
            actions = []
            for loaded in (expected, ours):
                torch.manual_seed(5)
                if settings.get("use_sde"):
                    loaded.reset_noise(2)
                actions.append(loaded.predict(observations, deterministic=deterministic)[0])
            np.testing.assert_array_equal(*actions)
            assert actions[0].dtype == actions[1].dtype
        changing.append(observations)
        observations = env.step(actions[0])[0]
    assert (
        np.ptp(np.array(changing, dtype=float), axis=0).max() > 0
    )  # it was not one observation twenty times


def test_policy_on_dictionaries(tmp_path: Path) -> None:
    """A policy of several inputs, one of them an image whose channels come last, is loaded alike."""
    env = DummyVecEnv([lambda: SpacesEnv(OBSERVATIONS["dict"], spaces.Discrete(3))])
    write_run(tmp_path, env, "trpo", "Dict-v0", "MultiInputPolicy", {"n_steps": 32})
    expected = agent_class("trpo").load(tmp_path / "model.zip", device="cpu")
    ours, observations = load_policy(tmp_path, env), env.reset()
    values = [
        policy.predict_values(policy.obs_to_tensor(observations)[0]) for policy in (expected.policy, ours)
    ]
    assert torch.equal(*values)


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_no_code_of_a_stranger_runs(run: Path, tmp_path: Path) -> None:
    """Pickles in each file, and YAML that names functions, are refused or left unread; none is run."""
    sprung, env = tmp_path / "sprung", vec_env()
    trap = pickle.dumps(Trap(sprung), protocol=2)
    pickle.loads(trap)
    assert sprung.exists()  # the trap works
    sprung.unlink()

    path = checkpoint_of(run)
    _, content = RunFolder(run).read_checkpoint()
    for name in ("model.zip", "vecnormalize.pkl", "vecnormalize.npz"):
        (run / name).write_bytes(trap)
    load_policy(run, env)  # none of these is read
    whole, header = path.read_bytes(), HEADER.size
    for spoilt in (trap, whole[:header] + trap, whole + trap):
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match=f"holds no valid checkpoint:\n  {path.name}: it "):
            load_policy(run, env)
    expression = f"__import__('pathlib').Path({str(sprung)!r}).touch()"
    for value in (expression, trap.decode("latin1"), {"__reduce__": [expression]}):
        content["agent"]["parameters"]["policy"]["action_net.bias"] = value
        write(path, {"score": None, "content": content})
        with pytest.raises(ValueError, match=r"action_net\.bias must be a tensor"):
            load_policy(run, env)

    document = f"algo: trpo\npolicy: !!python/object/apply:os.mkdir [{sprung}]\n"
    yaml.unsafe_load(document)
    sprung.rmdir()  # this trap works too
    (run / "config.yaml").write_text(document)
    with pytest.raises(ValueError, match="not plain YAML"):
        load_policy(run, env)
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["features_extractor_class", "activation_fn", "optimizer_class"])
def test_text_does_not_become_code(name: str, run: Path) -> None:
    """A function's name where the policy takes a class stays a name."""
    change_options(run, {name: "os.getcwd"})
    with pytest.raises(ValueError, match=f"{name}: .* has no 'os.getcwd'; use a name such as"):
        load_policy(run, vec_env())


def test_damage_is_seen(run: Path) -> None:
    """Flipped bits and cut ends are rejected: no wrong number is loaded."""
    env, draw, path = vec_env(), random.Random(0), checkpoint_of(run)
    whole = path.read_bytes()
    for i in range(120):
        spoilt = bytearray(whole if i % 4 else whole[: draw.randrange(len(whole))])
        if i % 4:
            spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match=path.name):
            load_policy(run, env)


def listed(content: dict[str, Any]) -> None:
    """Put a list in the place of the policy's tensors."""
    content["agent"]["parameters"]["policy"] = [torch.ones(2)]


def double(state: dict[str, Any]) -> None:
    """Give a tensor another type."""
    state["action_net.bias"] = state["action_net.bias"].double()


def without_tensors(content: dict[str, Any]) -> None:
    """Leave no policy."""
    del content["agent"]["parameters"]["policy"]


def test_numbers_that_are_not_finite(run: Path) -> None:
    """They are rejected with the file's name; `write` would not write them."""
    path = checkpoint_of(run)
    payload = path.read_bytes()[HEADER.size :]
    tensors = safetensors.torch.load(payload)
    number = next(
        name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.shape == (2,)
    )
    tensors[number][1] = torch.nan
    payload = safetensors.torch.save(tensors)
    path.write_bytes(HEADER.pack(MAGIC, VERSION, len(payload), hashlib.sha256(payload).digest()) + payload)
    with pytest.raises(ValueError, match=rf"{path.name}: .*tensor {number} has 1 NaN"):
        load_policy(run, vec_env())


MISTAKES: dict[str, tuple[Any, str]] = {
    "no run": (lambda run: (run / "config.yaml").unlink(), "expected a run folder such as"),
    "unfinished": (lambda run: checkpoint_of(run).unlink(), r"no valid checkpoint\n.*With model\.zip alone"),
    "empty": (lambda run: checkpoint_of(run).write_bytes(b""), "checkpoint-000000064.ckpt: it is empty"),
    "another file": (lambda run: write(checkpoint_of(run), {"a": 1}), "not the content of a run's"),
    "no policy": (lambda run: change_checkpoint(run, without_tensors), "but no run's content: .*with policy"),
    "a list": (lambda run: change_checkpoint(run, listed), "agent.parameters.policy must be a mapping"),
    "a lost part": (changed(lambda state: state.pop("action_net.bias")), "a mapping with action_net.bias"),
    "another part": (changed(lambda state: state.update(w=torch.ones(2))), 'Unexpected key.* "w"'),
    "numbers": (changed(lambda state: state.update(w=1.0)), "agent.parameters.policy.w must be a tensor"),
    "doubles": (changed(double), r"bias must be torch.float32 of shape \(2,\), not torch.float64"),
    "algorithm": (lambda run: change_config(run, algo="trop"), "'trop'; did you mean 'trpo'"),
    "policy": (lambda run: change_config(run, policy="os.system"), "unknown policy 'os.system'"),
    "options": (lambda run: change_options(run, "x"), "policy_kwargs must be a mapping such as .*, got 'x'"),
    "net": (lambda run: change_options(run, {"nets": 3}), "cannot be built"),
    "lost setting": (lambda run: change_config(run, algo=None), "algo must be a name, got None"),
    "empty config": (lambda run: (run / "config.yaml").write_text(""), "must map names to settings"),
    "binary config": (lambda run: (run / "config.yaml").write_bytes(b"\xff\x00"), "not plain YAML"),
    "deep config": (lambda run: (run / "config.yaml").write_text("[" * 5000), "not plain YAML"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_bad_run_is_refused(mistake: str, run: Path) -> None:
    """The error says what was expected, what came and what to do."""
    spoil, message = MISTAKES[mistake]
    spoil(run)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_policy(run, vec_env())


def test_other_version_of_the_environment(run: Path) -> None:
    """Spaces of another size are named with the parameters that do not fit."""
    with pytest.raises(
        ValueError, match=r"of shape \(64, 6\), not .* of shape \(64, 4\).*version of the environment"
    ):
        load_policy(run, vec_env("Acrobot-v1"))
