"""Bridges to simulators: fakes with the public interfaces of rsl_rl, ManiSkill and Gymnasium."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from agents import TRPO
from envs import TensorEnv, TensorVecEnv
from envs.state.vec_env_checkpointer import LOST, VecEnvCheckpointer
from envs.tensor.bridges.rsl_rl import RslRlBridge
from envs.tensor.bridges.vector_env import VectorEnvBridge

N_ENVS = 4
LIMIT = 5
BOX = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACTIONS = gym.spaces.Box(-1, 1, (1,), np.float32)


class Counters:
    """Episodes that observe (their number, their time); environment i terminates after 3 + i steps.

    The memory of observations is reused. The limit is 5 steps, so environment 2 ends in both ways.
    """

    def __init__(self) -> None:
        self.episode, self.time = torch.zeros(2, N_ENVS)
        self.memory = torch.zeros(N_ENVS, 2)

    def observe(self) -> Tensor:
        """Write into the reused memory."""
        return self.memory.copy_(torch.stack((self.episode, self.time), 1))

    def begin(self, which: Tensor) -> None:
        """Begin the next episode of some."""
        self.episode, self.time = self.episode + which, torch.where(which, 0, self.time)

    def move(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return rewards, terminated, truncated."""
        self.time = self.time + 1
        return self.time * 1.0, self.time == 3 + torch.arange(N_ENVS), self.time == LIMIT


class OfRslRl(Counters):
    """The interface of rsl_rl's VecEnv, with Isaac Lab's groups of observations; dones are integers."""

    num_envs, num_actions, device, max_episode_length = N_ENVS, 1, "cpu", LIMIT

    def __init__(self, *, time_outs: bool = True, final: bool = False, legacy: bool = False) -> None:
        super().__init__()
        self.time_outs, self.final, self.legacy = time_outs, final, legacy
        self.actions: Any = None

    def group(self) -> Any:
        """Return observations for actor and critic; older simulators return the actor's and extras."""
        return (self.observe(), {}) if self.legacy else {"policy": self.observe(), "critic": self.observe()}

    def get_observations(self) -> Any:
        """Return the present observations."""
        return self.group()

    def reset(self) -> Any:
        """Begin all episodes."""
        self.begin(torch.ones(N_ENVS, dtype=torch.bool))
        return self.group()

    def step(self, actions: Tensor) -> Any:
        """Make one step."""
        self.actions = actions
        rewards, terminated, truncated = self.move()
        extras: dict[str, Any] = {"log": {"/mean": 1.0}}
        if self.time_outs:
            extras["time_outs"] = truncated & ~terminated
        if self.final:
            extras["final_obs"] = {"policy": self.observe().clone()}
        self.begin(terminated | truncated)
        observations = self.group()[0] if self.legacy else self.group()
        return observations, rewards, (terminated | truncated).long(), extras


class OfGymnasium(Counters, VectorEnv):
    """Gymnasium's VectorEnv on tensors; ManiSkill's calls final observations otherwise, and has no mode."""

    def __init__(self, mode: AutoresetMode | None, final_key: str = "final_obs") -> None:
        Counters.__init__(self)
        self.num_envs = N_ENVS
        self.single_observation_space, self.single_action_space = BOX, ACTIONS
        self.metadata = {} if mode is None else {"autoreset_mode": mode}
        self.same_step, self.final_key = mode in (None, AutoresetMode.SAME_STEP), final_key
        self.seeds: list[int | None] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin all episodes, or those of a mask."""
        self.seeds.append(seed)
        self.begin((options or {}).get("reset_mask", torch.ones(N_ENVS, dtype=torch.bool)))
        return self.observe(), {}

    def step(self, actions: Tensor) -> Any:
        """Make one step."""
        rewards, terminated, truncated = self.move()
        infos: dict[str, Any] = {}
        ended = terminated | truncated
        if self.same_step and ended.any():
            infos[self.final_key] = self.observe().clone()
            self.begin(ended)
        return self.observe(), rewards, terminated, truncated, infos


def check_walk(env: TensorEnv, *, final: str = "exact", both: bool = True, time_outs: bool = True) -> None:
    """Compare 12 steps of (episode, time) with what the rules of `Counters` give."""
    first = env.reset()
    episode, time = first[:, 0].tolist(), [0] * N_ENVS
    assert first[:, 1].tolist() == time
    for _ in range(12):
        step = env.step(torch.zeros(N_ENVS, 1))
        for i in range(N_ENVS):
            time[i] += 1
            terminated, truncated = time[i] == 3 + i, time[i] == LIMIT
            ended = terminated or truncated
            if not both:
                truncated = truncated and not terminated
            if not time_outs:
                terminated, truncated = ended, False
            expected = [episode[i], time[i] - (ended and final == "previous")]
            assert step.final_observations[i].tolist() == expected
            assert (bool(step.terminated[i]), bool(step.truncated[i])) == (terminated, truncated)
            assert step.rewards[i] == time[i]
            if ended:
                episode[i], time[i] = episode[i] + 1, 0
        assert step.observations.tolist() == [[e, t] for e, t in zip(episode, time, strict=True)]
        assert step.rewards.dtype == torch.float32 and step.terminated.dtype == torch.bool


@pytest.mark.parametrize("legacy", [False, True])
def test_rsl_rl(legacy: bool) -> None:
    """Time limits and terminations are distinguished; last observations are those before, with a warning."""
    env = RslRlBridge(OfRslRl(legacy=legacy))
    assert env.observation_space == BOX and env.action_space.shape == (1,)
    with pytest.warns(UserWarning, match="one step earlier") as warnings:
        check_walk(env, final="previous", both=False)
    assert len(warnings) == 1


@pytest.mark.filterwarnings("error")
def test_rsl_rl_with_final_observations() -> None:
    """Where the simulator gives them, nothing is approximated."""
    check_walk(RslRlBridge(OfRslRl(final=True)), both=False)


@pytest.mark.filterwarnings("ignore:.*one step earlier")
def test_rsl_rl_without_time_outs() -> None:
    """Tasks with a finite horizon only terminate; the bound of actions is the simulator's if it has one."""
    simulator = OfRslRl(time_outs=False)
    check_walk(RslRlBridge(simulator), final="previous", time_outs=False)
    assert RslRlBridge(simulator).action_space == gym.spaces.Box(-100, 100, (1,), np.float32)
    assert RslRlBridge(simulator, action_bound=2.0).action_space.high == 2.0  # type: ignore[attr-defined]
    simulator.clip_actions = 3.0  # type: ignore[attr-defined]
    assert RslRlBridge(simulator).action_space.high == 3.0  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", ["final_obs", "final_observation"])
