"""Rollouts that stay on the device: equal to those through NumPy, with the same callbacks, errors and log."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_graph import FakeGraph, fake_graphs
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.vec_env import VecNormalize
from tensor_task import ACTIONS, RandomTask

from agents import ACKTR, NPG, TRPO, VPG, NonFiniteError
from agents.base import PolicyGradientAgent
from agents.policy.distributions import HEADS
from agents.policy.policies import MlpPolicy
from agents.rollout.batch import Batch
from agents.rollout.host_views import HostArray
from agents.rollout.tensor_buffer import TensorRolloutBuffer
from agents.rollout.tensor_rollout import true_positions
from envs import make_vec_env
from envs.state.vec_env_state import restore_vec_state, take_vec_state
from envs.tensor.tensor_vec_env import TensorVecEnv
from experiments.run.agent_state import restore_agent, take_agent
from npg import host

N, T = 5, 24
NORMALISED = {"normalize_observations": True, "normalize_returns": True}
NUMBERS = ("rewards", "log_probs", "values", "advantages", "returns")


class ThroughNumPy(RolloutBuffer):
    """A class of its own, so that rollouts go through NumPy."""


class OwnForward(MlpPolicy):
    """A policy whose forward has to be called."""

    def forward(self, obs: Any, deterministic: bool = False) -> Any:
        """Act as usual."""
        return super().forward(obs, deterministic)


def make(
    action: str = "box",
    agent_class: type[PolicyGradientAgent] = TRPO,
    bad: dict[int, tuple[str, int]] | None = None,
    policy: Any = "MlpPolicy",
    n_steps: int = T,
    **options: Any,
) -> PolicyGradientAgent:
    """Return an agent in N random tasks."""
    env = TensorVecEnv(RandomTask(N, ACTIONS[action], bad, seed=1))
    options = {"batch_size": N * n_steps, **options}
    kwargs = {"net_arch": [8], **options.pop("policy_kwargs", {})}
    return agent_class(policy, env, n_steps=n_steps, seed=3, device="cpu", policy_kwargs=kwargs, **options)


class Reader(BaseCallback):
    """Keeps what a callback sees."""

    def __init__(self, *names: str):
        super().__init__()
        self.names = names
        self.seen: list[dict[str, Any]] = []
        self.infos: list[list[dict[str, Any]]] = []

    def _on_step(self) -> bool:
        self.seen.append({name: np.asarray(self.locals[name]).copy() for name in self.names})
        self.infos.append([*self.locals["infos"]])
        return True


def collect_both(
    rollouts: int = 2, between: Callable[[PolicyGradientAgent], None] = lambda agent: None, **options: Any
) -> list[tuple[PolicyGradientAgent, Reader]]:
    """Return two agents after rollouts on the device and through NumPy, and what callbacks saw."""
    found = []
    for kind in (None, ThroughNumPy):
        agent = make(rollout_buffer_class=kind, **options)
        assert isinstance(agent.rollout_buffer, TensorRolloutBuffer if kind is None else ThroughNumPy)
        reader = Reader("new_obs", "rewards", "dones", "actions", "clipped_actions", "values", "log_probs")
        _, callback = agent._setup_learn(1000, reader)
        for _ in range(rollouts):
            between(agent)
            torch.manual_seed(7)
            assert agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
        found.append((agent, reader))
    return found


CASES: list[tuple[str, dict[str, Any]]] = [
    *[(name, {}) for name in ACTIONS],
    ("box", {"policy_kwargs": NORMALISED}),
    ("discrete", {"policy_kwargs": NORMALISED, "critic_lambda": 1.0}),
    ("box", {"use_sde": True, "sde_sample_freq": 4}),
    ("box", {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
    ("discrete", {"policy": OwnForward}),
    *[("matrix", {"policy_kwargs": {"distribution": name}}) for name in HEADS],
]


@pytest.mark.parametrize(("action", "options"), CASES)
def test_equals_the_rollout_through_numpy(action: str, options: dict[str, Any]) -> None:
    """Same seed, same rollouts to rounding, with truncated and terminated episodes; same log, same locals."""
    (ours, seen), (other, expected) = collect_both(action=action, **options)
    mine, theirs = ours.rollout_buffer, other.rollout_buffer
    assert theirs.full and mine.full and bool(mine.truncated.sum() > 1)
    for name in ("observations", "actions", "episode_starts", *NUMBERS):
        expected_values = torch.as_tensor(getattr(theirs, name))
        found = getattr(mine, name).reshape(expected_values.shape).to(expected_values.dtype)
        torch.testing.assert_close(found, expected_values, rtol=1e-5, atol=1e-5, msg=name)
    assert len(ours.ep_info_buffer) == len(other.ep_info_buffer) > 3
    for one, two in zip(ours.ep_info_buffer, other.ep_info_buffer, strict=True):
        assert (one["r"], one["l"]) == (pytest.approx(two["r"], abs=1e-4), two["l"])
    assert ours.num_timesteps == other.num_timesteps
    assert ours._last_obs == pytest.approx(other._last_obs, abs=1e-5)
    assert np.array_equal(ours._last_episode_starts, other._last_episode_starts)
    for one, two in zip(seen.seen, expected.seen, strict=True):
        for name, value in two.items():
            assert one[name].reshape(value.shape) == pytest.approx(value, rel=1e-5, abs=1e-5), name
    ends = [info for infos in seen.infos for info in infos if "episode" in info]
    assert len(ends) == len(ours.ep_info_buffer)
    for one, two in zip(ends, (i for infos in expected.infos for i in infos if "episode" in i), strict=True):
        assert one.keys() == two.keys() and one["episode"]["l"] == two["episode"]["l"]
        assert one["terminal_observation"] == pytest.approx(two["terminal_observation"], abs=1e-5)
        assert one["TimeLimit.truncated"] == two["TimeLimit.truncated"]


def test_the_policy_may_change_within_a_rollout() -> None:
    """Values and log-probabilities are those of the weights that acted, also of truncated episodes."""

    class Anneal(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls % 5 == 0:
                with torch.no_grad():
                    self.model.policy.log_std.sub_(0.1)
                    self.model.policy.value_net.bias.add_(1)
            return True

    buffers, episodes = [], []
    for kind in (None, ThroughNumPy):
        agent = make(rollout_buffer_class=kind)
        _, callback = agent._setup_learn(1000, Anneal())
        torch.manual_seed(7)
        agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, T)
        buffers.append(agent.rollout_buffer)
        episodes.append([info["l"] for info in agent.ep_info_buffer])
    assert episodes[0] == episodes[1]
    for name in NUMBERS:
        one, two = (torch.as_tensor(getattr(buffer, name)) for buffer in buffers)
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5, msg=name)


def test_a_batch_is_the_buffer_itself() -> None:
    """Step by step, without a copy; SB3's own reader gets the same states."""
    agent = make("discrete").learn(N * T)
    buffer = agent.rollout_buffer
    agent.collect_rollouts(agent.env, agent._init_callback(None), buffer, T)
    batch = Batch.from_buffer(buffer, agent.action_space)
    assert len(batch) == N * T and batch.actions.dtype == torch.int64
    assert batch.observations.data_ptr() == buffer.states.data_ptr()
    assert torch.equal(batch.observations[2 * N + 3], buffer.states[2, 3])
    samples = next(buffer.get())
    assert sorted(samples.returns.tolist()) == sorted(batch.returns.tolist())
    assert samples.actions.shape == (N * T, 1)


