"""The update of every agent stays on its device, and reads it seldom and through `npg.host` alone."""

from typing import Any

import numpy as np
import pytest
import torch
from device_guard import device_only
from gymnasium import spaces
from spaces_env import SpacesEnv
from torch import Tensor

from agents import ACKTR, NPG, TRPO, VPG
from agents.base import PolicyGradientAgent
from agents.policy.actor import PolicyActor
from agents.policy.normalisation import ObservationNormaliser, RunningMoments
from agents.policy.statistics import observe
from agents.rollout.batch import standardise
from npg import SurrogateObjective, host

ROLLOUT = 16
ACTIONS = {
    "Box": spaces.Box(-1, 1, (2,)),
    "Discrete": spaces.Discrete(3),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(3),
}
CRITICS = {
    VPG: ("minibatch", "lbfgs"),
    NPG: ("minibatch", "lbfgs"),
    TRPO: ("minibatch", "lbfgs"),
    ACKTR: ("minibatch",),  # by name: it has its own
}
every_update = pytest.mark.parametrize(
    ("agent_class", "critic_fit"),
    [(agent_class, fit) for agent_class, fits in CRITICS.items() for fit in fits],
    ids=lambda value: getattr(value, "__name__", value),
)


def make(
    agent_class: type[PolicyGradientAgent],
    critic_fit: str,
    action: str = "Box",
    normalised: bool = False,
    width: int = 4,
) -> PolicyGradientAgent:
    """Return an agent with a full rollout buffer."""
    env = SpacesEnv(spaces.Box(-1, 1, (3,)), ACTIONS[action])
    options: dict[str, Any] = {} if agent_class is ACKTR else {"critic_fit": critic_fit}
    policy_kwargs = {
        "normalize_observations": normalised,
        "normalize_returns": normalised,
        "net_arch": [width],
    }
    agent = agent_class(
        "MlpPolicy",
        env,
        n_steps=ROLLOUT,
        batch_size=8,
        seed=0,
        device="cpu",
        policy_kwargs=policy_kwargs,
        **options,
    )
    agent.learn(ROLLOUT)
    return agent


def move_to_meta(agent: PolicyGradientAgent) -> None:
    """Move all that an update reads to the meta device, with optimizers of the moved parameters."""
    agent.device = torch.device("meta")
    agent.policy.to("meta")
    agent.policy.optimizer = torch.optim.Adam(agent.policy.parameters(), lr=1e-3)
    agent.actor = PolicyActor(agent.policy)
    agent.rollout_buffer.device = agent.device
    if isinstance(agent, VPG):
        agent._start_optimizer(torch.zeros_like(agent.actor_vector, device="meta"))
    if isinstance(agent, ACKTR):
        agent._start()


@pytest.mark.covering(2)
@every_update
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("normalised", [False, True])
def test_an_update_stays_on_its_device(
    monkeypatch: pytest.MonkeyPatch,
    agent_class: type[PolicyGradientAgent],
    critic_fit: str,
    action: str,
    normalised: bool,
) -> None:
    """Gradient, solve, candidates, critic fit, normalisers and log: no read but through `host.read`."""
    agent = make(agent_class, critic_fit, action, normalised)
    move_to_meta(agent)
    with device_only(monkeypatch):
        agent.train()
    assert agent.outcomes["accepted"] == 2
    assert all(tensor.device.type == "meta" for tensor in agent.policy.state_dict().values())


@every_update
def test_an_update_reads_once_per_solve_and_once_per_candidate(
    monkeypatch: pytest.MonkeyPatch, agent_class: type[PolicyGradientAgent], critic_fit: str
) -> None:
    """Counted on the CPU, with the shortcuts that only a CPU takes switched off."""
    # So wide that conjugate gradient does not restart, since each start would read once.
    agent = make(agent_class, critic_fit, normalised=True, width=64)
    reads: list[set[str]] = []
    read = host.read

    def counted(**scalars: Tensor) -> dict[str, float]:
        if scalars:
            reads.append(set(scalars))
        return read(**scalars)

    monkeypatch.setattr(host, "read", counted)
    monkeypatch.setattr(host, "peek", lambda condition: None)
    evaluated: list[Any] = []
    measure = SurrogateObjective.measure
    monkeypatch.setattr(
        SurrogateObjective, "measure", lambda self, step: evaluated.append(step) or measure(self, step)
    )
    agent.train()
    candidates = [names for names in reads if "surrogate_before" in names]
    solves = [names for names in reads if "outcome" in names or any("inverse of" in name for name in names)]
    fits = [names for names in reads if "finite" in names and names not in candidates and names not in solves]
    assert len(candidates) == len(evaluated) >= 1
    assert len(solves) <= 1 + (agent_class is ACKTR)  # ACKTR's critic solves too
    assert len(fits) == 1
    records = [names for names in reads if "train/explained_variance" in names]
    scales = [names for names in reads if names == {"deviation"}]  # of ACKTR's critic
    assert len(records) == 1 and len(scales) == (agent_class is ACKTR)
    assert len(reads) == len(candidates) + len(solves) + len(fits) + len(records) + len(scales)


def test_normalisers_and_advantages_stay_on_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """They decide on the device what they take in."""
    for dtype in (torch.float32, torch.float64):
        values = torch.ones(ROLLOUT, 3, dtype=dtype, device="meta")
        moments = RunningMoments((3,)).to("meta")
        parts = {"a": spaces.Box(-1, 1, (3,)), "b": spaces.Discrete(2)}
        normaliser = ObservationNormaliser(spaces.Dict(parts)).to("meta")
        with device_only(monkeypatch) as reads:
            moments.update(values)
            assert moments(values).dtype == dtype
            normaliser.update({"a": values, "b": values[:, 0]})
            normaliser({"a": values, "b": values[:, 0]})
            standardise(values[:, 0])
            assert not reads


def test_statistics_of_a_policy_stay_on_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The observation normaliser takes a batch in, or not, without a read."""
    agent = make(TRPO, "minibatch", normalised=True)
    move_to_meta(agent)
    with device_only(monkeypatch) as reads:
        batch = torch.ones(ROLLOUT, 3, device="meta")
        observe(agent.policy, batch, batch)
        agent.policy.observe_returns(batch[:, 0])
        assert not reads


def test_reading_on_the_device_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update without the CPU's shortcuts gives the same parameters as one with them."""
    for agent_class, fits in CRITICS.items():
        results = []
        for shortcuts in (True, False):
            agent = make(agent_class, fits[-1], normalised=True)
            with monkeypatch.context() as patch:
                if not shortcuts:
                    patch.setattr(host, "peek", lambda condition: None)
                agent.train()
            results.append(torch.nn.utils.parameters_to_vector(agent.policy.parameters()).detach().numpy())
        np.testing.assert_array_equal(*results)