def test_same_step(key: str) -> None:
    """Gymnasium's infos, and ManiSkill's, which does not declare its mode."""
    mode = AutoresetMode.SAME_STEP
    check_walk(VectorEnvBridge(OfGymnasium(mode, key), device="cpu"))
    check_walk(VectorEnvBridge(OfGymnasium(None, key), device="cpu", autoreset_mode=mode))


def test_disabled() -> None:
    """The bridge resets what has ended, in the same step."""
    check_walk(VectorEnvBridge(OfGymnasium(AutoresetMode.DISABLED), device="cpu"))


def test_next_step_needs_a_partial_reset() -> None:
    """Otherwise its resets would appear as transitions."""
    simulator = OfGymnasium(AutoresetMode.NEXT_STEP)
    with pytest.raises(ValueError, match="SAME_STEP or DISABLED, or pass partial_reset"):
        VectorEnvBridge(simulator, device="cpu")

    def partial_reset(env: Any, mask: Tensor) -> Tensor:
        env.begin(mask)
        return env.observe()

    check_walk(VectorEnvBridge(simulator, device="cpu", partial_reset=partial_reset))


def test_errors_of_vector_environments() -> None:
    """An unknown mode, an end without a final observation, and observations that are not one tensor."""
    with pytest.raises(ValueError, match="pass autoreset_mode"):
        VectorEnvBridge(OfGymnasium(None), device="cpu")
    env = VectorEnvBridge(OfGymnasium(AutoresetMode.SAME_STEP, "other"), device="cpu")
    env.reset()
    env.step(torch.zeros(N_ENVS, 1))
    env.step(torch.zeros(N_ENVS, 1))
    with pytest.raises(ValueError, match=r"without infos\['final_obs'\]"):
        env.step(torch.zeros(N_ENVS, 1))
    with pytest.raises(ValueError, match=r"keys \['critic', 'policy'\]; choose one by observation_key"):
        RslRlBridge(OfRslRl(), observation_key=None)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="actor"):
        RslRlBridge(OfRslRl(), observation_key="actor")


def test_seeds_reach_the_simulator_once() -> None:
    """At the next reset, as SB3 has it."""
    simulator = OfGymnasium(AutoresetMode.SAME_STEP)
    env = TensorVecEnv(VectorEnvBridge(simulator, device="cpu"))
    env.seed(7)
    env.reset()
    env.reset()
    assert simulator.seeds == [7, None]


@pytest.mark.filterwarnings("ignore:.*one step earlier")
@pytest.mark.parametrize("kind", ["rsl_rl", "vector"])
def test_an_agent_learns_from_it(kind: str, capsys: pytest.CaptureFixture) -> None:
    """Through SB3's interface; a checkpoint has no state, and says that new episodes will start."""
    bridge: TensorEnv = RslRlBridge(OfRslRl())
    if kind == "vector":
        bridge = VectorEnvBridge(OfGymnasium(AutoresetMode.SAME_STEP), device="cpu")
    env = TensorVecEnv(bridge)
    agent = TRPO("MlpPolicy", env, n_steps=16, batch_size=64, seed=0, device="cpu").learn(64)
    assert {episode["l"] for episode in agent.ep_info_buffer} == {3, 4, 5}
    assert LOST in VecEnvCheckpointer().take(env)
    assert "does not give its state" in capsys.readouterr().err