@pytest.mark.parametrize("agent_class", [VPG, NPG, TRPO, ACKTR])
@pytest.mark.parametrize("action", ["box", "discrete"])
def test_every_agent_trains(agent_class: type[PolicyGradientAgent], action: str) -> None:
    """On tensors, with normalisers, and with log and episodes."""
    agent = make(action, agent_class, policy_kwargs=NORMALISED).learn(3 * N * T)
    assert agent.outcomes["accepted"] == 3
    assert agent.ep_info_buffer and agent._n_updates == 3
    assert float(agent.policy.observation_normaliser.moments_0.count) == 3 * N * T


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", "TwoStateChain-v0"])
def test_tensor_environments(env_id: str) -> None:
    """Observations of any kind, here vectors and choices."""
    env = make_vec_env(env_id, N, seed=0, vec_env="tensor", env_kwargs={"device": "cpu"})
    agent = TRPO("MlpPolicy", env, n_steps=8, batch_size=8 * N, seed=0, device="cpu").learn(16 * N)
    assert isinstance(agent.rollout_buffer, TensorRolloutBuffer)
    assert agent._n_updates == 2


@pytest.mark.parametrize("where", ["observations", "rewards", "final_observations"])
@pytest.mark.parametrize("environment", [0, N - 1])
def test_bad_numbers_stop_by_name(where: str, environment: int) -> None:
    """Found at the end of the rollout, with the message that the rollout through NumPy has."""
    messages = []
    # NumPy's has the final observations only of steps that end an episode.
    for kind in (None,) if where == "final_observations" else (None, ThroughNumPy):
        bad = {T // 2: (where, environment)}
        agent = make(bad=bad, rollout_buffer_class=kind)
        before = torch.nn.utils.parameters_to_vector(agent.policy.parameters()).clone()
        with pytest.raises(
            NonFiniteError, match=rf"RandomTask-v0 \(environment {environment} of {N}\)"
        ) as error:
            agent.learn(10 * N * T)
        messages.append(str(error.value))
        assert torch.equal(torch.nn.utils.parameters_to_vector(agent.policy.parameters()), before)
        assert agent._last_obs is None
    assert len({*messages}) == 1 and f"at step {N * (T // 2 + 1)}" in messages[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("action", ["box", "discrete", "multi_discrete"])
def test_a_bad_policy_stops_by_name(action: str, value: float) -> None:
    """The first step is named, and the environment of an action."""
    agent = make(action)
    with torch.no_grad():
        agent.policy.action_net.bias.fill_(value)
    with pytest.raises(NonFiniteError, match=r"step 0.*(policy|parameters)"):
        agent.learn(N * T)
    assert agent.num_timesteps == 0


def test_sb3s_callbacks_work() -> None:
    """One that counts the episodes in `dones`, and one that ends the training."""
    agent = make().learn(100 * N * T, StopTrainingOnMaxEpisodes(max_episodes=2))
    assert len(agent.ep_info_buffer) in (
        10,
        11,
        12,
        13,
        14,
    )  # twice the number of environments, or a few more
    assert agent.num_timesteps < 100 * N * T and agent._n_updates == agent.num_timesteps // (N * T)
    steps = agent.num_timesteps
    agent.learn(N * T, reset_num_timesteps=False)  # continues after the stop
    assert agent.num_timesteps == steps + N * T


def test_episodes_are_counted_from_a_reset_by_others() -> None:
    """As `Monitor` does: the episodes that a user's reset, or an evaluation, has cut do not count."""
    env = make_vec_env("Pendulum-v1", N, seed=0, vec_env="tensor", env_kwargs={"device": "cpu"})
    agent = TRPO("MlpPolicy", env, n_steps=150, batch_size=150 * N, device="cpu").learn(150 * N)
    env.reset()
    agent.learn(2 * 150 * N, reset_num_timesteps=False)
    assert [episode["l"] for episode in agent.ep_info_buffer] == [200] * N


def test_dones_have_the_operators_of_an_array() -> None:
    """What an array of booleans gives, also where Python looks up methods on the class."""
    for flags in ([True], [False], [True, False, False]):
        array, dones = np.array(flags), HostArray(torch.tensor(flags))
        if len(flags) == 1:
            assert bool(dones) == flags[0]
        for one, other in ((~dones, ~array), (dones | array, array), (array & ~dones, array & False)):
            assert np.array_equal(one, other)
        assert np.array_equal(dones == True, array)  # noqa: E712
        assert np.array_equal(1 - dones, 1 - array) and repr(dones) == repr(array)
    with pytest.raises(ValueError, match="ambiguous"):
        bool(dones)


def test_the_host_reads_once_per_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    """`host.fetch` at the end, and nothing at a step, unless a callback reads."""
    agent = make(policy_kwargs=NORMALISED)
    fetched: list[int] = []
    fetch = host.fetch
    monkeypatch.setattr(host, "fetch", lambda *tensors: fetched.append(len(tensors)) or fetch(*tensors))
    agent.learn(3 * N * T)
    assert len(fetched) == 3


def test_resuming_continues_bit_for_bit() -> None:
    """From agent, environments and generators, as a checkpoint has them; within episodes, too."""
    whole = make(policy_kwargs=NORMALISED).learn(4 * N * T)
    first = make(policy_kwargs=NORMALISED).learn(2 * N * T)
    kept = copy.deepcopy([take_agent(first), take_vec_state(first.env), torch.get_rng_state()])
    second = make(policy_kwargs=NORMALISED)
    restore_vec_state(second.env, kept[1])
    restore_agent(second, kept[0])
    torch.set_rng_state(kept[2])
    second.learn(2 * N * T, reset_num_timesteps=False)
    for name, tensor in whole.policy.state_dict().items():
        assert torch.equal(tensor, second.policy.state_dict()[name]), name
    assert [(e["r"], e["l"]) for e in whole.ep_info_buffer] == [
        (e["r"], e["l"]) for e in second.ep_info_buffer
    ]


def test_the_buffer_follows_the_environment(tmp_path: Path) -> None:
    """Under a VecNormalize, and in other environments, rollouts go through NumPy."""
    tensors = TensorVecEnv(RandomTask(N, ACTIONS["box"]))
    agent = TRPO("MlpPolicy", VecNormalize(tensors), n_steps=T, batch_size=N * T, device="cpu")
    assert type(agent.rollout_buffer) is RolloutBuffer
    agent.learn(N * T)
    agent = make().learn(N * T)
    agent.save(tmp_path / "agent.zip")
    other = TRPO.load(tmp_path / "agent.zip", device="cpu")
    other.set_env(TensorVecEnv(RandomTask(N, ACTIONS["box"])))
    assert isinstance(other.rollout_buffer, TensorRolloutBuffer)
    other.learn(N * T)
    other.set_env(VecNormalize(TensorVecEnv(RandomTask(N, ACTIONS["box"]))))
    assert type(other.rollout_buffer) is RolloutBuffer
    other.learn(N * T)


def test_the_agent_goes_to_the_environments_device() -> None:
    """With device="auto"; on another device, rollouts go through NumPy."""
    env = make_vec_env("CartPole-v1", 2, vec_env="tensor", env_kwargs={"device": "cpu"})
    assert TRPO("MlpPolicy", env, n_steps=8, batch_size=16).device.type == "cpu"
    agent = TRPO("MlpPolicy", env, n_steps=8, batch_size=16, device="meta")
    assert type(agent.rollout_buffer) is RolloutBuffer


@pytest.mark.parametrize("action", ["box", "discrete"])
def test_captured_steps_are_the_same(monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    """With a stand-in for CUDA graphs: one capture for all rollouts, and the same numbers."""
    results = []
    for capture in (False, True):
        with fake_graphs(monkeypatch):
            agent = make(action, VPG, policy_kwargs=NORMALISED)  # its update is never captured
            agent.captured = capture
            torch.manual_seed(7)
            agent.learn(3 * N * T)
            assert (FakeGraph.captures, FakeGraph.replays) == ((1, 3 * T) if capture else (0, 0))
            results.append([agent.rollout_buffer.states, *agent.policy.state_dict().values()])
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_true_positions() -> None:
    """The indices of nonzero, without its host read."""
    mask = torch.tensor([False, True, True, False, True])
    assert true_positions(mask, 3).tolist() == [1, 2, 4]
    assert true_positions(mask[:1], 0).tolist() == []
