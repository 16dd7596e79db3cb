"""What an update reads."""

import pytest
import torch
from gymnasium import spaces

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
    """Rows of the batch are rows of the buffer, and discrete actions are integers (N,)."""
    agent = TRPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, device="cpu").learn(16)
    batch = Batch.from_buffer(agent.rollout_buffer, spaces.Discrete(2))
    assert batch.actions.dtype == torch.int64 and batch.actions.shape == (16,)
    buffer = agent.rollout_buffer
    columns = (buffer.observations, buffer.actions, buffer.returns)
    rows = [(tuple(o), a.item(), r.item()) for o, a, r in zip(*columns, strict=True)]
    for observation, action, value in zip(batch.observations, batch.actions, batch.returns, strict=True):
        assert (tuple(observation.tolist()), int(action), value.item()) in rows


def test_select_reads_dictionaries() -> None:
    """Every entry of a dictionary of observations is indexed alike."""
    rows = torch.arange(4.0)
    batch = Batch({"a": rows, "b": 2 * rows}, rows, rows, rows, rows, rows)
    picked = batch.select(slice(None, None, 2))
    assert picked["a"].tolist() == [0, 2] and picked["b"].tolist() == [0, 4]
    assert len(batch) == 4
