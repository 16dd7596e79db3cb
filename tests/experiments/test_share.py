"""`npg share`: the folder evaluates to the run's episodes, and a hostile one executes nothing."""

import json
import os
import pickle
import shutil
import subprocess
import sys
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
from run_folders import CONFIG, write_checkpoint
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

import agents
import envs  # noqa: F401 (registers Catch-v0)
from agents.policy.distributions import HEADS
from agents.shared_policy import decode_space, encode_space, read_shared_policy
from experiments.algorithms import agent_class
from experiments.evaluate import main as evaluate
from experiments.evaluation import protocol
from experiments.evaluation.seeded_episodes import make_env, play
from experiments.model_card import model_card
from experiments.normalised import normalised
from experiments.options import Evaluate, Share
from experiments.run.run_folder import RunFolder
from experiments.run.stored_policy import restore_policy
from experiments.settings.run_settings import RunSettings
from experiments.share import main
from experiments.shared_folder import read_policy, write_policy

OWN = {"policy_kwargs": {"normalize_observations": True, "normalize_returns": True, "net_arch": [8]}}
SMALL = {"policy_kwargs": {"net_arch": [8], "activation_fn": "ReLU"}}
CASES: dict[str, tuple[str, str, str, dict[str, Any], bool]] = {
    "own normalisers": ("trpo", "CartPole-v1", "MlpPolicy", OWN, False),
    "VecNormalize": ("npg", "Pendulum-v1", "MlpPolicy", SMALL, True),
    "images": ("npg", "Catch-v0", "CnnPolicy", {}, False),
    "gSDE": ("vpg", "Pendulum-v1", "MlpPolicy", {"use_sde": True} | SMALL, False),
    **{
        name: ("npg", "Pendulum-v1", "MlpPolicy", {"policy_kwargs": {"distribution": name}}, False)
        for name in HEADS
    },
    "ppo": ("sb3:ppo", "CartPole-v1", "MlpPolicy", {"policy_kwargs": {"net_arch": [8]}}, False),
}

SLOW = {"images", "gSDE", "full_gaussian", "state_dependent_gaussian"}


def write_run(
    run: Path,
    algo: str = "trpo",
    env_id: str = "CartPole-v1",
    policy: str = "MlpPolicy",
    options: dict[str, Any] = OWN,
    normalize: bool = False,
) -> Path:
    """Train for a moment, and leave config.yaml and a checkpoint as train.py does."""
    env: VecEnv = DummyVecEnv([lambda: gym.make(env_id)] * 2)
    if normalize:
        env = normalised(env)
    hyperparameters = {"n_steps": 16, "batch_size": 32, **options}
    given = yaml.safe_load(yaml.dump(hyperparameters))
    if "policy_kwargs" in given:
        given["policy_kwargs"] = agents.policy.names.with_classes(given["policy_kwargs"])
    agent = agent_class(algo)(policy, env, seed=0, device="cpu", **given)
    agent.learn(64)
    run.mkdir(parents=True, exist_ok=True)
    write_checkpoint(run, agent)
    config = {"algo": algo, "env": env_id, "seed": 0, "policy": policy, "normalize": normalize}
    (run / "config.yaml").write_text(yaml.safe_dump(CONFIG | config | {"hyperparameters": hyperparameters}))
    return run


