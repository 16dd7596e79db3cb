"""The MuJoCo tasks on tensors against Gymnasium's: steps, first states, returns, and training on them.

The first run compiles the kernels of MuJoCo Warp, which takes minutes; Warp keeps them in its cache.
"""

import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ks_2samp
from stable_baselines3.common.evaluation import evaluate_policy

from agents import TRPO
from agents.policy.normalisation import RunningMoments
from envs import make_tensor_env, make_vec_env
from envs.errors import MissingExtraError
from envs.tensor.mujoco.mujoco_task import MujocoTask
from envs.tensor.registry import TENSOR_ENVS
from experiments.settings.arguments import Arguments
from experiments.train import main

ROBOTS = sorted(name for name, task in TENSOR_ENVS.items() if issubclass(task, MujocoTask))  # type: ignore[arg-type]
TOLERANCE = 1e-4
Policy = Callable[[np.ndarray], np.ndarray]


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where MuJoCo itself is missing."""
    for module in ("mujoco_warp", "mujoco"):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtraError, match=r'pip install -c constraints.txt -e "\.\[warp\]"'):
            make_vec_env("Hopper-v5", 2, vec_env="tensor", env_kwargs={"device": "cpu"})


def test_other_types_than_float32_are_rejected() -> None:
    """Before anything is built."""
    with pytest.raises(ValueError, match=r"MuJoCo Warp computes in torch.float32, got dtype=torch.float64"):
        make_tensor_env("Ant-v5", 2, dtype=torch.float64)


def make(name: str, n: int, **kwargs: Any) -> Any:
    """Return environments; skip the test without MuJoCo Warp."""
    pytest.importorskip("mujoco_warp")
    return make_tensor_env(name, n, **{"seed": 0, **kwargs})


@cache
def trained(name: str) -> TRPO:
    """Return an agent after a few updates on the tensor environments."""
    vec_env = make_vec_env(name, 64, seed=0, vec_env="tensor", env_kwargs={"device": "cpu"})
    agent = TRPO("MlpPolicy", vec_env, n_steps=32, seed=0, device="cpu", target_kl=0.05)
    return agent.learn(10 * 64 * 32)


def policy(name: str, kind: str) -> Policy:
    """Return a random or a partly trained policy."""
    if kind == "trained":
        agent = trained(name)
        return lambda observations: agent.predict(observations)[0]
    space: Any = gym.make(name).action_space
    rng = np.random.default_rng(0)
    return lambda seen: rng.uniform(space.low, space.high, (len(seen), *space.shape)).astype(np.float32)


def rewarded_x(env: Any) -> float:
    """Return the x coordinate of which one of Gymnasium's environments rewards the speed."""
    match type(env).__name__:
        case "AntEnv":
            return float(env.data.body(env._main_body).xpos[0])
        case "HumanoidEnv":
            return float(env.model.body_mass @ env.data.xipos[:, 0] / env.model.body_mass.sum())
    return float(env.data.qpos[0])


def copy_states(ours: Any, theirs: list[Any]) -> None:
    """Give the tensor environments the states of Gymnasium's."""
    for i, env in enumerate(theirs):
        data = env.data
        offset = rewarded_x(env) - data.qpos[0]
        row = np.concatenate((data.qacc_warmstart, [offset], data.qpos, data.qvel))
        ours.state[: len(row), i] = torch.as_tensor(row)


def relative_error(found: Any, expected: Any) -> np.ndarray:
    """Return |difference| / max(1, |expected|)."""
    return np.abs(np.asarray(found) - expected) / np.maximum(1, np.abs(expected))


def compare_steps(name: str, act: Policy, states: int = 1000, n: int = 20) -> pd.DataFrame:
    """Step both from equal states along Gymnasium's episodes; return the largest errors, one row per state.

    Every fifth step is compared. The column ``entry`` has errors relative to each entry of the observation,
    ``part`` those relative to the largest entry of its part, e.g. of qvel.
    """
    ours = make(name, n)
    theirs: list[Any] = [gym.make(name, disable_env_checker=True) for _ in range(n)]
    seen = np.stack([env.reset(seed=i)[0] for i, env in enumerate(theirs)])
    structure = theirs[0].unwrapped.observation_structure
    sizes = [size for part, size in structure.items() if size and part != "skipped_qpos"]
    parts = np.cumsum(sizes)[:-1]
    rows: list[dict[str, Any]] = []
    while len(rows) < states:
        actions = act(seen)
        copy_states(ours, [env.unwrapped for env in theirs])
        ours.elapsed.zero_()
        step = ours.step(torch.as_tensor(actions))
        for i, env in enumerate(theirs):
            seen[i], reward, terminated, truncated, info = env.step(actions[i])
            pairs = zip(
                np.split(step.final_observations[i].numpy(), parts), np.split(seen[i], parts), strict=True
            )
            terms = {key: relative_error(x[i], info[key]) for key, x in ours.reward_terms.items()}
            rows.append(
                {
                    "entry": relative_error(step.final_observations[i], seen[i]).max(),
                    "part": max(np.abs(x - y).max() / max(1, np.abs(y).max()) for x, y in pairs),
                    "reward": max(relative_error(step.rewards[i], reward), *terms.values()),
                    "end": bool(step.terminated[i]) == terminated and not step.truncated[i],
                }
            )
            for _ in range(4):
                if not (terminated or truncated):
                    seen[i], _, terminated, truncated, _ = env.step(act(seen[i : i + 1])[0])
            if terminated or truncated:
                seen[i] = env.reset()[0]
    return pd.DataFrame(rows)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random", "trained"])
