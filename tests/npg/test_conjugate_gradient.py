"""Conjugate gradient on problems whose answer was chosen first."""

import oracles
import pytest
import scipy.sparse.linalg
import torch
from torch import Tensor

from npg import Solution, Status, conjugate_gradient, host

DTYPES = (torch.float32, torch.float64)


@pytest.fixture(autouse=True, params=[True, False], ids=["looking", "not looking"])
def may_look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run every test with and without host reads between iterations."""
    if not request.param:
        monkeypatch.setattr(host, "peek", lambda condition: None)
    return request.param


def spread(n: int, condition: float = 100.0) -> Tensor:
    """Return n eigenvalues from 1 to the condition number."""
    return torch.linspace(1, condition, n, dtype=torch.float64)


def true_residual(A: Tensor, b: Tensor, solution: Solution) -> float:
    """Return ‖b − A x‖ / ‖b‖."""
    return float(torch.linalg.vector_norm(b - A @ solution.x) / torch.linalg.vector_norm(b))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_it_solves_generated_problems(n: int, seed: int) -> None:
    """Of b = A x, with x drawn first, x is found, and the reported residual is the true one."""
    A, x = oracles.symmetric(spread(n), seed), oracles.randn(seed + 100, n)
    solution = conjugate_gradient(A, A @ x, max_iterations=3 * n, tolerance=1e-10)
    assert solution.status is Status.CONVERGED
    torch.testing.assert_close(solution.x, x, rtol=1e-7, atol=1e-7)
    assert solution.residual == pytest.approx(true_residual(A, A @ x, solution), rel=1e-3, abs=1e-15)
    assert solution.residual <= 1e-10


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_k_distinct_eigenvalues_take_k_iterations(k: int) -> None:
    """With k distinct eigenvalues the k-th Krylov space holds the solution."""
    eigenvalues = torch.arange(1, k + 1, dtype=torch.float64).repeat(6)
    A, x = oracles.symmetric(eigenvalues), oracles.randn(1, 6 * k)
    solution = conjugate_gradient(A, A @ x, max_iterations=50, tolerance=1e-10)
    assert solution.status is Status.CONVERGED
    assert solution.iterations == k
    torch.testing.assert_close(solution.x, x)


@pytest.mark.parametrize("k", [1, 2, 5, 12])
def test_iterates_are_those_of_scipy(k: int) -> None:
    """Stopped after k iterations, x and residual are scipy's k-th iterate."""
    A, b = oracles.symmetric(spread(20, 1e3)), oracles.randn(2, 20)
    solution = conjugate_gradient(A, b, max_iterations=k, tolerance=0)
    expected, _ = scipy.sparse.linalg.cg(A.numpy(), b.numpy(), maxiter=k, rtol=0)
    assert (solution.status, solution.iterations) == (Status.MAX_ITERATIONS, k)
    torch.testing.assert_close(solution.x, torch.from_numpy(expected), rtol=1e-9, atol=1e-12)
    assert solution.residual == pytest.approx(true_residual(A, b, solution), rel=1e-9)


def test_arguments_and_randomness_are_left_alone() -> None:
    """b, x0, A, the preconditioner and the global generator are bitwise what they were."""
    arguments = [
        oracles.symmetric(spread(9)),
        oracles.randn(0, 9),
        oracles.randn(1, 9),
        torch.eye(9).double(),
    ]
    before, state = [a.clone() for a in arguments], torch.get_rng_state()
    A, b, x0, preconditioner = arguments
    first = conjugate_gradient(A, b, x0=x0, preconditioner=preconditioner)
    second = conjugate_gradient(A, b, x0=x0, preconditioner=preconditioner)
    assert all(torch.equal(a, c) for a, c in zip(arguments, before, strict=True))
    assert torch.equal(first.x, second.x)
    assert torch.equal(torch.get_rng_state(), state)
    for a in (b, x0):
        assert first.x.data_ptr() != a.data_ptr()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("exponent", [-30, -12, 12, 30])
