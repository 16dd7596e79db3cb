"""What a run folder holds comes back as SB3 would load it, and none of it is run as code."""

import io
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces
from run_folders import CONFIG
from spaces_env import OBSERVATIONS, SpacesEnv
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

import envs  # noqa: F401 (registers Catch-v0)
from experiments.algorithms import agent_class
from experiments.run.run_folder import RunFolder
from experiments.run.stored_model import load_normaliser, save_normaliser

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
    return folder.load_policy(folder.read_settings(), env)


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
    """Train for a moment and leave config.yaml and model.zip as train.py does."""
    batch = {} if algo == "sb3:a2c" else {"batch_size": 32}
    hyperparameters = {"n_steps": 16, **batch, **settings}
    agent = agent_class(algo)(policy, env, seed=0, device="cpu", **yaml.safe_load(yaml.dump(hyperparameters)))
    agent.learn(64)
    run.mkdir(parents=True, exist_ok=True)
    agent.save(run / "model.zip")
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
    for name in ("config.yaml", "model.zip"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    return tmp_path


def change_config(run: Path, **changes: Any) -> None:
    """Write other values into config.yaml."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | changes))


def change_options(run: Path, policy_kwargs: Any) -> None:
    """Write other policy_kwargs into config.yaml."""
    change_config(run, hyperparameters={"policy_kwargs": policy_kwargs})


def change_state(run: Path, stored: bytes) -> None:
    """Put other bytes in the place of model.zip's policy.pth."""
    with zipfile.ZipFile(run / "model.zip") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(run / "model.zip", "w") as archive:
        for name, content in (entries | {"policy.pth": stored}).items():
            archive.writestr(name, content)


def saved(value: Any) -> bytes:
    """Return what torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


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

    with zipfile.ZipFile(run / "model.zip", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for name in ("data", "pytorch_variables.pth", "policy.optimizer.pth"):
            archive.writestr(name, trap)
    load_policy(run, env)  # nothing of these is read
    for state in (trap, saved(Trap(sprung)), saved({"log_std": Trap(sprung)})):
        change_state(run, state)
        with pytest.raises(ValueError, match="holds tensors alone"):
            load_policy(run, env)

    (run / "vecnormalize.pkl").write_bytes(trap)
    with pytest.raises(FileNotFoundError, match="is a pickle, which can run code"):
        load_normaliser(run / "vecnormalize.npz", env)
    np.savez(run / "vecnormalize.npz", settings=np.array([Trap(sprung)], dtype=object))
    for content in (None, trap):
        if content:
            (run / "vecnormalize.npz").write_bytes(content)
        with pytest.raises(ValueError, match="is corrupt"):
            load_normaliser(run / "vecnormalize.npz", env)

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
    """Flipped bits and cut ends are refused, or hit what is not read: no wrong number is loaded."""
    env, draw, refused = vec_env(), random.Random(0), 0
    normaliser = VecNormalize(env)
    normaliser.reset()
    save_normaliser(normaliser, run / "vecnormalize.npz")
    expected = load_policy(run, env).state_dict()
    for name in ("model.zip", "vecnormalize.npz"):
        whole = (run / name).read_bytes()
        for i in range(60):
            spoilt = bytearray(whole if i % 4 else whole[: draw.randrange(len(whole))])
            if i % 4:
                spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
            (run / name).write_bytes(spoilt)
            try:
                state = load_policy(run, env).state_dict()
                loaded = load_normaliser(run / "vecnormalize.npz", env)
            except ValueError:
                refused += 1
                continue
            assert all(torch.equal(state[key], expected[key]) for key in expected)
            for moments in ("obs_rms", "ret_rms"):
                assert vars(getattr(loaded, moments)).keys() == vars(getattr(normaliser, moments)).keys()
                for theirs, ours in zip(
                    vars(getattr(normaliser, moments)).values(),
                    vars(getattr(loaded, moments)).values(),
                    strict=True,
                ):
                    np.testing.assert_array_equal(ours, theirs)
        (run / name).write_bytes(whole)
    assert 60 < refused < 120


def without_policy(run: Path) -> None:
    """Save a zip file that is no model."""
    with zipfile.ZipFile(run / "model.zip", "w") as archive:
        archive.writestr("data", "{}")


def not_finite(run: Path) -> None:
    """Put a NaN among the parameters."""
    with zipfile.ZipFile(run / "model.zip") as archive:
        state = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    state["action_net.bias"][1] = torch.nan
    change_state(run, saved(state))


MISTAKES: dict[str, tuple[Any, str]] = {
    "no run": (lambda run: (run / "config.yaml").unlink(), "expected a run folder such as"),
    "unfinished": (lambda run: (run / "model.zip").unlink(), "the run is unfinished"),
    "empty model": (lambda run: (run / "model.zip").write_bytes(b""), "is corrupt"),
    "no policy": (without_policy, "no item named 'policy.pth'"),
    "NaN": (not_finite, "not finite, in action_net.bias"),
    "a list": (lambda run: change_state(run, saved([torch.ones(2)])), "map names to tensors"),
    "other parts": (lambda run: change_state(run, saved({"w": torch.ones(2)})), "'w' is unknown|is missing"),
    "doubles": (lambda run: change_state(run, saved({"w": 1.0})), "map names to tensors"),
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
        ValueError, match=r"should be \(64, 6\) .*, is \(64, 4\) .*version of the environment"
    ):
        load_policy(run, vec_env("Acrobot-v1"))
