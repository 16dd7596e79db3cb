"""CPO: reading costs, their units, critics and advantages; what it shares with TRPO; warnings and errors."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from free_costs import FreeCPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import CPO, TRPO, NonFiniteError
from agents.cpo import PATIENCE
from agents.ranks import ONE, Ranks
from agents.rollout.costs import CostError, EpisodeCosts, costs_of
from envs import make_vec_env
from experiments.run.agent_state import restore_agent, take_agent
from npg import Case

SMALL: dict[str, Any] = {
    "n_steps": 16,
    "critic_fit": "lbfgs",
    "n_critic_updates": 2,
    "seed": 0,
    "device": "cpu",
}


class Costly(gym.Env):
    """Episodes of a fixed length; a step's cost is `scale` times the action taken, and its reward too.

    Args:
        length: of an episode.
        infos: replace the info of a step, by its number over all episodes.
        scale: of the cost.
        several: whether to report two costs, the action and 1.
        ends: "terminated" or "truncated".
    """

    def __init__(
        self,
        length: int = 4,
        infos: dict[int, dict[str, Any]] | None = None,
        scale: float = 1.0,
        several: bool = False,
        ends: str = "terminated",
    ):
        self.observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.length, self.infos, self.scale, self.several, self.ends = (
            length,
            infos or {},
            scale,
            several,
            ends,
        )
        self.count = self.step_in_episode = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        """Begin again."""
        super().reset(seed=seed)
        self.step_in_episode = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Pay for the action."""
        self.step_in_episode += 1
        cost = self.scale * float(action)
        info: dict[str, Any] = {"costs": [cost, 1.0]} if self.several else {"cost": cost}
        info = self.infos.get(self.count, info)
        self.count += 1
        over = self.step_in_episode == self.length
        observation = np.array([self.step_in_episode / self.length, 1.0], np.float32)
        return (
            observation,
            float(action),
            over and self.ends == "terminated",
            over and self.ends == "truncated",
            info,
        )


def env(n_envs: int = 1, **options: Any) -> DummyVecEnv:
    """Return environments."""
    return DummyVecEnv([lambda: Monitor(Costly(**options))] * n_envs)


def test_far_from_its_limit_it_is_trpo(parameters: Callable) -> None:
    """With a limit that never matters, every parameter has TRPO's bits, and every case is free."""
    task = "LinearQuadratic-v0"
    one = FreeCPO("MlpPolicy", make_vec_env(task, 2, seed=0, vec_env="dummy"), **SMALL).learn(96)
    other = TRPO("MlpPolicy", make_vec_env(task, 2, seed=0, vec_env="dummy"), **SMALL).learn(96)
    assert one.cases == {"recovery": 0, "return": 0, "limited": 0, "free": 3}
    assert torch.equal(parameters(one.policy), parameters(other.policy))


@pytest.mark.slow
@pytest.mark.parametrize("project", [False, True])
def test_the_limit_decides(project: bool) -> None:
    """Reward and cost are the same number: without a limit all is spent, with one of 1.0 about that much."""
    options = {**SMALL, "n_steps": 128, "target_kl": 0.05, "gamma": 1.0, "cost_gae_lambda": 1.0}
    agent = CPO("MlpPolicy", env(2), cost_limit=1.0, project=project, **options).learn(
        256 * 16, log_interval=None
    )
    assert 0.4 < agent.episode_costs.mean[0] < 1.6  # from 2 at first
    assert agent.cases["limited"] + agent.cases["return"] > 3
    assert agent.logger.name_to_value["rollout/cost_limit"] == 1.0
    assert agent.logger.name_to_value["npg/case"] in (0.0, 1.0, 2.0, 3.0)