def test_scaling_b_scales_x_and_nothing_else(dtype: torch.dtype, exponent: int) -> None:
    """Of b · 10^e the solution is x · 10^e, in as many iterations, even where squares would overflow."""
    A, b = oracles.symmetric(spread(12)).to(dtype), oracles.randn(3, 12, dtype=dtype)
    plain = conjugate_gradient(A, b, max_iterations=30, tolerance=1e-5)
    scaled = conjugate_gradient(A, b * 10.0**exponent, max_iterations=30, tolerance=1e-5)
    assert (scaled.status, scaled.iterations) == (plain.status, plain.iterations)
    assert plain.status is Status.CONVERGED
    close = {"rtol": 1e-4, "atol": 1e-6} if dtype is torch.float32 else {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(scaled.x / 10.0**exponent, plain.x, **close)


@pytest.mark.parametrize("exponent", [-12, 0, 12])
def test_a_warm_start_at_the_solution_is_done(exponent: int) -> None:
    """x0 = A⁻¹b takes no iteration; x0 near it takes fewer than zero does; x0's scale is b's."""
    A, x = oracles.symmetric(spread(15)), oracles.randn(4, 15) * 10.0**exponent
    options = {"max_iterations": 50, "tolerance": 1e-8}
    there = conjugate_gradient(A, A @ x, x0=x, **options)
    assert (there.iterations, there.status) == (0, Status.CONVERGED)
    near = conjugate_gradient(A, A @ x, x0=x * (1 + 1e-6), **options)
    assert near.iterations < conjugate_gradient(A, A @ x, **options).iterations
    torch.testing.assert_close(near.x, x, rtol=1e-5, atol=0)


def test_a_perfect_preconditioner_needs_one_iteration() -> None:
    """With A⁻¹ itself, as matrix or operator, the first direction is the answer."""
    A, x = oracles.symmetric(spread(15, 1e4)), oracles.randn(5, 15)
    for inverse in (torch.linalg.inv(A), oracles.Dense(torch.linalg.inv(A))):
        solution = conjugate_gradient(A, A @ x, preconditioner=inverse, tolerance=1e-9)
        assert (solution.status, solution.iterations) == (Status.CONVERGED, 1)
        torch.testing.assert_close(solution.x, x, rtol=1e-7, atol=1e-7)


def test_jacobi_helps_a_badly_scaled_matrix() -> None:
    """Dividing by the diagonal of a badly scaled matrix saves most iterations and finds the same x."""
    scale = torch.logspace(-2, 2, 30, dtype=torch.float64)
    A = scale[:, None] * (torch.eye(30) + 0.3 * oracles.symmetric(spread(30) / 100)) * scale
    x, options = oracles.randn(6, 30), {"max_iterations": 500, "tolerance": 1e-8}
    plain = conjugate_gradient(A, A @ x, **options)
    jacobi = conjugate_gradient(A, A @ x, preconditioner=torch.diag(1 / A.diagonal()), **options)
    assert jacobi.status is Status.CONVERGED
    assert jacobi.iterations < plain.iterations / 2
    assert true_residual(A, A @ x, jacobi) <= 1e-8


def test_a_good_solve_costs_one_product_an_iteration_and_one_to_verify(may_look: bool) -> None:
    """Products: iterations + 1 on convergence, iterations alone when stopped by the limit.

    A host that may not look can neither stop nor know that there is nothing to verify: limit + 1.
    """
    operator, b = oracles.Dense(oracles.symmetric(spread(20))), oracles.randn(7, 20)
    solution = conjugate_gradient(operator, b, max_iterations=60, tolerance=1e-8)
    assert solution.status is Status.CONVERGED
    assert operator.products == (solution.iterations if may_look else 60) + 1
    operator.products = 0
    assert conjugate_gradient(operator, b, max_iterations=5, tolerance=1e-8).iterations == 5
    assert operator.products == (5 if may_look else 6)


@pytest.mark.covering(2)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9, 0.0])
@pytest.mark.parametrize("condition", [1e2, 1e5, 1e8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_convergence_is_never_claimed_in_vain(dtype: torch.dtype, condition: float, tolerance: float) -> None:
    """CONVERGED implies a true residual within the tolerance, however ill-conditioned A is."""
    for seed in range(5):
        A = oracles.symmetric(torch.logspace(0, 1, 25) ** torch.tensor(condition).log10(), seed).to(dtype)
        b = oracles.randn(seed, 25, dtype=dtype)
        b = b / b.abs().amax()  # the solver's own scale, so that the residual is repeated to the bit
        solution = conjugate_gradient(A, b, max_iterations=300, tolerance=tolerance)
        assert torch.isfinite(solution.x).all()
        if solution.status is Status.CONVERGED:
            assert true_residual(A, b, solution) <= tolerance
            assert solution.residual <= tolerance


def test_negative_curvature_returns_the_iterate_before_it() -> None:
    """On an indefinite matrix x is the last iterate that was still a minimum, here the first."""
    A = torch.diag(torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64))
    b = torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64)
    solution = conjugate_gradient(A, b)
    assert (solution.status, solution.iterations) == (Status.NEGATIVE_CURVATURE, 1)
    torch.testing.assert_close(solution.x, b * (b @ b) / (b @ A @ b))
    assert solution.residual == pytest.approx(true_residual(A, b, solution))
    at_once = conjugate_gradient(-A, b)
    assert (at_once.status, at_once.iterations) == (Status.NEGATIVE_CURVATURE, 0)
    assert not at_once.x.any()


def test_curvature_below_rounding_counts_as_none() -> None:
    """A curvature of 1e-17 beside one of 1 is rounding: no step of length 1e17 is taken along it."""
    A = torch.diag(torch.tensor([1.0, 1e-17], dtype=torch.float64))
    solution = conjugate_gradient(A, torch.ones(2, dtype=torch.float64))
    assert (solution.status, solution.iterations) == (Status.NEGATIVE_CURVATURE, 1)
    torch.testing.assert_close(solution.x, torch.full((2,), 2.0, dtype=torch.float64))


def test_an_indefinite_preconditioner_is_reported() -> None:
    """A preconditioner that turns the residual round is negative curvature too."""
    eye = torch.eye(4).double()
    assert conjugate_gradient(eye, eye[0], preconditioner=-eye).status is Status.NEGATIVE_CURVATURE


