"""The evaluation of a run folder: its episodes, its numbers, its video and its errors."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from episodes import Episodes
from run_folders import CONFIG, write_checkpoint
from scipy.stats import trim_mean
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from experiments import evaluate
from experiments.algorithms import agent_class
from experiments.evaluate import main
from experiments.evaluation import protocol, video
from experiments.evaluation.seeded_episodes import Explorer, make_env, play
from experiments.normalised import normalised
from experiments.options import Evaluate
from experiments.run.run_folder import RunFolder
from experiments.run.stored_policy import restore_policy

SEED = 10_000


def write_run(run: Path, env_id: str, normalize: bool = False, scale: float = 10.0, **settings: Any) -> Path:
    """Train TRPO for a moment and leave what train.py leaves, without logs."""
    env: VecEnv = DummyVecEnv([lambda: gym.make(env_id)] * 2)
    env = normalised(env, 0.9) if normalize else env
    hyperparameters = {"n_steps": 64, "batch_size": 64, **settings}
    agent = agent_class("trpo")("MlpPolicy", env, seed=0, device="cpu", **hyperparameters).learn(128)
    with torch.no_grad():  # large enough to make episodes differ; with scale 0 the action is always -1
        agent.policy.action_net.weight.mul_(scale)
        agent.policy.action_net.bias.mul_(scale).sub_(float(scale == 0))
    run.mkdir()
    write_checkpoint(run, agent)
    config = {"algo": "trpo", "env": env_id, "policy": "MlpPolicy", "normalize": normalize}
    config = CONFIG | config | {"hyperparameters": hyperparameters}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on CartPole-v1."""
    return write_run(tmp_path_factory.mktemp("runs") / "cartpole", "CartPole-v1")


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on Pendulum-v1 under VecNormalize."""
    return write_run(tmp_path_factory.mktemp("runs") / "pendulum", "Pendulum-v1", normalize=True)


def load_policy(run: Path, env: VecEnv) -> Any:
    """Load a run's policy."""
    folder = RunFolder(run)
    return restore_policy(folder.read_checkpoint(), folder.read_settings(), env)[0]