def write_shared(run: Path, out: Path) -> Path:
    """Write the part of a shared folder that is read."""
    out.mkdir()
    settings = RunFolder(run).read_settings()
    write_policy(RunFolder(run).read_checkpoint(), settings, gym.spec(settings.env), out)
    shutil.copy(run / "config.yaml", out)
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on CartPole-v1 that no test changes."""
    return write_run(tmp_path_factory.mktemp("runs") / "seed-0")


@pytest.fixture(scope="module")
def shared(run: Path) -> Path:
    """The shared folder of that run, which no test changes."""
    return write_shared(run, run.parent / "shared")


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES]
)
def test_the_folder_plays_the_episodes_of_the_run(tmp_path: Path, case: str) -> None:
    """By npg evaluate and by agents.load: the returns are equal, bit for bit."""
    run = write_run(tmp_path / "run", *CASES[case])
    out = write_shared(run, tmp_path / "shared")
    settings, spec = RunFolder(run).read_settings(), gym.spec(CASES[case][1])
    results = [
        protocol.evaluate(read_policy(RunFolder(folder)), settings, spec, episodes=3) for folder in (run, out)
    ]
    assert results[0] == results[1] and len(results[0]["returns"]) == 3
    before = torch.get_rng_state()
    loaded = agents.load(out)
    assert (before == torch.get_rng_state()).all()
    env = make_env(spec, results[0]["seed"], 3)
    returns, _, _ = play(loaded, env, 3, deterministic=True, seed=results[0]["seed"])
    assert returns.tolist() == results[0]["returns"]


def test_parts_of_a_dict_are_normalised_by_key(tmp_path: Path) -> None:
    """`VecNormalize` on a Dict normalises some keys; so does the loaded policy."""
    space = spaces.Dict({"position": spaces.Box(-1, 1, (3,)), "choice": spaces.Discrete(4)})

    class Both(gym.Env[Any, Any]):
        observation_space, action_space = space, spaces.MultiDiscrete([2, 3])

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, _: Any) -> Any:
            return self.observation_space.sample(), 1.0, False, self.np_random.random() < 0.1, {}

    gym.register("Both-v0", Both, max_episode_steps=20)
    try:
        run = write_run(tmp_path / "run", "npg", "Both-v0", "MultiInputPolicy", SMALL, normalize=True)
        out = write_shared(run, tmp_path / "shared")
        env = make_env(gym.spec("Both-v0"), 0, 2)
        settings = RunFolder(run).read_settings()
        policy, env = restore_policy(RunFolder(run).read_checkpoint(), settings, env)
        assert isinstance(env, VecNormalize)
        loaded = agents.load(out)
        for _ in range(5):
            raw = {key: np.stack([part.sample() for _ in range(2)]) for key, part in space.items()}
            expected, _ = policy.predict(env.normalize_obs(raw), deterministic=True)
            actions, _ = loaded.predict(raw, deterministic=True)
            assert (actions == expected).all()
        assert set(read_shared_policy(out).moments) == {"position"}
    finally:
        del gym.registry["Both-v0"]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.array([1, np.inf], np.float32), dtype=np.float32),
        spaces.Box(0, 255, (3, 4, 4), np.uint8),
        spaces.Discrete(3, start=-1),
        spaces.MultiDiscrete([2, 3], start=[1, 0]),
        spaces.MultiBinary(4),
        spaces.MultiBinary([2, 2]),
        spaces.Dict({"b": spaces.Box(0, 1, ()), "a/low": spaces.Dict({"c": spaces.Discrete(2)})}),
    ],
    ids=str,
)
def test_spaces_are_read_as_they_were_written(space: spaces.Space) -> None:
    """Bounds, types, starts and the order of keys."""
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(encode_space(space, "observation_space", tensors))
    decoded = decode_space(json.loads(text), safetensors.torch.load(safetensors.torch.save(tensors)))
    assert decoded == space and decoded.dtype == space.dtype


def test_the_command_writes_a_complete_folder(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card's numbers are those of the episodes, no file is a pickle, and npg evaluate repeats them."""
    monkeypatch.setattr("experiments.share.record", lambda *args: args[-1].write_bytes(b"video"))
    out = tmp_path / "shared"
    assert main(Share(run, str(out), episodes=3)) == 0
    assert "there is no learning curve" in capsys.readouterr().out
    names = {"README.md", "config.yaml", "evaluation.json", "policy.json", "policy.safetensors", "replay.mp4"}
    assert {path.name for path in out.iterdir()} == names
    _, front, text = (out / "README.md").read_text().split("---\n", 2)
    card, result = yaml.safe_load(front), json.loads((out / "evaluation.json").read_text())
    assert (card["library_name"], card["pipeline_tag"]) == ("npg-toolkit", "reinforcement-learning")
    (metric,) = card["model-index"][0]["results"][0]["metrics"]
    assert metric["value"] == f"{np.mean(result['returns']):.2f} +/- {np.std(result['returns']):.2f}"
    assert "npg evaluate shared" in text and "agents.load('shared')" in text
    assert all(f"`{name}`" in text for name in names - {"README.md"})
    assert evaluate(Evaluate(out, episodes=3)) == 0
    assert json.loads((out / "evaluate.json").read_text())["returns"] == result["returns"]
    assert not list(tmp_path.glob(".npg-partial*"))