def test_two_costs() -> None:
    """Each has its limit, critic, and columns in the log; the second one no policy can lower."""
    agent = CPO("MlpPolicy", env(several=True), cost_limit=[9.0, 3.5], **SMALL).learn(64, log_interval=None)
    logged = agent.logger.name_to_value
    assert (logged["rollout/cost_limit_0"], logged["rollout/cost_limit_1"]) == (9.0, 3.5)
    assert logged["rollout/ep_cost_mean_1"] == 4.0 and 0 < logged["rollout/ep_cost_mean_0"] < 4
    assert agent.excesses == [agent.episode_costs.mean[0] - 9.0, 0.5]
    assert len(agent.cost_critics) == 2 and logged["train/cost_value_loss"] > 0


def test_what_counts_as_costs() -> None:
    """One number, or a sequence; info["costs"] goes before info["cost"]."""
    assert costs_of({"cost": 2}, 1).tolist() == [2.0] and costs_of({"cost": np.float32(2)}, 1).tolist() == [
        2.0
    ]
    assert costs_of({"costs": (1, 2), "cost": 5}, 2).tolist() == [1.0, 2.0]
    assert costs_of({"costs": np.ones(1), "cost": 5}, 1).tolist() == [1.0]
    assert costs_of({}, 1) is None and costs_of({"cost": 1.0}, 2) is None
    with pytest.raises(CostError, match="3 costs, and cost_limit has 2 limits"):
        costs_of({"costs": [1, 2, 3]}, 2)
    with pytest.raises(CostError, match="no numbers: 'much'"):
        costs_of({"cost": "much"}, 1)


@pytest.mark.parametrize(
    ("info", "limit", "error", "message"),
    [
        ({}, 1.0, CostError, r"environment 0 of 1\) at step 6 reported no cost: .* info\['cost'\]"),
        ({"cost": 1.0}, [1.0, 1.0], CostError, r"at step 6 reported no cost: .* with 2 numbers"),
        (
            {"cost": np.nan},
            1.0,
            NonFiniteError,
            r"environment 0 of 1\) at step 6 met a non-finite cost: \[nan\]",
        ),
        (
            {"costs": [1.0, 2.0]},
            1.0,
            CostError,
            r"at step 6: it reported 2 costs, and cost_limit has 1 limits",
        ),
    ],
)
def test_bad_costs_are_named(info: dict, limit: Any, error: type[Exception], message: str) -> None:
    """By environment and step, before anything is learned."""
    agent = CPO("MlpPolicy", env(infos={5: info}, several=isinstance(limit, list)), cost_limit=limit, **SMALL)
    with pytest.raises(error, match=message):
        agent.learn(16)
    assert agent._n_updates == 0


def test_limits_are_checked() -> None:
    """A missing or unusable limit, memory, and tensors, each in a sentence."""
    with pytest.raises(ValueError, match="CPO needs cost_limit"):
        CPO("MlpPolicy", env(), **SMALL)
    for limit in ("much", [], float("nan"), [1.0, None], [[1.0]], True):
        with pytest.raises(ValueError, match="cost_limit must be a finite number, or a list"):
            CPO("MlpPolicy", env(), cost_limit=limit, **SMALL)
    with pytest.raises(ValueError, match="cost_margin must be a number ≥ 0"):
        CPO("MlpPolicy", env(), cost_limit=1.0, cost_margin=-1.0, **SMALL)
    with pytest.raises(ValueError, match="does not train recurrent policies"):
        CPO("MlpLstmPolicy", env(), cost_limit=1.0, **SMALL)
    with pytest.raises(ValueError, match="does not train in tensor environments"):
        CPO("MlpPolicy", make_vec_env("CartPole-v1", 2, vec_env="tensor"), cost_limit=1.0, **SMALL)


