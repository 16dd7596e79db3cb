"""Properties that every agent shares."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from episodes import Episodes
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import ACKTR, NPG, TRPO
from agents.base import PolicyGradientAgent
from agents.hyperparameters import RANGES
from npg import ExactFisher, PolicyStep, Rejection, SurrogateObjective

SMALL = {"n_steps": 64, "batch_size": 64, "n_critic_updates": 2, "seed": 0, "device": "cpu"}
SCHEDULES = [name for name, (expected, _) in RANGES.items() if "schedule" in expected]
ACTIONS = {
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(3),
}


@pytest.mark.parametrize("actions", ACTIONS)
def test_learns_in_every_action_space(
    agent_class: type[PolicyGradientAgent], actions: str, parameters
) -> None:
    """Two updates move the policy, keep it finite, and predict gives a legal action."""
    env = Episodes([1.0, 0.0, 2.0, -1.0], "truncated", ACTIONS[actions])
    agent = agent_class("MlpPolicy", env, **SMALL)
    before = parameters(agent.actor)
    agent.learn(128)
    after = parameters(agent.actor)
    assert torch.isfinite(after).all() and not torch.equal(before, after)
    action, _ = agent.predict(np.zeros(1, np.float32))
    assert ACTIONS[actions].contains(action)


@pytest.mark.covering(1)
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_same_seed_same_parameters(agent_class: type[PolicyGradientAgent], env_id: str, parameters) -> None:
    """Two runs with one seed are bitwise equal; another seed differs."""
    runs = [
        parameters(agent_class("MlpPolicy", env_id, **SMALL | {"seed": seed}).learn(192).policy)
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_rejected_step_moves_nothing(
    agent_class: type[PolicyGradientAgent], parameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The actor is bitwise unchanged, the log says KL 0 and names the reason; the critic still learns."""

    def reject(self: object, batch: object, objective: SurrogateObjective) -> PolicyStep:
        return PolicyStep.without_candidate(objective, Rejection.NEGATIVE_CURVATURE)

    monkeypatch.setattr(agent_class, "policy_step", reject)
    agent = agent_class("MlpPolicy", "CartPole-v1", **SMALL)
    actor, everything = parameters(agent.actor), parameters(agent.policy)
    agent.learn(64, log_interval=None)
    assert torch.equal(parameters(agent.actor), actor)
    assert not torch.equal(parameters(agent.policy), everything)
    logged = agent.logger.name_to_value
    assert logged["train/kl_divergence_loss"] == 0
    assert logged["train/is_line_search_success"] == 0
    assert logged["npg/rejected/negative_curvature"] == 1
    assert logged["npg/accepted"] == 0


def test_equal_rewards_give_no_step(agent_class: type[PolicyGradientAgent], parameters) -> None:
    """With equal rewards the gradient is zero, and the step is rejected instead of following noise."""
    env = Episodes([0.0, 0.0], "terminated")
    agent = agent_class("MlpPolicy", env, **SMALL | {"n_critic_updates": 0})
    with torch.no_grad():
        agent.policy.value_net.weight.zero_()
    before = parameters(agent.actor)
    agent.learn(64, log_interval=None)
    assert torch.equal(parameters(agent.actor), before)
    assert agent.outcomes["no_improvement"] == 1