@pytest.mark.slow
def test_a_curve_is_drawn_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a progress.csv there is a picture; a missing extra leaves it out, and says so."""
    pytest.importorskip("matplotlib")
    run = write_run(tmp_path / "run")
    rows = "time/total_timesteps,rollout/ep_rew_mean,time/seconds\n32,,0.1\n64,10,0.2\n96,12,0.3\n"
    (run / "progress.csv").write_text(rows)
    monkeypatch.setattr("experiments.share.record", lambda *args: args[-1].write_bytes(b"video"))
    assert main(Share(run, str(tmp_path / "a"), episodes=1)) == 0
    assert (tmp_path / "a/curve.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a/progress.csv").read_text() == rows
    assert "![Training return" in (tmp_path / "a/README.md").read_text()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(Share(run, str(tmp_path / "b"), episodes=1)) == 0
    assert "curve.png" not in (tmp_path / "b/README.md").read_text()


def test_no_link_is_followed_and_nothing_is_replaced(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--to must be new: a link, a folder and a file are rejected, and a failure leaves nothing behind."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "link").symlink_to(victim)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, text in (("link", "is a link"), ("dangling", "is a link"), ("victim", "exists")):
        assert main(Share(run, str(tmp_path / name), episodes=1)) == 2
        assert text in capsys.readouterr().err
    assert main(Share(tmp_path, str(tmp_path / "new"))) == 2
    assert "expected a run folder" in capsys.readouterr().err
    assert main(Share(run, str(tmp_path / "new"), checkpoint="../x")) == 2
    capsys.readouterr()
    assert main(Share(run, str(tmp_path / "new"), episodes=0)) == 2
    assert "expected --episodes" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"victim", "link", "dangling"}
    assert not list(victim.iterdir())


def test_options_that_make_no_sense_are_rejected(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shared folder has one policy; a folder that is neither has none."""
    assert evaluate(Evaluate(shared, checkpoint="best")) == 2
    assert "it has one policy" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected a folder that npg share wrote"):
        agents.load(shared.parent)
    (tmp_path / "model.zip").touch()
    with pytest.raises(ValueError, match=r"TRPO\.load\('.*model\.zip'\)"):
        agents.load(tmp_path)


NAMED = {
    "algo": "trpo",
    "env": "CartPole-v1",
    "policy": "MlpPolicy",
    "normalize": False,
    "hyperparameters": {},
}


@pytest.mark.parametrize(
    ("settings", "comment"),
    [
        ({}, "# a raw observation\n"),
        ({"frame_stack": 4}, "# the last 4 raw observations, stacked as by VecFrameStack\n"),
        (
            {"env_wrapper": "gymnasium.wrappers.TimeAwareObservation"},
            "# a raw observation of the environment within its wrappers; see config.yaml\n",
        ),
    ],
)
def test_the_card_says_what_the_policy_sees(settings: dict[str, Any], comment: str) -> None:
    """In Python, the caller stacks and wraps."""
    values = dict.fromkeys(("mean_return", "std_return", "iqm_return", "min_return", "max_return"), 1.0)
    result = values | {"iqm_return_interval": [0.0, 2.0], "steps": 1, "episodes": 1, "seed": 0}
    assert comment in model_card(
        RunSettings.from_document(CONFIG | NAMED | settings), {}, result, (), "shared"
    )


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        """Return what `pickle` calls."""
        return Path.touch, (self.canary,)


def document(**changes: Any) -> Callable[[Path, Path], None]:
    """Return what changes policy.json and config.yaml."""

    def spoil(folder: Path, _: Path) -> None:
        content = json.loads((folder / "policy.json").read_text()) | changes
        (folder / "policy.json").write_text(json.dumps(content))
        config = yaml.safe_load((folder / "config.yaml").read_text())
        for name, value in changes.items():
            owner = config["hyperparameters"] if name == "policy_kwargs" else config
            owner["algo" if name == "algorithm" else name] = value
        (folder / "config.yaml").write_text(yaml.safe_dump(config))

    return spoil


def pickled(folder: Path, canary: Path) -> None:
    """Pickles in the place of both files."""
    torch.save(Payload(canary), folder / "policy.safetensors")


