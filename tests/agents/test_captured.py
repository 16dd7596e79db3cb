"""Agents with `captured=True` learn what they learn without, or say why they do not capture."""

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from fake_graph import FakeGraph, fake_graphs
from gymnasium import spaces
from masked_env import MaskedEnv
from spaces_env import OBSERVATIONS, SpacesEnv
from stable_baselines3.common.utils import set_random_seed
from torch import Tensor, nn

from agents import NPG, TRPO
from agents.natural_gradient import NaturalGradientAgent
from agents.policy.distributions import HEADS
from agents.ranks import Ranks
from npg import Damped, DiagonalFisher, ExactFisher, LinearOperator, Solution, conjugate_gradient

# On the CPU with a stand-in for graphs, and on a GPU with CUDA graphs.
on_devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
BOX = spaces.Box(-1, 1, (2,), np.float32)
ACTIONS = {
    "Box": BOX,
    "Discrete": spaces.Discrete(3),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(3),
}
UPDATES = 4
N_STEPS = 32


@pytest.fixture(autouse=True)
def graphs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use the stand-in on the CPU, except in tests without a device."""
    if getattr(request.node, "callspec", None) is None or request.node.callspec.params.get("device") != "cpu":
        yield
        return
    with fake_graphs(monkeypatch):
        yield


def make(
    agent_class: type[NaturalGradientAgent] = TRPO,
    *,
    observation: str = "box",
    action: str = "Box",
    policy_kwargs: dict[str, Any] | None = None,
    masked: bool = False,
    **options: Any,
) -> NaturalGradientAgent:
    """Return an agent."""
    kinds = {"dict": "MultiInputPolicy", "image_first": "CnnPolicy"}
    policy_kwargs = {"net_arch": [8, 8]} | (policy_kwargs or {})
    space = copy.deepcopy(ACTIONS[action])
    env = MaskedEnv(space) if masked else SpacesEnv(copy.deepcopy(OBSERVATIONS[observation]), space)
    return agent_class(
        kinds.get(observation, "MlpPolicy"),
        env,
        n_steps=N_STEPS,
        batch_size=None,
        n_critic_updates=2,
        seed=0,
        policy_kwargs=policy_kwargs,
        **{"cg_max_steps": 4, "device": "cpu", **options},
    )


def learn(agent: NaturalGradientAgent, updates: int = UPDATES) -> dict[str, Tensor]:
    """Train with a new seed of the generators that agents share, and return the policy's numbers."""
    set_random_seed(0)
    agent.learn(updates * N_STEPS, reset_num_timesteps=False)
    return {name: tensor.detach().cpu().clone() for name, tensor in agent.policy.state_dict().items()}