@pytest.mark.parametrize("seed", range(5))
def test_a_singular_but_consistent_system_is_solved(seed: int) -> None:
    """With b in the range of A the solution of least norm is found."""
    eigenvalues = torch.cat([torch.zeros(5), torch.linspace(1, 9, 10)]).double()
    A = oracles.symmetric(eigenvalues, seed)
    b = A @ oracles.randn(seed, 15)
    solution = conjugate_gradient(A, b, max_iterations=40, tolerance=1e-9)
    assert solution.status is Status.CONVERGED
    torch.testing.assert_close(solution.x, torch.linalg.pinv(A, rtol=1e-10) @ b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_a_singular_inconsistent_system_is_reported(seed: int) -> None:
    """With b outside the range of A the status says that nothing converged, and x is finite."""
    eigenvalues = torch.cat([torch.zeros(5), torch.linspace(1, 9, 10)]).double()
    A, b = oracles.symmetric(eigenvalues, seed), oracles.randn(seed, 15)
    solution = conjugate_gradient(A, b, max_iterations=100)
    assert solution.status is Status.NEGATIVE_CURVATURE
    assert torch.isfinite(solution.x).all()
    assert solution.residual > 0.1
    nothing = conjugate_gradient(torch.zeros_like(A), b)
    assert (nothing.status, nothing.iterations) == (Status.NEGATIVE_CURVATURE, 0)


def test_zero_is_solved_by_zero(may_look: bool) -> None:
    """For b = 0 no product is needed if the host may look."""
    operator = oracles.Dense(torch.eye(3))
    solution = conjugate_gradient(operator, torch.zeros(3))
    assert (solution.residual, solution.iterations, solution.status) == (0, 0, Status.CONVERGED)
    assert torch.equal(solution.x, torch.zeros(3))
    assert operator.products == 0 or not may_look


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_non_finite_numbers_are_reported(bad: float) -> None:
    """NaN or infinity in b, A, x0 or the preconditioner gives NON_FINITE and a finite x."""
    A, b = oracles.symmetric(spread(4)), oracles.randn(0, 4)
    bad_A, bad_b = A.clone(), b.clone()
    bad_A[1, 1] = bad_b[2] = bad
    for solution in (
        conjugate_gradient(A, bad_b),
        conjugate_gradient(bad_A, b),
        conjugate_gradient(A, b, x0=bad_b),
        conjugate_gradient(A, b, preconditioner=bad_A),
    ):
        assert solution.status is Status.NON_FINITE
        assert torch.isfinite(solution.x).all()


@pytest.mark.parametrize(
    "options",
    [{"max_iterations": 0}, {"max_iterations": -1}, {"tolerance": -1e-9}, {"tolerance": float("nan")}],
)
def test_options_out_of_range_are_rejected(options: dict[str, float]) -> None:
    """The error names the options and their values."""
    with pytest.raises(ValueError, match="max_iterations ≥ 1 and tolerance ≥ 0"):
        conjugate_gradient(torch.eye(2), torch.ones(2), **options)


@pytest.mark.parametrize(("b", "x0"), [((2, 1), None), ((2,), (2, 1)), ((2,), (3,))])
def test_shapes_that_do_not_fit_are_rejected(b: tuple[int, ...], x0: tuple[int, ...] | None) -> None:
    """A column, or a warm start of another length, would broadcast into a wrong answer."""
    with pytest.raises(ValueError, match="vectors of the same length"):
        conjugate_gradient(torch.eye(2), torch.ones(b), x0=None if x0 is None else torch.ones(x0))


def test_numbers_out_of_range_are_reported() -> None:
    """Under- and overflow of float32 end NON_FINITE with a finite x, not in an exception or infinity."""
    eye, ones = torch.eye(3), torch.ones(3)
    for solution in (
        conjugate_gradient(eye, ones, preconditioner=1e-30 * eye),
        conjugate_gradient(1e-20 * eye, 1e30 * ones),
        conjugate_gradient(1e-40 * eye, ones),
    ):
        assert solution.status is Status.NON_FINITE
        assert torch.isfinite(solution.x).all()


@pytest.mark.parametrize("preconditioned", [False, True])
def test_a_solve_reads_the_device_once(monkeypatch: pytest.MonkeyPatch, preconditioned: bool) -> None:
    """However many iterations there are."""
    reads: list[dict[str, float]] = []
    read = host.read
    monkeypatch.setattr(host, "peek", lambda condition: None)
    monkeypatch.setattr(host, "read", lambda **scalars: reads.append(read(**scalars)) or reads[-1])
    A, b = oracles.symmetric(spread(50)), oracles.randn(1, 50)
    preconditioner = torch.eye(50, dtype=A.dtype) if preconditioned else None
    for iterations, tolerance in ((5, 0.0), (40, 0.0), (100, 1e-6)):
        reads.clear()
        solution = conjugate_gradient(
            A, b, max_iterations=iterations, tolerance=tolerance, preconditioner=preconditioner
        )
        assert solution.iterations == iterations or solution.status is Status.CONVERGED
        assert len(reads) == 1
