"""The argument `ent_coef`: a bonus for the entropy of the policy, in the surrogate of every agent."""

from pathlib import Path

import pytest
import torch
from episodes import Episodes
from gymnasium import spaces
from spaces_env import SpacesEnv

from agents import NPG, TRPO, PolicyGradientAgent
from npg import Categorical, DiagGaussian

SMALL = {"n_steps": 32, "batch_size": 32, "n_critic_updates": 1, "seed": 0, "device": "cpu"}
BOX = spaces.Box(-1, 1, (2,))


def make(
    agent_class: type[PolicyGradientAgent], actions: spaces.Space = BOX, **options: object
) -> PolicyGradientAgent:
    """Return an agent whose advantages are 0: all rewards and values are."""
    env = Episodes([0.0], "terminated", actions)
    agent = agent_class("MlpPolicy", env, normalize_advantage=False, **SMALL | options)
    torch.nn.init.zeros_(agent.policy.value_net.weight)
    return agent


def entropy(agent: PolicyGradientAgent) -> float:
    """Return the policy's entropy in the only state."""
    with torch.no_grad():
        return float(agent.actor(torch.zeros(1, 1)).entropy())


@pytest.mark.covering(1)
@pytest.mark.parametrize(
    "actions", [BOX, spaces.Discrete(5), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3)]
)
def test_it_is_all_that_moves_a_policy_without_advantages(
    agent_class: type[PolicyGradientAgent], actions: spaces.Space
) -> None:
    """The entropy grows with the bonus, and without one the policy stays."""
    agent, still = make(agent_class, actions, ent_coef=1), make(agent_class, actions)
    if not isinstance(actions, spaces.Box):  # away from the largest entropy
        with torch.no_grad():
            agent.policy.action_net.bias[0] = still.policy.action_net.bias[0] = 2.0
    before = entropy(agent)
    assert entropy(agent.learn(64)) > before + 1e-3
    assert agent.outcomes["accepted"] == 2
    assert entropy(still.learn(64)) == before


def test_its_gain_and_surrogate_are_logged(agent_class: type[PolicyGradientAgent]) -> None:
    """Of a Gaussian: c times the change of Σ log σ, and c times its entropy."""
    agent = make(agent_class, ent_coef=0.1)
    before = entropy(agent)
    agent.learn(32, log_interval=None)
    logged, after = agent.logger.name_to_value, entropy(agent)
    assert logged["npg/gain"] == pytest.approx(0.1 * (after - before), rel=1e-4)
    assert logged["train/policy_objective"] == pytest.approx(0.1 * after, rel=1e-5)


def test_a_schedule_is_evaluated_in_every_update() -> None:
    """Down to exactly 0, from where there is no bonus and no entropy to compute."""
    asked: list[float] = []

    def schedule(progress: float) -> float:
        asked.append(progress)
        return 0.1 if progress > 0 else 0.0

    agent = make(NPG, ent_coef=schedule)
    agent.learn(96, log_interval=None)
    assert asked == pytest.approx([2 / 3, 1 / 3, 0])
    assert agent.outcomes["accepted"] == 2 and agent.outcomes["no_improvement"] == 1


def test_it_is_saved(tmp_path: Path) -> None:
    """With the other settings."""
    make(TRPO, ent_coef=0.03).save(tmp_path / "agent")
    assert TRPO.load(tmp_path / "agent").ent_coef == 0.03


@pytest.mark.parametrize("value", [-0.1, float("nan"), "0.1", True, None])
def test_other_values_are_rejected(value: object) -> None:
    """By name."""
    with pytest.raises(ValueError, match="ent_coef must be a number ≥ 0 or a schedule"):
        make(TRPO, ent_coef=value)


def test_gsde_has_one_and_squashed_actions_have_none() -> None:
    """The entropy behind a tanh has no closed form, and that of the Gaussian before it is another."""
    env = SpacesEnv(spaces.Box(-1, 1, (3,)), BOX)
    options = {"use_sde": True, "ent_coef": 0.01, **SMALL}
    assert TRPO("MlpPolicy", env, **options).learn(64).outcomes["accepted"] > 0
    with pytest.raises(ValueError, match="ent_coef needs the entropy of the actions"):
        TRPO("MlpPolicy", env, policy_kwargs={"squash_output": True}, **options)
    with pytest.raises(ValueError, match="ent_coef needs"):
        schedule = {"ent_coef": lambda progress: 0.01 * progress}
        TRPO("MlpPolicy", env, policy_kwargs={"squash_output": True}, **options | schedule)


@pytest.mark.parametrize("family", [Categorical, DiagGaussian])
def test_by_default_no_entropy_is_computed(family: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that results and times are what they were."""
    monkeypatch.setattr(family, "entropy", None)
    actions = spaces.Discrete(5) if family is Categorical else BOX
    make(TRPO, actions).learn(32)