def test_several_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is shared with the others."""
    monkeypatch.setattr("agents.base.Ranks.current", lambda: Ranks(0, 2))
    with pytest.raises(ValueError, match="CPO trains in one process; start it without torchrun"):
        CPO("MlpPolicy", env(), cost_limit=1.0, **SMALL)


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
def test_cost_returns_by_hand(ends: str) -> None:
    """With λ = 1, targets are the discounted costs to come; a truncated episode adds the value of its end."""
    agent = CPO("MlpPolicy", env(2, ends=ends), cost_limit=1.0, gamma=0.9, cost_gae_lambda=1.0, **SMALL)
    agent._setup_learn(32)
    agent.collect_rollouts(agent.env, agent._init_callback(None), agent.rollout_buffer, 16)
    critic, batch = agent.cost_critics[0], agent.cost_batch
    actions = agent.rollout_buffer.actions.reshape(16, 2).T.reshape(-1)  # environment by environment
    last = critic.predict_values(torch.tensor([[1.0, 1.0]])).item() if ends == "truncated" else 0.0
    expected = np.zeros(32)
    for t in reversed(range(32)):
        expected[t] = actions[t] + 0.9 * (last if t % 4 == 3 else expected[t + 1])
    np.testing.assert_allclose(batch.returns[:, 0], expected, rtol=1e-5)
    torch.testing.assert_close(batch.advantages, batch.returns - batch.old_values)
    first = torch.zeros(1, 2)
    assert batch.old_values[0, 0] == pytest.approx(critic.predict_values(first).item())


@pytest.mark.parametrize("length", [2, 8])
def test_the_gradient_of_a_cost_is_per_episode(length: int) -> None:
    """By hand for the biases of the last layer, whose gradient is T · E[(a - π(1)) (cost - mean cost)]."""
    options = {"normalize_returns": True}  # so the values start at 0
    agent = CPO(
        "MlpPolicy", env(2, length=length), cost_limit=1.0, cost_gamma=0.0, policy_kwargs=options, **SMALL
    )
    found: list[torch.Tensor] = []
    make = agent.make_objective

    def recorded(*args: Any, **kwargs: Any) -> Any:
        objective = make(*args, **kwargs)
        parts = objective.parameters.unflatten(objective.constraint_gradients()[0])
        names = [name for name, p in agent.actor.named_parameters() if p.requires_grad]
        bias = parts[names.index("policy.action_net.bias")]
        actions, states = args[1].double(), args[0].observations
        probabilities = agent.policy.get_distribution(states).distribution.probs[:, 1].detach().double()
        expected = length * ((actions - probabilities) * (actions - actions.mean())).mean()
        found.extend([bias.double(), torch.stack([-expected, expected])])
        return objective

    agent.make_objective = recorded  # type: ignore[method-assign]
    agent.learn(32)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


def test_sums_of_episodes() -> None:
    """Episodes may cross rollouts; without a complete one yet, the costs so far are a lower bound."""
    costs = EpisodeCosts(2, 1)
    costs.sums[:], costs.lengths[:] = [[3.0], [5.0]], [10, 20]
    costs.finish_rollout([], ONE, slice(0, 2))
    assert (costs.mean.tolist(), costs.mean_length) == ([4.0], 15.0)
    costs.finish_rollout([(np.array([8.0]), 30.0), (np.array([2.0]), 10.0)], ONE, slice(0, 2))
    assert (costs.mean.tolist(), costs.mean_length, costs.ended) == ([5.0], 20.0, 2)
    costs.finish_rollout([], ONE, slice(0, 2))
    assert costs.mean.tolist() == [5.0]
    agent = CPO("MlpPolicy", env(length=10), cost_limit=5.0, **SMALL).learn(16)
    assert agent.episode_costs.ended == 1 and agent.episode_costs.lengths.tolist() == [6]
    agent.learn(16, reset_num_timesteps=False)
    assert agent.episode_costs.ended == 3 and agent.episode_costs.mean_length == 10


def test_the_margin_is_in_standard_errors() -> None:
    """Of the mean of the rollout's episodes; a single episode has none."""
    costs = EpisodeCosts(2, 1)
    costs.finish_rollout([(np.array([8.0]), 3.0)], ONE, slice(0, 2))
    assert costs.standard_error.tolist() == [0.0]
    episodes = [(np.array([cost]), 3.0) for cost in (1.0, 2.0, 6.0)]
    costs.finish_rollout(episodes, ONE, slice(0, 2))
    assert costs.standard_error[0] == pytest.approx(np.sqrt(7.0 / 3))  # the variance is (4 + 1 + 9) / 2
    costs.finish_rollout([], ONE, slice(0, 2))
    assert costs.standard_error[0] == pytest.approx(np.sqrt(7.0 / 3))
    plain, careful = (CPO("MlpPolicy", env(), cost_limit=5.0, cost_margin=k, **SMALL) for k in (0.0, 2.0))
    for agent in (plain, careful):
        agent.episode_costs.finish_rollout(episodes, ONE, slice(0, 1))
    assert plain.excesses == [-2.0] and careful.excesses == [pytest.approx(-2.0 + 2 * np.sqrt(7.0 / 3))]