def written(run: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Evaluate, and return the JSON."""
    assert main(Evaluate(run, out=out, **options)) == 0
    return dict(json.loads(out.read_text()))


def alone(env: gym.Env, seed: int, act: Any) -> tuple[float, int]:
    """Return return and length of one episode, by the bare environment."""
    observation, _ = env.reset(seed=seed)
    total, length, over = 0.0, 0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(act(observation))
        total, length, over = total + float(reward), length + 1, terminated or truncated
    return total, length


@pytest.mark.parametrize("episodes", [1, 5, 19])
def test_episode_k_starts_from_seed_plus_k(cartpole: Path, episodes: int, tmp_path: Path) -> None:
    """Returns and lengths are those of single episodes in the order of their seeds, however many."""
    result = written(cartpole, tmp_path / "e.json", episodes=episodes)
    env = gym.make("CartPole-v1")
    policy = load_policy(cartpole, DummyVecEnv([lambda: env]))
    expected = [
        alone(env, SEED + k, lambda o: policy.predict(o, deterministic=True)[0]) for k in range(episodes)
    ]
    assert list(zip(result["returns"], result["lengths"], strict=True)) == expected
    assert episodes == 1 or len(set(expected)) > 1


def test_normaliser_is_applied_and_rewards_stay_raw(pendulum: Path, tmp_path: Path) -> None:
    """Under VecNormalize the policy sees standardised observations, and returns are the environment's own."""
    result = written(pendulum, tmp_path / "e.json", episodes=3)
    env = gym.make("Pendulum-v1")
    vec_env = DummyVecEnv([lambda: env])
    policy = load_policy(pendulum, vec_env)
    (wrapper,) = RunFolder(pendulum).read_checkpoint()[1]["envs"]["wrappers"]
    mean, variance = (wrapper["kept"]["obs_rms"][name] for name in ("mean", "var"))

    def act(observation: np.ndarray) -> np.ndarray:
        standard = np.clip((observation - mean) / np.sqrt(variance + 1e-8), -10, 10)
        return policy.predict(standard.astype(np.float32), deterministic=True)[0]

    expected = [alone(env, SEED + k, act)[0] for k in range(3)]
    # Batches of another size round otherwise, and a swinging pendulum is not forgiving.
    np.testing.assert_allclose(result["returns"], expected, rtol=1e-2)
    assert max(result["returns"]) < -100


def test_numbers_of_the_summary(cartpole: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Every aggregate is that of the episodes, in the JSON as in the table."""
    result = written(cartpole, tmp_path / "e.json", episodes=20)
    for name, values in (("return", result["returns"]), ("length", result["lengths"])):
        assert result[f"mean_{name}"] == pytest.approx(np.mean(values))
        assert result[f"std_{name}"] == pytest.approx(np.std(values))
        assert result[f"median_{name}"] == np.median(values)
        assert (result[f"min_{name}"], result[f"max_{name}"]) == (min(values), max(values))
        assert result[f"iqm_{name}"] == pytest.approx(trim_mean(values, 0.25))
        low, high = result[f"iqm_{name}_interval"]
        assert low < result[f"iqm_{name}"] < high
    assert result["deterministic"] and result["seed"] == SEED and len(result["returns"]) == 20
    printed = capsys.readouterr().out
    assert f"{result['iqm_return']:.2f}" in printed and f"{low:.2f} to {high:.2f}" in printed


def test_one_episode_has_no_interval(cartpole: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Its spread is unknown, and said to be; the JSON holds no NaN, which is none of its values."""
    result = written(cartpole, tmp_path / "e.json", episodes=1)
    assert result["iqm_return_interval"] == [None, None] and "unknown" in capsys.readouterr().out


def test_default_files(cartpole: Path) -> None:
    """Without --out the numbers lie in the run; the evaluation that ended the training stays as it is."""
    (cartpole / "evaluation.json").write_text("{}")
    assert main(Evaluate(cartpole, episodes=2)) == 0
    assert len(json.loads((cartpole / "evaluate.json").read_text())["returns"]) == 2
    assert (cartpole / "evaluation.json").read_text() == "{}"
    assert not list(cartpole.glob(".*"))


def test_another_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The newest is evaluated unless another one is named; the results say after how many steps."""
    run, env = write_run(tmp_path / "run", "CartPole-v1"), DummyVecEnv([lambda: gym.make("CartPole-v1")])
    first = written(run, tmp_path / "e.json", episodes=3)
    agent = agent_class("trpo")("MlpPolicy", env, n_steps=64, batch_size=64, device="cpu")
    agent.num_timesteps = 192
    write_checkpoint(run, agent.learn(0, reset_num_timesteps=False), score=9.0)
    newest = written(run, tmp_path / "e.json", episodes=3)
    assert (first["steps"], newest["steps"]) == (128, 192) and first["returns"] != newest["returns"]
    for name, expected in (("best", newest), ("checkpoint-000000128", first), ("best.ckpt", newest)):
        assert written(run, tmp_path / "e.json", episodes=3, checkpoint=name) == expected
    assert main(Evaluate(run, checkpoint="last")) == 2
    assert "last.ckpt: there is no such file" in capsys.readouterr().err


def test_stochastic_episodes_follow_the_seed(cartpole: Path, tmp_path: Path) -> None:
    """One seed is one sequence of actions, another is another, and torch's own generator stays."""
    before = torch.random.get_rng_state()
    first, second, other, sure = (
        written(cartpole, tmp_path / "e.json", episodes=6, seed=seed, stochastic=stochastic)["returns"]
        for seed, stochastic in ((0, True), (0, True), (1, True), (0, False))
    )
    assert first == second and first != other and first != sure
    assert torch.equal(torch.random.get_rng_state(), before)


def test_noise_of_gsde_changes_as_in_training(tmp_path: Path) -> None:
    """Each environment has noise of its own, drawn anew every `interval` steps; with `predict` it has not."""
    quiet = {"policy_kwargs": {"log_std_init": -3.0}}  # no action is clipped
    run = write_run(tmp_path / "sde", "Pendulum-v1", use_sde=True, sde_sample_freq=3, **quiet)
    env = DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 2)
    policy = load_policy(run, env)
    observation = np.ones((2, 3), np.float32)
    explorer = Explorer(policy, 3)
    actions = np.array([explorer.predict(observation, None, np.zeros(2, bool))[0] for _ in range(7)])
    assert (actions[:, 0] != actions[:, 1]).all() and np.abs(actions).max() < 2
    changed = (np.diff(actions[:, 0, 0]) != 0).tolist()
    assert changed == [False, False, True, False, False, True]
    first, second = (
        written(run, tmp_path / "e.json", episodes=2, stochastic=True)["returns"] for _ in range(2)
    )
    assert first == second


def test_short_episodes_count_no_more() -> None:
    """Environments play equal shares to the end: four episodes of two lengths, whoever ends first."""

    class Alternating(Episodes):
        """Ends after one step, or after nine, as its seed is even or odd."""

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self._rewards = [1.0] * (1 if seed is not None and seed % 2 == 0 else 9)
            return super().reset(seed=seed)

    class Still:
        """Always takes the first action."""

        def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
            return np.zeros(len(observation), int), None

    spec = gym.envs.registration.EnvSpec(
        "Alternating-v0", lambda: Alternating([1.0], observations=[0.0] * 10)
    )
    for n_envs in (1, 2, 3, 4):
        env = make_env(spec, 0, n_envs)
        returns, lengths, _ = play(Still(), env, 4, deterministic=True, seed=0)
        assert returns.tolist() == lengths.tolist() == [1, 9, 1, 9]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # SB3 takes its mean and deviation
def test_reward_that_is_not_finite_is_named() -> None:
    """An infinite return enters no average."""
    spec = gym.envs.registration.EnvSpec("Infinite-v0", lambda: Episodes([0.0, np.inf]))
    env = make_env(spec, 7, 2)
    policy = agent_class("sb3:a2c")("MlpPolicy", env, device="cpu").policy
    with pytest.raises(RuntimeError, match="got inf in the episode of seed 7"):
        play(policy, make_env(spec, 7, 2), 4, deterministic=True, seed=7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run": Path("nowhere")}, "expected a run folder such as"),
        ({"episodes": 0}, "--episodes ≥ 1"),
        ({"seed": -1}, "--seed ≥ 0"),
        ({"out": Path("model.zip")}, "must be a .json file"),
        ({"out": Path("evaluation.json")}, "not the run's own evaluation.json"),
        ({"import_": ("no_such_module",)}, "--import no_such_module failed"),
    ],
)
def test_mistakes_on_the_command_line(
    options: dict[str, Any], message: str, cartpole: Path, capsys: pytest.CaptureFixture
) -> None:
    """They end with exit code 2 and a line that names the remedy."""
    assert main(Evaluate(**{"run": cartpole, **options})) == 2
    assert message in capsys.readouterr().err


