"""A task that only EnvPool has is trained, resumed and evaluated with EnvPool (case R10)."""

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from envs import make_vec_env
from envs.single_env import env_pool_spec, environment_spec
from envs.vector.env_pool import EnvPoolVecEnv
from envs.vector.env_pool_task import EnvPoolTask
from experiments import command

envpool = pytest.importorskip("envpool")
TASK = "Pong-v5"
SHORT = ["--steps", "32", "--episodes", "1", "--device", "cpu", "--n-envs", "2"]
# Of few steps, since an episode of Pong takes a second.
SHORT += [
    "--set",
    "n_steps=16",
    "policy=CnnPolicy",
    "n_critic_updates=1",
    "critic_fit=minibatch",
    "cg_max_steps=2",
]


def test_gymnasiums_own_tasks_stay_gymnasiums() -> None:
    """EnvPool's are for ids of which Gymnasium has no version."""
    assert env_pool_spec("CartPole-v1") is None and env_pool_spec("LunarLander-v2") is None
    assert env_pool_spec("Nothing-v0") is None
    assert environment_spec(TASK).id == TASK


def test_episodes_start_from_their_seeds() -> None:
    """One environment is the same task as a vector of EnvPool's, with an end where that has one."""
    env = gym.make(environment_spec(TASK))
    first, _ = env.reset(seed=3)
    vector = make_vec_env(TASK, 1, seed=3)
    assert np.array_equal(vector.reset()[0], first)
    for k in range(200):
        observation, reward, terminated, truncated, _ = env.step(k % 6)
        observations, rewards, dones, _ = vector.step(np.array([k % 6]))
        assert np.array_equal(observation, observations[0]) and reward == rewards[0]
        assert (terminated or truncated) == dones[0]
    assert np.array_equal(env.reset(seed=3)[0], first)
    env.close()
    vector.close()


@pytest.mark.parametrize(
    ("options", "ends"), [({}, (True, False)), ({"max_episode_steps": 5}, (False, True))]
)
def test_an_episode_ends_as_in_gymnasium(options: dict, ends: tuple[bool, bool]) -> None:
    """With its last observation instead of the next one's first, and terminated or truncated."""
    env = EnvPoolTask("CartPole-v1", **options)
    vector = EnvPoolVecEnv("CartPole-v1", 1, env_kwargs=options)
    vector.seed(3)
    vector.reset()
    env.reset(seed=3)
    for _ in range(20):
        observation, _, *flags, _ = env.step(0)
        observations, _, dones, infos = vector.step(np.array([0]))
        if dones[0]:
            break
        assert flags == [False, False]
    assert tuple(flags) == ends
    assert np.array_equal(observation, infos[0]["terminal_observation"])
    assert not np.array_equal(observation, observations[0])
    env.close()
    vector.close()


@pytest.mark.slow
def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`evaluate` gives the numbers of the end of training."""
    monkeypatch.chdir(tmp_path)
    assert command.main(["train", "--env", TASK, *SHORT]) == 0
    run = Path("runs", TASK, "trpo", "seed-0")
    assert "vec_env: envpool" in (run / "config.yaml").read_text()
    assert command.main(["evaluate", str(run)]) == 0
    assert json.loads((run / "evaluate.json").read_text()) == json.loads(
        (run / "evaluation.json").read_text()
    )
    assert command.main(["train", "--resume", str(run), "--steps", "64"]) == 0


def test_a_games_score_is_not_clipped() -> None:
    """Training on clipped rewards records what evaluation does; lives are no episodes."""
    env = EnvPoolVecEnv(
        "SpaceInvaders-v5", 2, seed=0, env_kwargs={"reward_clip": True, "max_episode_steps": 170}
    )
    env.reset()
    steps = [env.step(np.array([1, 1])) for _ in range(170)]
    clipped = sum(rewards for _, rewards, _, _ in steps)
    scores = [info["episode"]["r"] for info in steps[-1][3]]
    assert set(np.unique([rewards for _, rewards, _, _ in steps])) == {0.0, 1.0}
    assert all(scores > 4 * clipped)  # invaders are worth 5 to 30 points
    env.close()
    task = EnvPoolTask("SpaceInvaders-v5", reward_clip=True)
    task.reset(seed=0)
    assert max(task.step(1)[1] for _ in range(170)) > 1.0
    with pytest.raises(ValueError, match="leave episodic_life out of env_kwargs"):
        EnvPoolVecEnv("SpaceInvaders-v5", 1, env_kwargs={"episodic_life": True})
