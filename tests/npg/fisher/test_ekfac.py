"""EKFAC: the best eigenvalues in K-FAC's basis."""

import oracles
import pytest
import torch
from oracles import FAMILIES, RandomActor, Stack
from torch import Tensor, nn

from npg import EigenvalueCorrectedFisher, KroneckerFisher, SingularMatrixError
from npg.fisher.kronecker import RotatedDiagonal

every_family = pytest.mark.parametrize("family", FAMILIES)


def equal(a: Tensor, b: Tensor, atol: float = 1e-10) -> None:
    """Assert equal shapes and values."""
    torch.testing.assert_close(a, b, rtol=1e-10, atol=atol)


def convolutional(family: str, seed: int) -> Stack:
    """A convolution and a linear layer on images (N, 2, 4, 4)."""
    head = nn.Linear(18, oracles.outputs_of(family))
    modules = nn.Conv2d(2, 2, 2, padding=(0, 1), stride=(1, 2)), nn.Tanh(), nn.Flatten(), head
    return Stack(family, *modules, seed=seed)


def sequential(family: str, seed: int) -> Stack:
    """Layers on sequences (N, 4, 8)."""
    modules = nn.Linear(8, 3), nn.Tanh(), oracles.MeanOverTime(), nn.Linear(3, oracles.outputs_of(family))
    return Stack(family, *modules, seed=seed)


def problem(kind: str, family: str, seed: int) -> tuple[nn.Module, Tensor]:
    """A policy and observations."""
    if kind == "convolutional":
        return convolutional(family, seed), oracles.randn(seed + 7, 5, 2, 4, 4)
    if kind == "sequential":
        return sequential(family, seed), oracles.randn(seed + 7, 5, 4, 8)
    return RandomActor(family, seed), oracles.observations(seed, n=6)


every_problem = pytest.mark.parametrize("kind", ["linear", "convolutional", "sequential"])


@pytest.mark.covering(2)
@every_problem
@every_family
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_its_error_is_never_above_that_of_kfac(kind: str, family: str, seed: int) -> None:
    """In the Frobenius norm, in every block and in all; for layers without a rule they are the same."""
    actor, observations = problem(kind, family, seed)
    exact = oracles.within_modules(oracles.enumerated_fisher(actor, observations), actor)
    corrected = EigenvalueCorrectedFisher(actor, observations)
    kfac, ekfac = corrected.kronecker.to_dense(), corrected.to_dense()
    owner = oracles.modules_of(actor)
    for name in dict.fromkeys(owner):
        rows = torch.tensor([i for i, module in enumerate(owner) if module == name])
        errors = [float(torch.linalg.norm((m - exact)[rows][:, rows])) for m in (ekfac, kfac)]
        assert errors[0] <= errors[1] + 1e-12
    assert torch.linalg.norm(ekfac - exact) < torch.linalg.norm(kfac - exact)


@every_problem
@every_family
def test_its_scales_are_the_diagonal_in_that_basis(kind: str, family: str) -> None:
    """S_ij = u_ijᵀ F u_ij with u_ij = vec(g_i a_jᵀ), the eigenvectors of the two factors."""
    actor, observations = problem(kind, family, 0)
    fisher = EigenvalueCorrectedFisher(actor, observations)
    exact, owner = oracles.enumerated_fisher(actor, observations), oracles.modules_of(actor)
    names = list(fisher.kronecker.averages)
    layers = dict(zip(names, fisher.operators, strict=True))
    for name, block in layers.items():
        if name not in fisher.kronecker.layers:
            continue
        assert isinstance(block, RotatedDiagonal)
        rows = torch.tensor([i for i, module in enumerate(owner) if module == name])
        places = oracles.layer_places(*block.scales.shape, block.split_bias)
        for (U, factor), size in zip(
            zip((block.input_basis, block.output_basis), fisher.kronecker.averages[name], strict=True),
            reversed(block.scales.shape),
            strict=True,
        ):
            equal(U.T @ U, torch.eye(size).double())
            rotated = U.T @ factor @ U
            equal(rotated, torch.diag(rotated.diagonal()))
        for i, g in enumerate(block.output_basis.T):
            for j, a in enumerate(block.input_basis.T):
                u = torch.empty(len(rows), dtype=torch.float64)
                u[places] = torch.outer(g, a)
                assert float(block.scales[i, j]) == pytest.approx(
                    float(u @ exact[rows][:, rows] @ u), rel=1e-9, abs=1e-11
                )


