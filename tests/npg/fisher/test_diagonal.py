"""The exact diagonal and block diagonal."""

import oracles
import pytest
import torch
from oracles import FAMILIES, RandomActor, Stack
from torch import Tensor, nn

from npg import (
    BlockDiagonalFisher,
    Categorical,
    DiagonalFisher,
    Distribution,
    SingularMatrixError,
)
from npg.fisher.root_scores import root_scores

every_family = pytest.mark.parametrize("family", FAMILIES)


def equal(a: Tensor, b: Tensor, atol: float = 1e-10) -> None:
    """Assert equal shapes and values."""
    torch.testing.assert_close(a, b, rtol=1e-10, atol=atol)


def convolutional(family: str, seed: int = 0) -> Stack:
    """Convolution, normalisation and a linear layer on images (N, 2, 5, 4)."""
    return Stack(
        family,
        nn.Conv2d(2, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(80, oracles.outputs_of(family)),
        seed=seed,
    )


@every_family
def test_root_scores_make_the_fisher_matrix(family: str) -> None:
    """1/N Σ Rᵀ R is F, with as many rows a state as the distribution has coordinates."""
    actor, observations = RandomActor(family), oracles.observations(0)
    (rows,) = root_scores(actor, observations, dict(actor.named_parameters()))
    coordinates = sum(z.shape[-1] for z in actor(observations).coordinates)
    assert all(row.shape[:2] == (5, coordinates) for row in rows)
    R = torch.cat([row.flatten(2) for row in rows], -1).flatten(0, 1)
    equal(R.T @ R / 5, oracles.enumerated_fisher(actor, observations))
    assert not R.requires_grad


@pytest.mark.parametrize("family", ["gaussian", "categorical"])
def test_any_module_that_vmap_bears(family: str) -> None:
    """Convolution, normalisation and in-place ReLU have their exact diagonal and blocks."""
    actor, images = convolutional(family), oracles.randn(0, 3, 2, 5, 4)
    dense = oracles.enumerated_fisher(actor, images)
    equal(DiagonalFisher(actor, images).diagonal, dense.diagonal())
    equal(BlockDiagonalFisher(actor, images).to_dense(), oracles.within_modules(dense, actor))


@every_family
def test_blocks_by_the_name_of_their_module(family: str) -> None:
    """`blocks` holds each module's square of F, the actor's own parameters under ""."""
    actor, observations = RandomActor(family), oracles.observations(0)
    fisher = BlockDiagonalFisher(actor, observations)
    names = oracles.modules_of(actor)
    assert list(fisher.blocks) == list(dict.fromkeys(names))
    dense = oracles.enumerated_fisher(actor, observations)
    for name, block in fisher.blocks.items():
        rows = torch.tensor([i for i, owner in enumerate(names) if owner == name])
        equal(block, dense[rows][:, rows])


@every_family
@pytest.mark.parametrize("operator", [DiagonalFisher, BlockDiagonalFisher])
@pytest.mark.parametrize("damping", [1e-3, 0.1, 2])
def test_the_inverse(family: str, operator: type, damping: float) -> None:
    """`inverse(λ)` is the dense inverse of the matrix plus λI, and `solve` applies it."""
    fisher = operator(RandomActor(family), oracles.observations(0))
    damped = fisher.to_dense() + damping * torch.eye(fisher.size).double()
    equal(fisher.damped(damping).to_dense(), damped)
    dense = torch.linalg.inv(damped)
    equal(fisher.inverse(damping).to_dense(), dense, atol=1e-9)
    b = oracles.randn(0, fisher.size)
    equal(fisher.solve(b, damping), dense @ b, atol=1e-8)


@pytest.mark.parametrize("operator", [DiagonalFisher, BlockDiagonalFisher])
def test_without_damping(operator: type) -> None:
    """Full rank needs no damping; a dead parameter without damping is singular, and says so."""
    actor, observations = RandomActor("gaussian"), oracles.observations(0, n=30)
    fisher = operator(actor, observations)
    equal(fisher.inverse().to_dense() @ fisher.to_dense(), torch.eye(fisher.size).double(), atol=1e-8)
    actor.dead = nn.Linear(1, 1).double()
    fisher = operator(actor, observations)
    with pytest.raises(SingularMatrixError, match="singular or not finite at damping 0; raise the damping"):
        fisher.inverse()
    assert fisher.inverse(1e-6).to_dense().isfinite().all()


@pytest.mark.parametrize("operator", [DiagonalFisher, BlockDiagonalFisher])
@pytest.mark.parametrize("damping", [-1.0, torch.nan, torch.inf])
def test_a_damping_out_of_range_is_rejected(operator: type, damping: float) -> None:
    """λ is finite and not negative."""
    with pytest.raises(ValueError, match="damping must be a finite number"):
        operator(RandomActor("gaussian"), oracles.observations(0)).inverse(damping)


@pytest.mark.parametrize("operator", [DiagonalFisher, BlockDiagonalFisher])
@pytest.mark.parametrize("log_std", [-torch.inf, -800.0])
def test_no_variance_is_no_inverse(operator: type, log_std: float) -> None:
    """Where the metric is infinite the inverse is rejected by name."""
    actor = RandomActor("gaussian")
    nn.init.constant_(actor.log_std, log_std)
    with pytest.raises(SingularMatrixError, match="not finite"):
        operator(actor, oracles.observations(0)).inverse(0.1)


@pytest.mark.parametrize("operator", [DiagonalFisher, BlockDiagonalFisher])
def test_an_actor_that_vmap_does_not_bear(operator: type) -> None:
    """What depends on data raises TypeError that names the actor and torch.func.vmap."""

    class Branching(RandomActor):
        def forward(self, observations: Tensor) -> Distribution:
            return super().forward(observations if bool(observations.sum() > 0) else -observations)

    with pytest.raises(TypeError, match=r"runs under torch\.func\.vmap, and Branching does not"):
        operator(Branching("gaussian"), oracles.observations(0))


def test_lack_of_memory_is_no_lack_of_vmap() -> None:
    """An OutOfMemoryError stays what it is."""

    class Large(RandomActor):
        def forward(self, observations: Tensor) -> Distribution:
            if torch._C._functorch.maybe_get_level(observations) > 0:
                raise torch.OutOfMemoryError("too large")
            return super().forward(observations)

    with pytest.raises(torch.OutOfMemoryError, match="too large"):
        DiagonalFisher(Large("gaussian"), oracles.observations(0))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_fused_lstm_in_single_precision() -> None:
    """The CPU's fused kernel (float32) has an exact diagonal; the plain one (float64) is no work for vmap."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)
            oracles.draw_weights_(self, 0)

        def forward(self, observations: Tensor) -> Categorical:
            return Categorical(self.lstm(observations)[0][:, -1])

    actor, observations = Recurrent(), oracles.randn(0, 5, 6, 3, dtype=torch.float32)
    exact = oracles.enumerated_fisher(actor, observations).diagonal()
    assert (DiagonalFisher(actor, observations).diagonal - exact).abs().max() <= 1e-5 * exact.max()
    with pytest.raises(TypeError, match=r"torch\.func\.vmap"):
        DiagonalFisher(actor.double(), observations.double())
