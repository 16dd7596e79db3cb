"""What a user adds works everywhere, with one entry each."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from free_costs import ALGORITHMS as WITH_FREE_COSTS
from gymnasium import spaces
from registries import restored_registries
from spaces_env import ACTIONS, OBSERVATIONS, SpacesEnv
from torch import Tensor
from torch.nn import functional as F

from agents import (
    ALGORITHMS,
    NPG,
    REGISTRY,
    TRPO,
    Batch,
    Critic,
    MlpPolicy,
    register_algorithm,
    register_critic,
    register_distribution,
    register_fisher,
    register_policy,
)
from npg import DiagGaussian, ExactFisher, PolicyStep, SampledFisher, SurrogateObjective, natural_step

SMALL: dict[str, Any] = {"n_steps": 64, "batch_size": 64, "n_critic_updates": 2, "seed": 0, "device": "cpu"}


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    """Remove what a test registers."""
    with restored_registries():
        yield


class FixedStep(NPG):
    """NPG whose step is a fixed multiple of F⁻¹g.

    Args:
        multiple: of F⁻¹g.
    """

    multiple: float = 0.05
    resumable = (*NPG.resumable, "taken")
    taken = 0

    def policy_step(self, batch: Batch, objective: SurrogateObjective) -> PolicyStep:
        """Return the step, and count it."""
        self.taken += 1
        return natural_step(objective, self.make_fisher(batch), step_size=self.multiple, solver=self.solver)


def test_an_algorithm_is_one_class_and_one_entry(parameters: Callable, tmp_path: Path) -> None:
    """It trains, saves, loads, and resumes bitwise from the state that it declares."""
    register_algorithm("fixed", FixedStep, label="Fixed", search_space={"multiple": (0.01, 0.1)})
    assert REGISTRY["fixed"].label == "Fixed" and REGISTRY["fixed"].search_space["multiple"] == (0.01, 0.1)
    agent = ALGORITHMS["fixed"]("MlpPolicy", "CartPole-v1", **SMALL, multiple=0.02).learn(192)
    assert agent.outcomes["accepted"] == 3 and agent.multiple == 0.02
    assert agent.resumable_state()["taken"] == 3
    agent.save(tmp_path / "model.zip")
    loaded = FixedStep.load(tmp_path / "model.zip", device="cpu")
    assert torch.equal(parameters(loaded.policy), parameters(agent.policy))
    fresh = FixedStep("MlpPolicy", "CartPole-v1", **SMALL)
    fresh.restore_state(agent.resumable_state() | {"policy": "from a stranger's file"})
    assert fresh.taken == 3 and fresh.iterations == 3 and fresh.policy is not None
    with pytest.raises(ValueError, match="the name 'fixed' of the algorithm is registered already"):
        register_algorithm("fixed", FixedStep)


def gaussian(outputs: Tensor, _: Any) -> DiagGaussian:
    """Return a Gaussian whose deviation depends on the state."""
    return DiagGaussian(*outputs.chunk(2, -1))


def test_a_distribution_is_one_entry(parameters: Callable, tmp_path: Path) -> None:
    """A Gaussian with a deviation of the state's own: it trains, predicts, and is saved with the policy."""
    register_distribution(
        "state_gaussian",
        n_outputs=lambda space: 2 * int(np.prod(space.shape)),
        make=gaussian,
        mode=lambda distribution: distribution.mean,
    )
    env = SpacesEnv(OBSERVATIONS["box"], spaces.Box(-1, 1, (2,), np.float32))
    options = {"policy_kwargs": {"distribution": "state_gaussian"}}
    agent = TRPO("MlpPolicy", env, **SMALL, **options).learn(128)
    observations = torch.randn(5, 3)
    distribution = agent.actor(observations)
    assert isinstance(distribution, DiagGaussian)
    assert not torch.equal(distribution.log_std[0], distribution.log_std[1])
    actions, _, log_prob = agent.policy(observations)
    torch.testing.assert_close(distribution.log_prob(actions), log_prob)
    agent.policy.save(tmp_path / "policy.pt")
    loaded = MlpPolicy.load(tmp_path / "policy.pt")
    assert torch.equal(parameters(loaded), parameters(agent.policy))
    action, _ = loaded.predict(np.zeros(3, np.float32), deterministic=True)
    assert action.shape == (2,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gausian", r"registered distribution \(.*, 'known'\), got 'gausian'; register it"),
        ("known", "use_sde=True needs SB3's Gaussian, not the distribution 'known'"),
    ],
)
def test_an_unknown_distribution_is_named(name: str, message: str) -> None:
    """And one with gSDE, which is a distribution of its own."""
    register_distribution("known", n_outputs=lambda _: 4, make=gaussian, mode=lambda d: d.mean)
    env = SpacesEnv(OBSERVATIONS["box"], ACTIONS["box"])
    with pytest.raises(ValueError, match=message):
        TRPO("MlpPolicy", env, **SMALL, use_sde=True, policy_kwargs={"distribution": name})