@every_family
@pytest.mark.parametrize("damping", [1e-3, 0.1, 5])
def test_its_damping_is_exact(family: str, damping: float) -> None:
    """`inverse(λ)` is the dense inverse of the matrix plus λI."""
    fisher = EigenvalueCorrectedFisher(RandomActor(family), oracles.observations(0))
    dense = fisher.to_dense() + damping * torch.eye(fisher.size).double()
    equal(fisher.damped(damping).to_dense(), dense)
    equal(fisher.inverse(damping).to_dense(), torch.linalg.inv(dense), atol=1e-8)
    v = oracles.randn(0, fisher.size)
    equal(fisher.solve(dense @ v, damping), v, atol=1e-9)


@pytest.mark.parametrize("family", ["gaussian", "gaussian_frozen"])
def test_it_is_exact_where_kfac_is(family: str) -> None:
    """One linear layer with Gaussian output."""
    actor, observations = Stack(family, nn.Linear(3, 2)), oracles.observations(0, n=9)
    dense = EigenvalueCorrectedFisher(actor, observations).to_dense()
    equal(dense, oracles.enumerated_fisher(actor, observations))


def test_what_is_no_layer_is_as_in_kfac() -> None:
    """The log scale has its exact block."""
    fisher = EigenvalueCorrectedFisher(RandomActor("gaussian"), oracles.observations(0))
    equal(fisher.to_dense()[:2, :2], 2 * torch.eye(2).double())
    assert not fisher.to_dense()[:2, 2:].any()


def test_the_trace_is_that_of_the_fisher_matrix() -> None:
    """A rotation keeps the trace, so that the scales sum to that of F; K-FAC's do not."""
    actor, observations = RandomActor("categorical"), oracles.observations(0)
    trace = oracles.enumerated_fisher(actor, observations).trace()
    equal(EigenvalueCorrectedFisher(actor, observations).to_dense().trace(), trace)
    assert abs(KroneckerFisher(actor, observations).to_dense().trace() - trace) > 1e-3


def test_time_folded_into_the_first_dimension() -> None:
    """A convolution that sees T frames of a state one after another sums over them, as F does."""

    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 2, 2), nn.Linear(16, 3)
            self.double()
            oracles.draw_weights_(self, 0)

        def forward(self, frames: Tensor) -> oracles.Distribution:
            hidden = torch.tanh(self.conv(frames.reshape(-1, 1, 3, 3)))
            return oracles.Categorical(self.head(hidden.reshape(len(frames), -1)))

    actor, frames = Frames(), oracles.randn(0, 4, 2, 3, 3)
    fisher = EigenvalueCorrectedFisher(actor, frames)
    exact = oracles.enumerated_fisher(actor, frames)
    equal(fisher.to_dense()[:10, :10].trace(), exact[:10, :10].trace())
    block, kfac = fisher.to_dense()[:10, :10], fisher.kronecker.to_dense()[:10, :10]
    assert torch.linalg.norm(block - exact[:10, :10]) < torch.linalg.norm(kfac - exact[:10, :10])


def test_without_damping_a_singular_matrix_is_rejected() -> None:
    """A softmax has a direction without effect."""
    fisher = EigenvalueCorrectedFisher(RandomActor("categorical"), oracles.observations(0, n=20))
    with pytest.raises(SingularMatrixError, match="at damping 0; raise the damping"):
        fisher.inverse()


