"""Rollouts in tensor environments read nothing from the device before their end."""

import warnings
from typing import Any

import pytest
import torch
from device_guard import HostReadError, device_only
from stable_baselines3.common.callbacks import BaseCallback
from tensor_task import ACTIONS, RandomTask
from torch import Tensor

from agents import ACKTR, NPG, TRPO, VPG
from agents.base import PolicyGradientAgent
from agents.rollout.gae import scan_advantages
from agents.rollout.tensor_buffer import TensorRolloutBuffer
from envs.tensor.tensor_env import TensorStep
from envs.tensor.tensor_vec_env import TensorVecEnv

N, T = 6, 8
NORMALISED = {"normalize_observations": True, "normalize_returns": True, "net_arch": [8]}
# Files with operations for which an update may wait: the listed reads, and an order of minibatches that the
# CPU's generator draws.
WAITING = ("npg/host.py", "agents/critic/critic.py")
every_agent = pytest.mark.parametrize("agent_class", [VPG, NPG, TRPO, ACKTR])


def make(action: str, agent_class: type[PolicyGradientAgent] = TRPO, device: str = "cpu") -> Any:
    """Return an agent whose rollouts stay on the device."""
    env = TensorVecEnv(RandomTask(N, ACTIONS[action], seed=1, device=device))
    options: dict[str, Any] = {"n_steps": T, "batch_size": N * T, "policy_kwargs": NORMALISED}
    agent = agent_class("MlpPolicy", env, seed=0, device=device, **options)
    assert isinstance(agent.rollout_buffer, TensorRolloutBuffer)
    return agent


class Idle:
    """Environments on the meta device."""

    def __init__(self, action_shape: tuple[int, ...]):
        self.action_shape = action_shape

    def step(self, actions: Tensor) -> TensorStep:
        """Check the actions, and return tensors without values."""
        assert actions.shape == (N, *self.action_shape) and actions.device.type == "meta"
        states, flags = torch.empty(N, 3, device="meta"), torch.empty(N, dtype=torch.bool, device="meta")
        return TensorStep(states, torch.empty(N, device="meta"), flags, flags, states)


def move_to_meta(agent: Any, action: str) -> BaseCallback:
    """Move policy, buffer and environments, and return a callback as `learn` makes it."""
    _, callback = agent._setup_learn(N * T)
    agent.device = torch.device("meta")
    agent.policy.to("meta")
    agent.rollout_buffer = TensorRolloutBuffer(
        T, agent.observation_space, agent.action_space, device="meta", n_envs=N
    )
    agent.rollout_buffer.shown = agent._last_obs  # as after an earlier rollout
    agent.rollout_buffer.tally.on_host = agent.env.statistics.get_state()
    agent.env.tensor_env = Idle(ACTIONS[action].shape)
    return callback


@pytest.mark.parametrize("action", ["box", "discrete"])
def test_a_rollout_stays_on_its_device(monkeypatch: pytest.MonkeyPatch, action: str) -> None:
    """The host is informed once, at the end, whatever a callback does that reads nothing."""
    agent = make(action)
    callback = move_to_meta(agent, action)
    steps: list[int] = []

    class Counting(BaseCallback):
        def _on_step(self) -> bool:
            steps.append(len(reads))
            return self.locals["new_obs"].shape == (N, 3)

    counting = Counting()
    counting.init_callback(agent)
    for chosen in (callback, counting):
        with device_only(monkeypatch) as reads:
            assert agent.collect_rollouts(agent.env, chosen, agent.rollout_buffer, T)
            assert reads == [("fetch",)]
    assert steps == [0] * T
    assert agent.rollout_buffer.advantages.device.type == "meta"


def test_a_callback_may_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through `host.fetch` if it uses `dones` or `infos`; its own reads of tensors are its own."""
    agent = make("box")
    move_to_meta(agent, "box")

    class Reading(BaseCallback):
        def _on_step(self) -> bool:
            return bool(self.locals["dones"].any())

    class Own(BaseCallback):
        def _on_step(self) -> bool:
            return float(self.locals["rewards"].sum()) > 0

    reading, own = Reading(), Own()
    reading.init_callback(agent)
    own.init_callback(agent)
    with device_only(monkeypatch) as reads:
        agent.collect_rollouts(agent.env, reading, agent.rollout_buffer, T)
        assert reads == [("fetch",)] * (T + 1)
        with pytest.raises(HostReadError):
            agent.collect_rollouts(agent.env, own, agent.rollout_buffer, T)


def waiting_lines(work: Any) -> list[str]:
    """Return "file:line" of every operation for which the host waits for the GPU."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = [w for w in caught if "synchronizing CUDA operation" in str(w.message)]
    return [f"{w.filename}:{w.lineno}" for w in found]


@pytest.mark.gpu
@every_agent
@pytest.mark.parametrize("action", ["box", "discrete"])
@pytest.mark.parametrize("capture", [False, True])
def test_only_the_listed_reads(agent_class: type[PolicyGradientAgent], action: str, capture: bool) -> None:
    """A rollout reads in `host.fetch` alone; an update where it is listed (K-FAC's inverses wait, too)."""
    agent = make(action, agent_class, "cuda")
    agent.captured = capture
    agent.learn(2 * N * T)
    callback = agent._init_callback(None)
    lines = waiting_lines(lambda: agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, T))
    assert lines and all("npg/host.py" in line for line in lines), lines
    if agent_class is not ACKTR:
        lines = waiting_lines(agent.train)
        assert lines and all(any(file in line for file in WAITING) for line in lines), lines
    assert agent.rollout_buffer.states.device.type == "cuda"


@pytest.mark.gpu
@pytest.mark.parametrize("action", ["box", "discrete"])
def test_captured_steps_are_the_same(action: str) -> None:
    """To 1e-6 over one rollout, from equal random numbers."""
    rollouts = []
    for capture in (False, True):
        agent = make(action, device="cuda")
        agent.captured = capture
        _, callback = agent._setup_learn(N * T)
        torch.manual_seed(7)
        agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, T)
        captured = agent.rollout_buffer.stepper._step
        assert not capture or captured.failure is None, captured.failure
        rollouts.append(agent.rollout_buffer)
    for name in ("states", "actions", "log_probs", "values", "advantages"):
        one, two = (getattr(buffer, name).double() for buffer in rollouts)
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.gpu
def test_advantages_are_those_of_the_cpu() -> None:
    """The scan in O(log T) operations equals the loop."""
    agents = [make("box", device=device).learn(N * T) for device in ("cuda", "cpu")]
    buffer = agents[0].rollout_buffer
    last = agents[0].policy.predict_values(buffer.states[T]).flatten().detach()
    parts = [buffer.rewards, buffer.values, buffer.starts, last]
    found = scan_advantages(*parts, 0.99, 0.95)
    expected = scan_advantages(*(part.cpu() for part in parts), 0.99, 0.95)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-5)