def test_a_policy_is_one_entry() -> None:
    """By its name in every agent."""

    class Small(MlpPolicy):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **{"net_arch": [4], **kwargs})

    register_policy("Small", Small)
    for agent_class in WITH_FREE_COSTS.values():
        agent = agent_class("Small", "CartPole-v1", **SMALL)
        assert isinstance(agent.policy, Small) and agent.policy.mlp_extractor.latent_dim_pi == 4


class OneStep(Critic):
    """A step of plain gradient descent on the whole batch."""

    draws_random_numbers = False

    def _losses(self, batch: Batch) -> list[Tensor]:
        loss = F.mse_loss(self.policy.predict_values(batch.observations).flatten(), batch.returns)
        for parameter, gradient in zip(
            self.parameters, torch.autograd.grad(loss, self.parameters), strict=True
        ):
            parameter.data.sub_(1e-3 * gradient)
        return [loss.detach()]


def test_a_critic_fit_is_one_entry(parameters: Callable) -> None:
    """By its name; an unknown one is an error."""
    register_critic("one_step", OneStep)
    agent = TRPO("MlpPolicy", "CartPole-v1", **SMALL, critic_fit="one_step")
    before = parameters(agent.policy.value_net)
    agent.learn(64, log_interval=None)
    assert not torch.equal(parameters(agent.policy.value_net), before)
    assert agent.logger.name_to_value["train/value_loss"] > 0
    with pytest.raises(ValueError, match="critic_fit must be the name of a registered critic fit"):
        TRPO("MlpPolicy", "CartPole-v1", **SMALL, critic_fit="two_steps")


@pytest.mark.parametrize("agent_class", [NPG, TRPO])
def test_a_fisher_operator_is_a_function_or_one_entry(agent_class: type[NPG], parameters: Callable) -> None:
    """The exact one by name and by function are the same bits; a sampled one is another."""
    register_fisher("sampled", lambda actor, observations: SampledFisher(actor, observations, samples=4))
    agents = [
        agent_class("MlpPolicy", "CartPole-v1", **SMALL, fisher=fisher).learn(128)
        for fisher in ("exact", ExactFisher, "sampled")
    ]
    default, exact, sampled = (parameters(agent.policy) for agent in agents)
    assert torch.equal(default, exact) and not torch.equal(default, sampled)
    with pytest.raises(ValueError, match="fisher must be the name of a registered Fisher operator"):
        agent_class("MlpPolicy", "CartPole-v1", **SMALL, fisher="fischer")


@pytest.mark.parametrize("fisher", ["exact", "finite_difference"])
def test_micro_batches_change_the_step_by_rounding_only(fisher: str, parameters: Callable) -> None:
    """`micro_batch_size` bounds the memory of F; "finite_difference" is the same matrix to its error."""
    whole, parts = (
        TRPO("MlpPolicy", "CartPole-v1", **SMALL, fisher=fisher, micro_batch_size=size).learn(64)
        for size in (None, 10)
    )
    torch.testing.assert_close(parameters(whole.actor), parameters(parts.actor), rtol=1e-2, atol=1e-3)