def pickled_document(folder: Path, canary: Path) -> None:
    """A pickle in the place of the document."""
    (folder / "policy.json").write_bytes(pickle.dumps(Payload(canary)))


def module(folder: Path, canary: Path) -> None:
    """A policy whose module lies in the folder, which is the current one."""
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(canary)!r}).touch()\n")
    document(policy="evil:Policy")(folder, canary)


def negative_variance(folder: Path, canary: Path) -> None:
    """Moments whose roots are NaN."""
    moments = {"mean": torch.zeros(4).double(), "var": -torch.ones(4).double(), "count": torch.ones(())}
    tensors(lambda found: found.update({f"moments//{key}": value for key, value in moments.items()}))(
        folder, canary
    )
    document(moments={"keys": [""], "clip": 10, "epsilon": 1e-8})(folder, canary)


def nested(depth: int) -> dict[str, Any]:
    """Return a Dict space in a Dict space and so on."""
    node: dict[str, Any] = {"type": "Discrete", "n": 2, "start": 0}
    for _ in range(depth):
        node = {"type": "Dict", "spaces": {"a": node}}
    return node


def linked(name: str) -> Callable[[Path, Path], None]:
    """Return what puts a link in the place of a file."""

    def spoil(folder: Path, canary: Path) -> None:
        moved = canary.with_name(name)
        (folder / name).rename(moved)
        (folder / name).symlink_to(moved)

    return spoil


def pipe(folder: Path, _: Path) -> None:
    """A pipe that nobody writes to."""
    (folder / "policy.safetensors").unlink()
    os.mkfifo(folder / "policy.safetensors")


def sparse(folder: Path, _: Path) -> None:
    """Three gigabytes that take no disk space."""
    os.truncate(folder / "policy.safetensors", 3 * 2**30)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path, Path], None]:
    """Return what changes the tensors."""

    def spoil(folder: Path, _: Path) -> None:
        found = safetensors.torch.load((folder / "policy.safetensors").read_bytes())
        change(found)
        (folder / "policy.safetensors").write_bytes(safetensors.torch.save(found))

    return spoil


def config(**changes: Any) -> Callable[[Path, Path], None]:
    """Return what changes config.yaml only, which agents.load does not read."""

    def spoil(folder: Path, _: Path) -> None:
        content = yaml.safe_load((folder / "config.yaml").read_text()) | changes
        (folder / "config.yaml").write_text(yaml.safe_dump(content))

    return spoil