@pytest.mark.parametrize("name", ROBOTS)
def test_a_step_is_gymnasiums(name: str, kind: str) -> None:
    """Observation, each term of the reward, and the end; docs/tensor-environments.md has the exceptions."""
    pytest.importorskip("mujoco_warp")
    errors = compare_steps(name, policy(name, kind))
    assert errors.end.all()
    assert (errors.reward < TOLERANCE).mean() >= 0.99
    assert (errors.part < TOLERANCE).mean() >= 0.99
    assert (errors.entry < TOLERANCE).mean() >= LEAST_ENTRIES.get(name, 0.99)


# {task: the smallest part of states in which every entry of the observation is equal}
LEAST_ENTRIES = {"HalfCheetah-v5": 0.98, "Humanoid-v5": 0.91}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROBOTS)
def test_first_observations_are_gymnasiums(name: str) -> None:
    """Those of equal states, and their distribution: after a reset, and within a step, after contacts.

    Also after a normaliser, to which rounding of an entry that is always the same must be no signal.
    """
    n = 500
    ours, env = make(name, n, max_episode_steps=1000), gym.make(name)
    theirs = np.stack([env.reset(seed=i)[0] for i in range(n)])
    unwrapped: Any = env.unwrapped
    actions = torch.full((n, *ours.action_space.shape), 0.3)
    normalise = RunningMoments(theirs.shape[1:])
    normalise.update(torch.as_tensor(theirs))

    def end_all() -> torch.Tensor:
        for _ in range(14):
            ours.step(actions)
        ours.elapsed.fill_(999)
        return ours.step(actions).observations

    for start in (ours.reset, end_all):
        first = start()
        assert first.shape == theirs.shape
        for column, expected in zip(first.T.numpy(), theirs.T, strict=True):
            if np.ptp(expected) > 1e-6:  # a constant of float64 is not one of float32
                assert ks_2samp(column, expected).pvalue > 1e-5
            else:
                np.testing.assert_allclose(column, expected, atol=1e-5)
        for i in range(3):
            _, _, qpos, qvel, _ = ours._split(ours.state[:, i].double())
            unwrapped.reset()
            unwrapped.set_state(qpos.numpy(), qvel.numpy())
            expected = unwrapped._get_obs()
            assert relative_error(first[i], expected).max() < 1e-5
            assert (normalise(first[i].double()) - normalise(torch.as_tensor(expected))).abs().max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ROBOTS)
def test_a_policy_has_the_same_return_in_both(name: str) -> None:
    """Over 50 whole episodes in each, within 4 standard errors of the difference."""
    pytest.importorskip("mujoco_warp")
    both = []
    for kind in ("tensor", "dummy"):
        returns, lengths = evaluate_policy(
            trained(name),
            make_vec_env(name, 50, seed=1, vec_env=kind),
            50,
            deterministic=False,
            return_episode_rewards=True,
        )
        both.append(np.array([returns, lengths], dtype=np.float64))
    ours, theirs = both
    error = np.sqrt(ours.var(axis=1) / 50 + theirs.var(axis=1) / 50)
    assert (np.abs(ours.mean(axis=1) - theirs.mean(axis=1)) <= 4 * error + 1e-6).all()


@pytest.mark.slow
def test_distance_costs_no_precision() -> None:
    """A step far from the origin is the one at the origin, moved."""
    near, far = make("Ant-v5", 2), make("Ant-v5", 2, exclude_current_positions_from_observation=False)
    state = near.state_dict()
    far.load_state_dict(state)
    row = near._nv + 1
    far.state[row] += 5000
    actions = torch.full((2, 8), 0.5)
    one, other = near.step(actions), far.step(actions)
    assert torch.equal(one.rewards, other.rewards)
    assert torch.equal(one.observations, other.observations[:, 2:])
    assert torch.equal(other.observations[:, 0], far.state[row]) and (far.state[row] > 4999).all()


@pytest.mark.slow
def test_limits_and_arguments() -> None:
    """The time limit, no termination if it is turned off, and a frame."""
    env = make("Hopper-v5", 2, max_episode_steps=2, terminate_when_unhealthy=False, healthy_z_range=(9, 10))
    actions = torch.zeros(2, 3)
    flags = [env.step(actions) for _ in range(4)]
    assert [step.truncated.tolist() for step in flags] == [[False] * 2, [True] * 2] * 2
    assert not any(step.terminated.any() for step in flags)
    assert (env.reward_terms["reward_survive"] == 0).all()
    assert make("Hopper-v5", 2, healthy_z_range=(9, 10)).step(actions).terminated.all()


@pytest.mark.slow
def test_a_resumed_run_is_the_whole_one(tmp_path: Path) -> None:
    """Trained on the command line, in two parts: the same log and the same evaluation."""
    pytest.importorskip("mujoco_warp")
    settings = ("n_steps=8", "n_critic_updates=1", "batch_size=64")
    common: dict[str, Any] = {
        "env": ("Hopper-v5",),
        "device": "cpu",
        "vec_env": "tensor",
        "n_envs": 64,
        "episodes": 2,
    }
    folders = [tmp_path / name / "Hopper-v5" / "trpo" / "seed-0" for name in ("whole", "parts")]
    assert main(Arguments(out=tmp_path / "whole", steps=2048, **common, set=(settings,))) == 0
    assert main(Arguments(out=tmp_path / "parts", steps=1024, **common, set=(settings,))) == 0
    assert main(Arguments(resume=folders[1], steps=2048)) == 0
    logs = [pd.read_csv(folder / "progress.csv") for folder in folders]
    times = ["time/fps", "time/time_elapsed", "time/seconds"]
    pd.testing.assert_frame_equal(*(log.drop(columns=times).sort_index(axis=1) for log in logs))
    whole, parts = (json.loads((folder / "evaluation.json").read_text()) for folder in folders)
    assert whole == parts