def test_module_in_the_config_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Gymnasium's "module:Name-v0" runs a module's code: only --import does that here."""
    run = write_run(tmp_path / "run", "CartPole-v1")
    (tmp_path / "strangers_tasks.py").write_text(
        "import gymnasium\nfrom pathlib import Path\nPath(__file__).with_name('sprung').touch()\n"
        "gymnasium.register('Strange-v0', entry_point='gymnasium.envs.classic_control.cartpole:CartPoleEnv',"
        " max_episode_steps=20)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"env": "strangers_tasks:Strange-v0"}))
    assert main(Evaluate(run, episodes=2)) == 2
    assert "--import strangers_tasks, if you trust it" in capsys.readouterr().err
    assert not (tmp_path / "sprung").exists()
    try:
        assert main(Evaluate(run, episodes=2, import_=("strangers_tasks",))) == 0
    finally:
        gym.registry.pop("Strange-v0", None)
    assert (tmp_path / "sprung").exists()


def test_interrupt(cartpole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the command with the shell's code for it."""

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(protocol, "play", interrupt)
    assert main(Evaluate(cartpole)) == evaluate.INTERRUPTED


def decoded(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Return all frames (N, height, width, 3) of a video, and its metadata."""
    imageio = pytest.importorskip("imageio.v3")
    return imageio.imread(path, plugin="FFMPEG"), imageio.immeta(path, plugin="FFMPEG")


def test_video_of_cartpole(cartpole: Path, tmp_path: Path) -> None:
    """It decodes to every second state of the first three episodes, in the environment's size and speed."""
    pytest.importorskip("imageio_ffmpeg")
    result = written(cartpole, tmp_path / "e.json", episodes=4, video=True)
    frames, about = decoded(tmp_path / "video.mp4")
    assert frames.shape == (sum(n // 2 + 1 for n in result["lengths"][:3]), 400, 600, 3)
    assert about["codec"] == "h264" and about["pix_fmt"].startswith("yuv420p") and about["fps"] == 25
    assert frames[0].std() > 10 and not (frames[0] == frames[2]).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.json", "video.mp4"]


@pytest.mark.slow
@pytest.mark.mujoco
def test_video_of_hopper(tmp_path: Path) -> None:
    """MuJoCo draws without a display; run as a command, since it chooses its renderer when it is imported."""
    pytest.importorskip("imageio_ffmpeg")
    pytest.importorskip("mujoco")
    run = write_run(
        tmp_path / "hopper", "Hopper-v5", scale=0.0
    )  # falls in six steps: frames take long without a GPU
    command = [
        sys.executable,
        "-m",
        "experiments.command",
        "evaluate",
        str(run),
        "--episodes",
        "2",
        "--video",
    ]
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    ended = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2]
    )
    if "cannot render" in ended.stderr:
        assert ended.returncode == 2 and "MUJOCO_GL" in ended.stderr
        pytest.skip(ended.stderr.splitlines()[-1])
    assert ended.returncode == 0, ended.stderr
    lengths = json.loads((run / "evaluate.json").read_text())["lengths"]
    frames, about = decoded(run / "video.mp4")
    assert frames.shape == (sum(n // 4 + 1 for n in lengths), 480, 480, 3) and about["fps"] == 31.25
    assert frames[0].std() > 10


@pytest.mark.mujoco
def test_the_camera_follows_the_robot() -> None:
    """Gymnasium's own stands still; tasks without such a camera, and those not of MuJoCo, are left alone."""
    pytest.importorskip("mujoco")
    for name, found in (("Hopper-v5", 0), ("Reacher-v5", -1)):
        env = gym.make(name, render_mode="rgb_array")
        video.follow(env)
        assert env.unwrapped.mujoco_renderer.camera_id == found
    video.follow(gym.make("CartPole-v1", render_mode="rgb_array"))


def test_frames_are_large_and_even() -> None:
    """Small pictures grow by a whole factor, and an odd side repeats its last line."""
    frame = np.arange(3 * 41 * 81, dtype=np.uint8).reshape(81, 41, 3)
    shown = video.displayable(frame)
    assert shown.shape == (486, 246, 3)
    assert (shown[3::6, 3::6] == frame).all()
    odd = video.displayable(frame.repeat(9, axis=0).repeat(7, axis=1))
    assert odd.shape == (730, 288, 3) and (odd[-1] == odd[-2]).all() and (odd[:, -1] == odd[:, -2]).all()


def test_environment_without_pictures() -> None:
    """It is named before anything is played."""
    pytest.importorskip("imageio_ffmpeg")
    with pytest.raises(ValueError, match="CartPole-v1 has none, leave --video out"):
        video.frames_per_second(gym.spec("CartPole-v1"), {"render_modes": []})


def test_renderer_that_fails(
    cartpole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The error names what a headless machine needs; the numbers are written, and no broken video."""
    pytest.importorskip("imageio_ffmpeg")

    def fail(_: Any) -> None:
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    monkeypatch.setattr("gymnasium.envs.classic_control.cartpole.CartPoleEnv.render", fail)
    monkeypatch.setattr(video, "raised_at", lambda _: "")  # as if no file of the user's had raised it
    assert main(Evaluate(cartpole, episodes=2, out=tmp_path / "e.json", video=True)) == 2
    assert "MUJOCO_GL=osmesa" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]


def test_missing_ffmpeg(
    cartpole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Without the extra the command ends before it plays, and says what to install."""
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setattr(protocol, "play", None)
    assert main(Evaluate(cartpole, video=True)) == 2
    assert 'pip install -c constraints.txt -e ".[video]"' in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no choice of renderer")
def test_headless_rendering_leaves_the_users_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """EGL is chosen where there is no display and nothing else is said."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", *video.HEADLESS):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setenv("DISPLAY", ":0")
    video.prepare_headless()
    assert "MUJOCO_GL" not in os.environ
    monkeypatch.delenv("DISPLAY")
    video.prepare_headless()
    assert os.environ["MUJOCO_GL"] == "egl"
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    video.prepare_headless()
    assert os.environ["MUJOCO_GL"] == "osmesa"