HOSTILE = {
    "pickle": pickled,
    "pickled document": pickled_document,
    "module": module,
    "linked tensors": linked("policy.safetensors"),
    "linked document": linked("policy.json"),
    "pipe": pipe,
    "sparse": sparse,
    "deep": lambda folder, _: (folder / "policy.json").write_text("[" * 100_000),
    "huge network": document(policy_kwargs={"net_arch": [30_000, 30_000]}),
    "code as an argument": document(policy_kwargs={"activation_fn": "__import__('os').system"}),
    "unknown argument": document(policy_kwargs={"no_such_argument": 1}),
    "unknown algorithm": document(algorithm="os:system"),
    "lost tensor": tensors(lambda found: found.pop("policy/value_net.weight")),
    "other shape": tensors(lambda found: found.update({"policy/value_net.weight": torch.zeros(1, 9)})),
    "other type": tensors(lambda found: found.update({"policy/value_net.weight": torch.zeros(1, 8).long()})),
    "lost space": document(observation_space={"type": "Box", "dtype": "float32", "low": "x", "high": "y"}),
    "huge space": document(action_space={"type": "Discrete", "n": 10**9, "start": 0}),
    "moments of nothing": document(moments={"keys": ["x"], "clip": 1, "epsilon": 1}),
    "endless number": document(moments={"keys": [], "clip": "x", "epsilon": 1}),
    "no number": document(moments={"keys": [], "clip": float("nan"), "epsilon": 1}),
    "negative variance": negative_variance,
    "infinite weight": tensors(lambda found: found["policy/value_net.weight"].fill_(torch.inf)),
    "nested space": document(observation_space=nested(60)),
    "space of objects": document(
        observation_space={"type": "Box", "dtype": "O", "low": "observation_space/low", "high": "x"}
    ),
    "extractor": document(policy_kwargs={"features_extractor_class": "os.system"}),
    "tensor outside": tensors(lambda found: found.update({"policy/../../evil": torch.zeros(1)})),
}
TAG = "!!python/object/apply:os.system ['touch canary']"
# What only npg evaluate reads.
CONFIGS = {
    "another id": config(env_kwargs={"id": "evil:X"}),
    "text as limit": config(env_kwargs={"max_episode_steps": "x"}),
    "entry point": config(env_kwargs={"entry_point": "os:system"}),
    "wrapper of a library": config(env_wrapper="gymnasium.wrappers.rendering.os.system"),
    "wrapper that writes": config(
        vec_env_wrapper={"stable_baselines3.common.vec_env.vec_monitor.VecMonitor": {"filename": "canary"}}
    ),
    "wrapper of the folder": config(env_wrapper="evil.Wrapper"),
    "wrapper of all memory": config(
        env_wrapper={"gymnasium.wrappers.FrameStackObservation": {"stack_size": 2**48}}
    ),
    "another task": config(env="GymV26Environment-v0", env_kwargs={"env_id": "evil:X"}),
    "tag of Python": lambda folder, _: (folder / "config.yaml").write_text(TAG),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_folder_executes_nothing(
    shared: Path,
    tmp_path: Path,
    case: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """agents.load and npg evaluate reject it with a sentence, and no code in it runs."""
    folder, canary = Path(shutil.copytree(shared, tmp_path / "folder")), tmp_path / "canary"
    HOSTILE[case](folder, canary)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    with pytest.raises((ValueError, OSError)) as caught:
        agents.load(folder)
    assert ("is a link" if case.startswith("linked") else str(folder)) in str(caught.value)
    code = evaluate(Evaluate(folder, episodes=1))  # takes the spaces of the environment, not of the folder
    unread = case in ("huge space", "nested space")
    assert code == (0 if unread else 2)
    assert "Traceback" not in capsys.readouterr().err
    assert not canary.exists() and "evil" not in sys.modules


@pytest.mark.parametrize("case", CONFIGS)
def test_hostile_settings_execute_nothing(
    shared: Path,
    tmp_path: Path,
    case: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """agents.load reads none; npg evaluate rejects them with a sentence."""
    folder = Path(shutil.copytree(shared, tmp_path / "folder"))
    module(folder, tmp_path / "canary")
    shutil.copy(shared / "policy.json", folder)
    shutil.copy(shared / "config.yaml", folder)
    CONFIGS[case](folder, tmp_path)
    monkeypatch.chdir(folder)
    agents.load(folder)
    assert evaluate(Evaluate(folder, episodes=1)) == 2
    assert "error: " in (text := capsys.readouterr().err) and "Traceback" not in text
    assert not (tmp_path / "canary").exists() and not (folder / "canary").exists()
    assert "evil" not in sys.modules


def test_a_policy_of_its_author_needs_the_import(shared: Path, tmp_path: Path) -> None:
    """If the caller has imported the module, its class is used."""
    folder = Path(shutil.copytree(shared, tmp_path / "folder"))
    document(policy="agents.policy.policies:MlpPolicy")(folder, tmp_path)
    observation = np.ones(4, np.float32)
    expected = agents.load(shared).policy.predict(observation, deterministic=True)[0]
    assert agents.load(folder).predict(observation, deterministic=True)[0] == expected


FRESH = """
import pickle, sys
def forbidden(*args, **kwargs):
    raise AssertionError("something is unpickled")
import agents, numpy, torch
pickle.load = pickle.loads = torch.load = torch.serialization._load = forbidden
policy = agents.load(sys.argv[1])
print(int(policy.predict(numpy.ones(4, "float32"), deterministic=True)[0]))
assert not any(name.partition(".")[0] in ("experiments", "envs") for name in sys.modules)
"""


@pytest.mark.slow
def test_a_fresh_process_loads_it_without_pickle(shared: Path, tmp_path: Path) -> None:
    """Nothing but the package agents is needed, and its unpicklers are not used."""
    folder = Path(shutil.copytree(shared, tmp_path / "elsewhere"))
    root = Path(agents.__file__).parents[1]
    words = [sys.executable, "-c", FRESH, str(folder)]
    env = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = agents.load(shared).predict(np.ones(4, np.float32), deterministic=True)[0]
    assert int(done.stdout) == int(expected)
