"""What an update reads."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from spaces_env import ACTIONS, OBSERVATIONS, SpacesEnv, policy_for
from stable_baselines3.common.env_util import make_vec_env

from agents import TRPO
from agents.rollout.batch import Batch, standardise


def test_standardise() -> None:
    """Mean 0 and standard deviation 1, in the order given."""
    advantages = torch.tensor([1.0, 5.0, 3.0], dtype=torch.float64)
    result = standardise(advantages)
    assert result.mean().item() == pytest.approx(0)
    assert result.square().mean().item() == pytest.approx(1)
    assert result.argsort().tolist() == [0, 2, 1]


@pytest.mark.parametrize("n", [7, 2048, 50_000])
def test_equal_advantages_prefer_nothing(n: int) -> None:
    """Rounding noise around equal advantages is not blown up to unit size."""
    values = torch.randn(50, generator=torch.Generator().manual_seed(0)).tolist()
    for value in (0.0, 1e-30, 1e30, *values):
        assert not standardise(torch.full((n,), value)).any()


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_standardise_is_scale_free(scale: float) -> None:
    """Small rewards are not taken for none: no ε is hidden in the denominator."""
    advantages = torch.tensor([1.0, 2.0, 4.0])
    assert torch.allclose(standardise(scale * advantages), standardise(advantages), rtol=1e-4)


def test_from_buffer_keeps_what_belongs_together() -> None:
    """Rows of the batch are the rows of the buffer in order, and discrete actions are integers (N,)."""
    agent = TRPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, device="cpu").learn(16)
    batch = Batch.from_buffer(agent.rollout_buffer, spaces.Discrete(2))
    assert batch.actions.dtype == torch.int64 and batch.actions.shape == (16,)
    buffer = agent.rollout_buffer
    columns = (buffer.observations, buffer.actions, buffer.returns)
    rows = [(tuple(o), a.item(), r.item()) for o, a, r in zip(*columns, strict=True)]
    columns = (batch.observations, batch.actions, batch.returns)
    assert [(tuple(o.tolist()), int(a), r.item()) for o, a, r in zip(*columns, strict=True)] == rows


def numpy_state() -> np.ndarray:
    """Return a copy of the state of NumPy's global generator."""
    _, keys, position, *_ = np.random.get_state()  # noqa: NPY002  # what SB3 draws from
    return np.array([*keys, position])


@pytest.mark.parametrize("observations", ["box", "dict"])
def test_from_buffer_draws_nothing(observations: str) -> None:
    """NumPy's global generator is left alone, and a second reading is the same (case M10)."""
    env = make_vec_env(lambda: SpacesEnv(OBSERVATIONS[observations], ACTIONS["box"]), 2, seed=0)
    agent = TRPO(policy_for(OBSERVATIONS[observations]), env, n_steps=8, batch_size=8, device="cpu")
    _, callback = agent._setup_learn(16)
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, 8)
    returns = agent.rollout_buffer.returns.copy()
    before = numpy_state()
    first, second = (Batch.from_buffer(agent.rollout_buffer, env.action_space) for _ in range(2))
    assert np.array_equal(numpy_state(), before)
    assert first.returns.tolist() == second.returns.tolist() == returns.T.flatten().tolist()
    assert len(first) == 16


def test_an_update_draws_no_random_numbers() -> None:
    """With a critic fit that draws none: neither NumPy's global generator nor torch's is used."""
    agent = TRPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, critic_fit="lbfgs", device="cpu")
    _, callback = agent._setup_learn(16)
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, 16)
    before = numpy_state(), torch.get_rng_state()
    agent.train()
    assert np.array_equal(numpy_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


def test_select_reads_dictionaries() -> None:
    """Every entry of a dictionary of observations is indexed alike."""
    rows = torch.arange(4.0)
    batch = Batch({"a": rows, "b": 2 * rows}, rows, rows, rows, rows, rows)
    picked = batch.select(slice(None, None, 2))
    assert picked["a"].tolist() == [0, 2] and picked["b"].tolist() == [0, 4]
    assert len(batch) == 4