def test_non_finite_advantages_are_rejected(agent_class: type[PolicyGradientAgent], parameters) -> None:
    """A NaN that reaches the buffer is rejected by name and leaves every parameter as it was."""

    class Spoil(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            self.model.rollout_buffer.advantages[0] = np.nan
            self.model.rollout_buffer.returns[:] = np.nan

    agent = agent_class("MlpPolicy", "CartPole-v1", **SMALL)
    before = parameters(agent.policy)
    agent.learn(64, Spoil(), log_interval=None)
    assert torch.equal(parameters(agent.policy), before)
    assert agent.outcomes["non_finite_gradient"] == 1


def test_step_stays_in_the_trust_region() -> None:
    """TRPO's KL is at most δ in every accepted update; NPG's is near δ without a search."""
    for agent_class in (TRPO, NPG):
        kls: list[float] = []

        class Watch(BaseCallback):
            def _on_step(self) -> bool:
                return True

            def _on_rollout_start(self, kls: list[float] = kls) -> None:
                if "npg/kl" in self.logger.name_to_value:
                    kls.append(self.logger.name_to_value["npg/kl"])

        agent = agent_class("MlpPolicy", "Pendulum-v1", **SMALL | {"n_steps": 256}, target_kl=0.02)
        agent.learn(256 * 8, Watch(), log_interval=None)
        assert len(kls) == 7
        if agent_class is TRPO:
            assert all(0 < kl <= 0.02 for kl in kls)
        assert np.median(kls) == pytest.approx(0.02, rel=0.5)


@pytest.mark.parametrize("budget", [1, 100])
def test_no_schedule_sees_a_progress_below_zero(agent_class: type[PolicyGradientAgent], budget: int) -> None:
    """A last rollout beyond the budget asks every schedule for its value at 0, and gives no negative rate."""
    asked: list[float] = []

    def schedule(left: float) -> float:
        asked.append(left)
        return 1e-3 * left

    options = {name: schedule for name in SCHEDULES if hasattr(agent_class, name)}
    agent = agent_class("MlpPolicy", "CartPole-v1", **SMALL, **options)
    agent.learn(budget, log_interval=None)
    optimizers = [agent.policy.optimizer, getattr(agent, "actor_optimizer", agent.policy.optimizer)]
    assert min(asked) == 0
    assert all(group["lr"] >= 0 for optimizer in optimizers for group in optimizer.param_groups)
    assert agent.logger.name_to_value["train/learning_rate"] == 0


def test_log_has_every_update(agent_class: type[PolicyGradientAgent], tmp_path: Path) -> None:
    """progress.csv holds sb3-contrib's names and ours, and the last update's row too."""
    agent = agent_class("MlpPolicy", "CartPole-v1", **SMALL)
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(192)
    log = pd.read_csv(tmp_path / "progress.csv")
    assert log["train/n_updates"].dropna().tolist() == [1, 2, 3]
    assert log["time/total_timesteps"].tolist() == [64, 128, 192, 192]
    names = {
        *("learning_rate", "policy_objective", "value_loss", "kl_divergence_loss"),
        *("explained_variance", "is_line_search_success", "n_updates"),
    }
    assert {f"train/{name}" for name in names} <= set(log)
    ours = {"step_length", "predicted_gain", "gain", "gain_ratio", "kl", "backtracks", "cosine"}
    if agent_class in (NPG, TRPO):
        ours |= {"cg_iterations", "cg_residual", "damping"}
    reasons = {"accepted", *(f"rejected/{reason}" for reason in Rejection)}
    assert {f"npg/{name}" for name in ours | reasons} <= set(log)


def test_save_and_load_go_on_alike(
    agent_class: type[PolicyGradientAgent], tmp_path: Path, parameters
) -> None:
    """A loaded agent predicts alike, and one more identical update keeps it equal: optimizers too."""
    agent = agent_class("MlpPolicy", "CartPole-v1", **SMALL).learn(128)
    agent.save(tmp_path / "model.zip")
    loaded = agent_class.load(tmp_path / "model.zip", device="cpu")
    assert torch.equal(parameters(agent.policy), parameters(loaded.policy))
    for one in (agent, loaded):
        one.set_env(gym.make("CartPole-v1"), force_reset=True)
        one.set_random_seed(5)
        one.learn(64, reset_num_timesteps=False)
    assert loaded.num_timesteps == 192
    assert torch.equal(parameters(agent.policy), parameters(loaded.policy))
    assert agent.outcomes == loaded.outcomes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_kl": 0}, "target_kl must be a number of nats > 0, or a schedule, got 0"),
        ({"target_kl": "big"}, "target_kl must be .* got 'big'"),
        ({"cg_damping": -0.1}, "cg_damping must be a number ≥ 0, got -0.1"),
        ({"cg_max_steps": 0}, "cg_max_steps"),
        ({"line_search_shrinking_factor": 1.0}, "line_search_shrinking_factor"),
        ({"gamma": 1.5}, "gamma must be a number in"),
        ({"gae_lambda": -1}, "gae_lambda"),
        ({"n_steps": 1}, r"n_steps \* n_envs must be at least 2"),
        ({"n_steps": 2.5}, "n_steps must be an integer"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": -1e-3}, "learning_rate"),
        ({"sub_sampling_factor": 0}, "sub_sampling_factor"),
    ],
)
def test_value_out_of_range_is_named(settings: dict, message: str) -> None:
    """The error says which argument, what it expects and what came."""
    with pytest.raises(ValueError, match=message):
        TRPO("MlpPolicy", "CartPole-v1", **SMALL | settings)


