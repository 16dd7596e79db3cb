"""Every option reaches the function that it is for, and a rejected step or fit leaves no momentum."""

from typing import Any

import pytest
import torch

from agents import ACKTR, NPG, TRPO
from agents.critic import critic as critic_module
from npg import ExactFisher, PolicyStep, Rejection

SMALL: dict[str, Any] = {"n_steps": 64, "batch_size": 64, "seed": 0, "device": "cpu"}


@pytest.mark.parametrize(
    ("agent_class", "function", "options", "expected"),
    [
        (
            TRPO,
            "agents.trpo.trust_region_step",
            {"line_search_shrinking_factor": 0.3, "line_search_max_iter": 4},
            {"shrink": 0.3, "max_iterations": 4},
        ),
        (NPG, "agents.npg.natural_step", {"step_size": 0.7}, {"step_size": 0.7}),
    ],
)
def test_options_of_the_step(
    agent_class: type, function: str, options: dict, expected: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own, and those that NPG and TRPO share."""
    seen: dict[str, Any] = {}

    def step(objective: Any, fisher: Any, **given: Any) -> PolicyStep:
        seen.update(given)
        return PolicyStep.without_candidate(objective, Rejection.NO_IMPROVEMENT)

    monkeypatch.setattr(function, step)
    agent_class("MlpPolicy", "CartPole-v1", **SMALL, target_kl=0.03, cg_damping=0.2, **options).learn(64)
    assert {name: seen[name] for name in expected} == expected
    assert (seen["target_kl"], seen["damping"]) == (0.03, 0.2)


def test_the_fisher_matrix_gets_the_size_of_micro_batches() -> None:
    """Only if there is one."""
    seen = []

    def make(actor: torch.nn.Module, observations: torch.Tensor, **options: Any) -> ExactFisher:
        seen.append(options)
        return ExactFisher(actor, observations, **options)

    for options in ({}, {"micro_batch_size": 16}):
        NPG("MlpPolicy", "CartPole-v1", **SMALL, fisher=make, **options).learn(64)
    assert seen == [{}, {"micro_batch_size": 16}]


def test_options_of_acktr() -> None:
    """Both steppers, and the critic's own step."""
    options = {"damping": 0.3, "momentum": 0.4, "factor_interval": 2, "inverse_interval": 3}
    own = {"fisher_decay": 0.6, "critic_learning_rate": 0.7, "critic_target_kl": 0.2, "n_critic_updates": 4}
    agent = ACKTR("MlpPolicy", "CartPole-v1", **SMALL, **options, **own)
    for stepper in (agent.actor_stepper, agent.critic_stepper):
        assert {name: getattr(stepper, name) for name in options} == options and stepper.decay == 0.6
    critic: Any = agent.make_critic()
    assert (critic.step_size, critic.target_kl, critic.passes) == (0.7, 0.2, 4)


def test_a_rejected_step_of_acktr_is_not_its_momentum(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not made."""
    agent = ACKTR("MlpPolicy", "CartPole-v1", **SMALL)
    monkeypatch.setattr(Rejection, "of_numbers", lambda evaluation: Rejection.NON_FINITE_KL)
    agent.learn(64)
    assert agent.outcomes["non_finite_kl"] == 1
    assert not agent.actor_stepper.velocity.any() and agent.critic_stepper.velocity.any()


def test_a_rejected_fit_of_acktrs_critic_is_not_its_momentum(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was undone."""
    agent = ACKTR("MlpPolicy", "CartPole-v1", **SMALL)
    monkeypatch.setattr(critic_module.Snapshot, "still_finite", lambda snapshot: torch.tensor(False))
    agent.learn(64)
    assert agent.critic_rejected == 1
    assert not agent.critic_stepper.velocity.any() and agent.actor_stepper.velocity.any()