def test_scales_that_are_not_finite_are_rejected() -> None:
    """Finite factors whose product overflows raise FloatingPointError by name."""
    actor = Stack("gaussian", nn.Linear(3, 2), dtype=torch.float32)
    nn.init.constant_(actor.log_std, -40)  # G about e⁸⁰ = 6e34
    observations = 1e4 * oracles.observations(0, dtype=torch.float32)
    with pytest.raises(FloatingPointError, match=r"body\.0"):
        EigenvalueCorrectedFisher(actor, observations)
    observations[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"body\.0"):
        EigenvalueCorrectedFisher(actor, observations)


def test_random_signs_are_unbiased_given_the_basis() -> None:
    """Over many states the trace by random signs is that of F within four standard errors."""
    actor, observations = RandomActor("bernoulli"), oracles.observations(0)
    source = oracles.generator(0)
    traces = torch.stack(
        [
            EigenvalueCorrectedFisher(actor, observations, samples=1, generator=source).to_dense().trace()
            for _ in range(100)
        ]
    )
    exact = oracles.enumerated_fisher(actor, observations).trace()
    assert (traces.mean() - exact).abs() < 4 * traces.std() / 10


class TimeFirst(nn.Module):
    """Moves the states from the first dimension to the second, or back."""

    def forward(self, x: Tensor) -> Tensor:
        """(A, B, D) -> (B, A, D)."""
        return x.transpose(0, 1)


class Folded(nn.Module):
    """(N, T, D) -> (N T, D)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the rows of all states."""
        return x.flatten(0, 1)


class Unfolded(nn.Module):
    """(N 4, D) -> (N, 4, D)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the rows by state."""
        return x.unflatten(0, (-1, 4))


def stacked(*around: tuple[nn.Module, ...]) -> Stack:
    """`sequential` with other modules before and after its first layer."""
    before, after = around
    tail = nn.Tanh(), oracles.MeanOverTime(), nn.Linear(3, 3)
    actor = Stack("categorical", *before, nn.Linear(8, 3), *after, *tail, seed=1)
    torch.nn.utils.vector_to_parameters(
        torch.cat([p.detach().flatten() for p in sequential("categorical", 1).parameters()]),
        actor.parameters(),
    )
    return actor


@pytest.mark.parametrize("states", [2, 4, 5])
@pytest.mark.parametrize("size", [None, 3])
def test_states_along_another_dimension_are_rejected(states: int, size: int | None) -> None:
    """(T, N, D), also with T = N: K-FAC, which sums over all rows, is the same; EKFAC names the layer."""
    observations = oracles.randn(8, states, 4, 8)
    actor = stacked((TimeFirst(),), (TimeFirst(),))
    whole = KroneckerFisher(sequential("categorical", 1), observations).to_dense()
    equal(KroneckerFisher(actor, observations, micro_batch_size=size).to_dense(), whole)
    with pytest.raises(ValueError, match=r"'body.1'.*states first.*KroneckerFisher or ExactFisher"):
        EigenvalueCorrectedFisher(actor, observations, micro_batch_size=size)


def test_rows_of_a_state_may_be_folded_into_the_first_dimension() -> None:
    """(N T, D), one state after another, is (N, T, D)."""
    observations = oracles.randn(8, 5, 4, 8)
    folded = EigenvalueCorrectedFisher(stacked((Folded(),), (Unfolded(),)), observations)
    equal(folded.to_dense(), EigenvalueCorrectedFisher(sequential("categorical", 1), observations).to_dense())


def test_one_state_has_no_wrong_layout() -> None:
    """(T, 1, D) and (1, T, D) are the same rows."""
    observations = oracles.randn(8, 1, 4, 8)
    moved = EigenvalueCorrectedFisher(stacked((TimeFirst(),), (TimeFirst(),)), observations)
    equal(moved.to_dense(), EigenvalueCorrectedFisher(sequential("categorical", 1), observations).to_dense())