@pytest.mark.parametrize("normalize", [False, True])
def test_advantages_are_scaled_only_if_they_are_to_be(
    normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the objective gets: mean 0 and deviation 1, or the batch's own."""
    seen = []

    def policy_step(agent: Any, batch: Any, objective: Any) -> PolicyStep:
        seen.append((batch.advantages, objective._advantages))
        return PolicyStep.without_candidate(objective, Rejection.NO_IMPROVEMENT)

    monkeypatch.setattr(TRPO, "policy_step", policy_step)
    TRPO("MlpPolicy", "CartPole-v1", **SMALL, normalize_advantage=normalize).learn(64)
    ((own, used),) = seen
    assert abs(own.mean()) > 0.1
    if normalize:
        assert abs(used.mean()) < 1e-6 and used.std(correction=0) == pytest.approx(1)
    assert torch.equal(own, used) != normalize


@pytest.mark.parametrize(("factor", "states"), [(1, 64), (4, 16), (5, 13)])
def test_the_fisher_matrix_sees_every_kth_state(factor: int, states: int) -> None:
    """Beginning with the first."""
    seen = []

    def make(actor: torch.nn.Module, observations: torch.Tensor) -> ExactFisher:
        seen.append(len(observations))
        return ExactFisher(actor, observations)

    TRPO("MlpPolicy", "CartPole-v1", **SMALL, sub_sampling_factor=factor, fisher=make).learn(64)
    assert seen == [states]


def test_conjugate_gradient_has_the_agents_options() -> None:
    """A tolerance ends it, and so does the number of steps."""
    iterations = []
    for options in ({"cg_tolerance": 0.9}, {"cg_tolerance": 0.0}, {"cg_tolerance": 0.0, "cg_max_steps": 7}):
        agent = TRPO("MlpPolicy", "CartPole-v1", **SMALL, **options).learn(64, log_interval=None)
        iterations.append(agent.logger.name_to_value["npg/cg_iterations"])
    assert iterations[0] < 7 and iterations[1:] == [15, 7]


def test_sub_sampling_keeps_the_constraint_on_the_whole_batch() -> None:
    """The Fisher matrix sees every 4th state; the KL that is checked is the whole batch's."""
    agent = TRPO("MlpPolicy", "CartPole-v1", **SMALL, sub_sampling_factor=4)
    agent.learn(64, log_interval=None)
    assert agent.outcomes["accepted"] == 1
    assert 0 < agent.logger.name_to_value["npg/kl"] <= agent.target_kl


def test_layers_frozen_after_construction_stay(
    agent_class: type[PolicyGradientAgent], parameters: Callable
) -> None:
    """Fine-tuning: what the user froze does not move, in actor or critic, and the rest learns."""
    agent = agent_class("MlpPolicy", "CartPole-v1", **SMALL).learn(64)
    frozen = (agent.policy.mlp_extractor, agent.policy.value_net)
    for module in frozen:
        module.requires_grad_(False)
    before = [parameters(module) for module in (*frozen, agent.policy.action_net)]
    agent.learn(64, reset_num_timesteps=False)
    after = [parameters(module) for module in (*frozen, agent.policy.action_net)]
    assert torch.equal(before[0], after[0]) and torch.equal(before[1], after[1])
    assert not torch.equal(before[2], after[2])


def test_a_policy_put_in_place_is_the_one_that_learns(
    agent_class: type[PolicyGradientAgent], parameters: Callable
) -> None:
    """model.policy = another: the update reads and writes that one."""
    agent = agent_class("MlpPolicy", "CartPole-v1", **SMALL).learn(64)
    old, agent.policy = agent.policy, agent_class("MlpPolicy", "CartPole-v1", **SMALL | {"seed": 1}).policy
    before, put = parameters(old), parameters(agent.policy)
    agent.learn(64, reset_num_timesteps=False)
    assert torch.equal(parameters(old), before) and not torch.equal(parameters(agent.policy), put)


@pytest.mark.parametrize("actions", [spaces.Discrete(3, start=1), spaces.MultiDiscrete([2, 3], start=[0, 1])])
def test_actions_of_sb3s_policies_count_from_zero(
    agent_class: type[PolicyGradientAgent], actions: gym.Space
) -> None:
    """SB3 would send 0 to an environment whose actions begin at 1."""
    with pytest.raises(ValueError, match=r"action_space is .*counts from 0; use a subclass"):
        agent_class(ActorCriticPolicy, Episodes([0.0], action_space=actions), **SMALL)


def test_small_rewards_are_learnt_in_their_own_unit() -> None:
    """With normalize_returns the critic's fit does not depend on the scale of the rewards."""
    losses = []
    for scale in (1.0, 1e-4):
        env = Episodes([scale * r for r in (1.0, -2.0, 3.0, 0.5)], "terminated")
        kwargs = {"normalize_returns": True}
        agent = TRPO("MlpPolicy", env, **SMALL | {"n_critic_updates": 20}, policy_kwargs=kwargs)
        agent.learn(64 * 10, log_interval=None)
        losses.append(agent.logger.name_to_value["train/value_loss"] / scale**2)
    assert losses[1] == pytest.approx(losses[0], rel=0.2)


@pytest.mark.parametrize("normalize", [False, True])
def test_replaced_rollout_workers_are_logged(normalize: bool) -> None:
    """A vector environment that counts them has them in the log, also from inside a wrapper."""
    env: Any = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    env.replacements = 3
    agent = TRPO("MlpPolicy", VecNormalize(env) if normalize else env, **SMALL)
    agent._setup_learn(64)
    agent.collect_rollouts(agent.env, agent._init_callback(None), agent.rollout_buffer, 64)
    agent.train()
    assert agent.logger.name_to_value["rollout/worker_replacements"] == 3


def test_a_loaded_agent_without_environment_says_what_to_do(tmp_path: Path) -> None:
    """Before it learns."""
    TRPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, device="cpu").save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=r"has no environment; give it one"):
        TRPO.load(tmp_path / "model.zip", device="cpu").learn(64)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_schedule_of_bad_values_is_an_error(value: float) -> None:
    """Not a step of length 0."""
    agent = ACKTR(
        "MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, device="cpu", target_kl=lambda _: value
    )
    with pytest.raises(ValueError, match="the schedule target_kl returned"):
        agent.learn(64)