def test_vec_normalize_leaves_costs_alone() -> None:
    """Costs come from the infos; only rewards and observations are normalised."""
    agent = CPO("MlpPolicy", VecNormalize(env(scale=1000.0)), cost_limit=10.0, **SMALL).learn(16)
    taken = agent.rollout_buffer.actions.sum()
    assert agent.episode_costs.mean[0] == pytest.approx(1000 * taken / 4)


def test_the_unit_of_costs_does_not_matter(parameters: Callable) -> None:
    """Costs and limit in thousandths give the same steps, up to rounding."""
    kwargs = {"policy_kwargs": {"normalize_returns": True}}
    agents = [
        CPO("MlpPolicy", env(scale=scale), cost_limit=0.5 * scale, **SMALL, **kwargs).learn(32)
        for scale in (1.0, 1000.0)
    ]
    one, other = (parameters(agent.actor) for agent in agents)
    assert agents[0].cases["free"] < 2
    torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


def test_saved_and_restored(tmp_path: Path, parameters: Callable) -> None:
    """A loaded agent has the cost critics and learns on; a checkpoint restores sums and counts, too."""
    agent = CPO("MlpPolicy", env(length=10), cost_limit=[2.0], **SMALL).learn(32)
    agent.save(tmp_path / "model")
    loaded = CPO.load(tmp_path / "model", env(length=10), device="cpu")
    assert torch.equal(parameters(agent.cost_critics), parameters(loaded.cost_critics))
    assert loaded.learn(16, reset_num_timesteps=False).num_timesteps == 48
    fresh = CPO("MlpPolicy", env(length=10), cost_limit=[2.0], **{**SMALL, "seed": 1})
    fresh._setup_learn(32)
    state = take_agent(agent)
    restore_agent(fresh, state)
    assert torch.equal(parameters(agent.cost_critics), parameters(fresh.cost_critics))
    assert fresh.cases == agent.cases and fresh.stalled == agent.stalled and fresh.lowest == agent.lowest
    for name, value in agent.episode_costs.state().items():
        np.testing.assert_array_equal(fresh.episode_costs.state()[name], value)
    names = state["parameters"]
    assert {"cost_critics", "cost_critics.0.optimizer"} <= names.keys()


def test_a_limit_that_no_policy_satisfies_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In plain words, after so many updates without a new lowest cost."""
    agent = CPO("MlpPolicy", env(several=True), cost_limit=[9.0, 1.0], **SMALL)
    monkeypatch.setattr("agents.cpo.PATIENCE", 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        agent.learn(16 * 6, log_interval=None)
    found = [str(w.message) for w in caught if "above its limit" in str(w.message)]
    assert len(found) == 1 and PATIENCE > 3
    assert found[0].startswith("cost 1 has been above its limit of 1 for 3 updates without falling: the mean")
    assert "Perhaps no policy can satisfy the limit" in found[0]


def test_the_case_is_in_the_log() -> None:
    """As a number per update, and as counts."""
    agent = CPO("MlpPolicy", env(), cost_limit=0.5, **SMALL).learn(64, log_interval=None)
    logged = agent.logger.name_to_value
    assert sum(logged[f"npg/case/{case.name.lower()}"] for case in Case) == 4
    assert agent.cases[Case(int(logged["npg/case"])).name.lower()] > 0