def assert_same(device: str, agent_class: type[NaturalGradientAgent] = TRPO, **options: Any) -> Any:
    """Assert that two agents end with the same policy, and that the captured one was replayed."""
    agent = make(agent_class, captured=True, device=device, **options)
    eager = make(agent_class, device=device, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        torch.testing.assert_close(learn(agent), learn(eager), rtol=1e-4, atol=1e-5)
    assert agent.outcomes == eager.outcomes and agent.outcomes["accepted"] > 0
    assert agent._captures is not None and agent._captures[1].failure is None
    if device == "cpu":
        assert 1 <= FakeGraph.captures <= 2 and FakeGraph.replays >= UPDATES
    return agent


@pytest.mark.covering(1)
@on_devices
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("agent_class", [NPG, TRPO])
def test_action_spaces(agent_class: type[NaturalGradientAgent], action: str, device: str) -> None:
    """All distributions, with normalisers that each update changes."""
    policy_kwargs = {"normalize_observations": True, "normalize_returns": True}
    assert_same(device, agent_class, action=action, policy_kwargs=policy_kwargs)


@on_devices
@pytest.mark.parametrize(
    "options",
    [
        {"observation": "dict", "policy_kwargs": {"normalize_observations": True}},
        {"observation": "discrete"},
        {"observation": "multi_discrete", "fisher": "finite_difference"},
        {"sub_sampling_factor": 3},
        {"masked": True, "action": "MultiDiscrete", "sub_sampling_factor": 2},
        {"use_sde": True, "sde_sample_freq": 4},
        {"adaptive_damping": True, "target_kl": lambda progress: 0.01 + 0.05 * progress},
        {"target_kl": 2.0, "line_search_max_iter": 4, "action": "Discrete"},
        {"policy_kwargs": {"share_features_extractor": True}, "critic_fit": "lbfgs"},
        *[{"policy_kwargs": {"distribution": name}} for name in HEADS],
    ],
    ids=lambda options: " ".join(options | options.get("policy_kwargs", {})),
)
def test_options(options: dict[str, Any], device: str) -> None:
    """Dictionaries, gSDE, sub-sampling, schedules, backtracking, shared layers."""
    assert_same(device, **options)


@pytest.mark.gpu
def test_images() -> None:
    """Convolutions are captured, too."""
    assert_same("cuda", observation="image_first", policy_kwargs={"net_arch": [8]})


@pytest.mark.gpu
def test_squashed_gaussians() -> None:
    """GSDE with a tanh."""
    assert_same("cuda", use_sde=True, policy_kwargs={"squash_output": True})


@on_devices
def test_a_policy_that_is_loaded_moved_or_replaced(device: str, tmp_path: Any) -> None:
    """Captures follow the policy."""
    agents = [make(captured=captured, device=device) for captured in (True, False)]

    def compare() -> None:
        torch.testing.assert_close(learn(agents[0], 1), learn(agents[1], 1), rtol=1e-4, atol=1e-5)

    compare()
    for agent in agents:
        agent.policy.load_state_dict({k: v + 0.01 for k, v in agent.policy.state_dict().items()})
    compare()
    for agent in agents:
        agent.policy.to("cpu").to(device)
    compare()
    for agent in agents:
        agent.policy.mlp_extractor.policy_net[1] = nn.ReLU()
    compare()
    loaded = []
    for agent in agents:
        agent.save(tmp_path / "agent.zip")
        loaded.append(type(agent).load(tmp_path / "agent.zip", env=agent.env, device=device))
        assert loaded[-1].captured == agent.captured
    agents[:] = loaded
    for agent in agents:
        agent.policy.mlp_extractor.policy_net[1] = nn.ReLU()
    compare()
    for agent in agents:
        agent.cg_max_steps = 6
    compare()


class OwnSolver(TRPO):
    """A user's agent with a preconditioner."""

    @property
    def solver(self) -> Callable[[LinearOperator, Tensor], Solution]:
        """Conjugate gradient with another signature."""
        return lambda operator, b: conjugate_gradient(operator, b, max_iterations=3)


class OwnFisher(TRPO):
    """A user's agent with a matrix of its own."""

    def make_fisher(self, batch: Any) -> LinearOperator:
        """Return F + I."""
        return Damped(ExactFisher(self.actor, batch.observations), 1.0)


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize(
    ("agent_class", "options", "reason"),
    [
        (TRPO, {"micro_batch_size": 8}, "micro-batches are not captured"),
        (TRPO, {"fisher": DiagonalFisher}, "only the Fisher operators 'exact' and 'finite_difference'"),
        (OwnFisher, {}, "only the Fisher operators"),
        (OwnSolver, {}, "only conjugate gradient without a preconditioner"),
    ],
)
def test_what_is_not_captured(
    agent_class: type[NaturalGradientAgent], options: dict[str, Any], reason: str, device: str
) -> None:
    """The agent says so once, and learns the same."""
    agent, eager = (make(agent_class, captured=captured, **options) for captured in (True, False))
    with pytest.warns(RuntimeWarning, match=reason) as warned:
        state = learn(agent)
    assert len([w for w in warned if "captured=True has no effect" in str(w.message)]) == 1
    torch.testing.assert_close(state, learn(eager), rtol=0, atol=0)
    assert FakeGraph.captures == 0


@pytest.mark.parametrize("device", ["cpu"])
def test_several_ranks_are_not_captured(device: str) -> None:
    """Their means need communication."""
    agent = make(captured=True)
    agent.ranks = Ranks(0, 2)
    with pytest.warns(RuntimeWarning, match="several ranks"):
        assert agent.captured_step() is None


def test_the_cpu_is_not_captured() -> None:
    """Without a CUDA device there is one warning, and the same learning."""
    agent = make(captured=True)
    with pytest.warns(RuntimeWarning, match="the policy is on cpu") as warned:
        state = learn(agent)
    assert len(warned) == 1
    torch.testing.assert_close(state, learn(make()), rtol=0, atol=0)
