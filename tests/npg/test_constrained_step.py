"""The constrained step: it solves its problem exactly, and what is accepted respects every constraint."""

import math
from collections import Counter
from copy import deepcopy

import numpy as np
import oracles
import pytest
import torch
from oracles import Dense, RandomActor
from scipy import optimize
from torch import Tensor

from npg import (
    Case,
    ConstrainedObjective,
    Damped,
    Evaluation,
    ExactFisher,
    FlatParameters,
    Rejection,
    Solution,
    Status,
    SurrogateObjective,
    constrained_direction,
    constrained_step,
    natural_direction,
    natural_step,
    trust_region_step,
)
from npg.constrained_step import constrained_rejection
from npg.polyhedron import Polyhedron, nonnegative_least_squares
from npg.step_rule import StepRule

DELTA = 0.01


def exactly(operator: Damped, b: Tensor) -> Solution:
    """Solve a dense system by factorisation."""
    matrix = operator.operator.to_dense() + operator.damping * torch.eye(operator.size, dtype=b.dtype)
    return Solution(torch.linalg.solve(matrix, b), 0.0, 1, Status.CONVERGED)


def random_problem(seed: int, m: int, size: int | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return F, g, B and c; B's rows differ in scale, and c in how much of it δ allows to repair."""
    P = size or 2 + seed % 9
    A, g, B = oracles.randn(seed, P, P), oracles.randn(seed + 1, P), oracles.randn(seed + 2, m, P)
    F = A @ A.T / P + 0.05 * torch.eye(P, dtype=A.dtype)
    B = B * torch.exp(2 * oracles.randn(seed + 3, m, 1))
    reach = (2 * DELTA * (B * torch.linalg.solve(F, B.T).T).sum(1)).sqrt()
    shares = torch.rand(m, generator=oracles.generator(seed), dtype=A.dtype) * 2.0 - 1.2
    return F, g, B, shares * reach


def solve(F: Tensor, g: Tensor, B: Tensor, c: Tensor, **options: object):
    """Return the solution with exact solves and, by default, without damping."""
    options = {"damping": 0.0, "solver": exactly, "target_kl": DELTA, **options}
    return constrained_direction(Dense(F), g, B, c.tolist(), **options)


def by_slsqp(F: Tensor, g: Tensor, B: Tensor, c: Tensor) -> np.ndarray | None:
    """Solve max gᵀd, c + Bd ≤ 0, ½ dᵀFd ≤ δ in all dimensions by SciPy; None if nothing is feasible."""
    F, g, B, c = (tensor.numpy() for tensor in (F, g, B, c))
    root = np.linalg.inv(np.linalg.cholesky(F).T) * math.sqrt(2 * DELTA)  # d = root z, KL = δ ‖z‖²
    g, sizes = g @ root / np.linalg.norm(g @ root), np.linalg.norm(B @ root, axis=1)
    normals, offsets = (B @ root) / sizes[:, None], c / sizes
    constraints = [
        {"type": "ineq", "fun": lambda z: -offsets - normals @ z, "jac": lambda z: -normals},
        {"type": "ineq", "fun": lambda z: 1 - z @ z, "jac": lambda z: -2 * z},
    ]
    found = [
        optimize.minimize(
            lambda z: -g @ z,
            start,
            jac=lambda z: -g,
            method="SLSQP",
            constraints=constraints,
            options={"maxiter": 1000, "ftol": 1e-15},
        )
        for start in (np.zeros(len(g)), g / 2)
    ]
    feasible = [r for r in found if (normals @ r.x + offsets).max() < 1e-8 and r.x @ r.x < 1 + 1e-8]
    return root @ min(feasible, key=lambda r: r.fun).x if feasible else None


@pytest.mark.parametrize(("m", "problems"), [(2, 40), (1, 5), (3, 5), (6, 5)])
def test_equals_slsqp(m: int, problems: int) -> None:
    """Random problems with one to six constraints: 1e-6 from SciPy's solution, or infeasible for both."""
    cases: Counter[Case] = Counter()
    for seed in range(100 * m, 100 * m + problems):
        F, g, B, c = random_problem(seed, m)
        direction, expected = solve(F, g, B, c), by_slsqp(F, g, B, c)
        cases[direction.case] += 1
        assert (expected is None) == (direction.case is Case.RECOVERY), seed
        if expected is not None:
            d = direction.displacement
            assert torch.linalg.vector_norm(d - torch.tensor(expected)) <= 1e-6 * np.linalg.norm(expected), (
                seed
            )
            assert d @ F @ d / 2 <= DELTA * (1 + 1e-9)
    assert m != 2 or all(cases[case] for case in Case), cases


def test_many_constraints() -> None:
    """Twelve constraints: the solution has the KKT conditions of a maximum."""
    F, g, B, c = random_problem(5, 12, size=20)
    c = -0.1 * c.abs()
    direction = solve(F, g, B, c)
    d = direction.displacement
    assert direction.case is Case.LIMITED
    slack = (c + B @ d) / c.abs()
    active = slack > -1e-9
    assert slack.max() < 1e-9 and 1 < active.sum() < 12
    # g = Bᵀν + ℓ F d with ν ≥ 0 on the active constraints, and ℓ > 0.
    columns = torch.cat([B[active], (F @ d).unsqueeze(0)]).T
    multipliers = torch.linalg.lstsq(columns, g.unsqueeze(1)).solution.squeeze(1)
    torch.testing.assert_close(columns @ multipliers, g, rtol=1e-8, atol=1e-8)
    assert multipliers.min() > 0


def test_by_hand_in_two_dimensions() -> None:
    """F = I and a limit on the first coordinate: walk to it, then along it until the circle ends."""
    F, g, B = torch.eye(2, dtype=torch.float64), torch.tensor([1.0, 1.0]).double(), torch.eye(2).double()[:1]
    radius = math.sqrt(2 * DELTA)
    direction = solve(F, g, B, torch.tensor([-0.3 * radius]))
    expected = radius * torch.tensor([0.3, math.sqrt(1 - 0.09)], dtype=torch.float64)
    torch.testing.assert_close(direction.displacement, expected)
    assert direction.case is Case.LIMITED
    back = solve(F, g, B, torch.tensor([0.3 * radius]))
    torch.testing.assert_close(back.displacement, expected * torch.tensor([-1.0, 1.0]))
    assert back.case is Case.RETURN
    recovery = solve(F, g, B, torch.tensor([1.5 * radius]))
    torch.testing.assert_close(recovery.displacement, radius * torch.tensor([-1.0, 0.0]).double())
    assert recovery.case is Case.RECOVERY


def test_recovery_lowers_every_violation() -> None:
    """The step is a multiple of the shortest one that repairs everything, with a KL of δ."""
    for seed in range(20):
        F, g, B, c = random_problem(seed, 3, size=8)
        c = 20 * c.abs() * torch.tensor([1.0, 1.0, -0.1])
        direction = solve(F, g, B, c)
        d = direction.displacement
        assert direction.case is Case.RECOVERY
        assert d @ F @ d / 2 == pytest.approx(DELTA)
        assert ((B @ d)[:2] < 0).all() and c[2] + B[2] @ d <= 0


def test_contradicting_limits() -> None:
    """If one cost must rise for the other to fall, the larger violation is lowered."""
    F, g, B, _ = random_problem(1, 1, size=5)
    direction = solve(F, g, torch.cat([B, -2 * B]), torch.tensor([0.3, 0.2]))
    p = torch.linalg.solve(F, B[0])
    assert direction.case is Case.RECOVERY
    torch.testing.assert_close(direction.displacement, -p * math.sqrt(2 * DELTA / (B[0] @ p)))


def test_equal_constraints_are_one() -> None:
    """A repeated constraint, and one without a gradient, change nothing."""
    F, g, B, _ = random_problem(2, 1, size=6)
    B = B * (B[0] @ torch.linalg.solve(F, g)).sign()  # TRPO's step raises it
    c = -0.01 * torch.linalg.vector_norm(B)
    alone = solve(F, g, B, c.reshape(1))
    assert alone.case is Case.LIMITED
    more = solve(F, g, torch.cat([B, 3 * B, 0 * B]), torch.stack([c, 3 * c, -c]))
    torch.testing.assert_close(more.displacement, alone.displacement)


def test_units_do_not_matter() -> None:
    """Costs in other units, 1e12 times as large, and another scale of the objective give the same step."""
    for seed in range(5):
        F, g, B, c = random_problem(seed, 2)
        d = solve(F, g, B, c).displacement
        torch.testing.assert_close(solve(F, 1e-9 * g, 1e12 * B, 1e12 * c).displacement, d)


def test_damping_changes_directions_only() -> None:
    """With a large λ, the predicted KL of a limited step is δ nonetheless, and the constraint is met."""
    for seed in range(10):
        F, g, B, _ = random_problem(seed, 1, size=6)
        reached = B[0] @ torch.linalg.solve(F + torch.eye(6, dtype=F.dtype), g)
        B = B * reached.sign()
        c = -0.05 * (2 * DELTA * B[0] @ torch.linalg.solve(F, B[0])).sqrt().reshape(1)
        direction = solve(F, g, B, c, damping=1.0)
        d = direction.displacement
        if direction.case is Case.LIMITED:
            assert d @ F @ d / 2 == pytest.approx(DELTA)
            assert float(c + B[0] @ d) == pytest.approx(0, abs=1e-12)
            # Nearest point to a multiple of x in the metric H = F + λI: H d = t g - ν b.
            H = F + torch.eye(6, dtype=F.dtype)
            pair = torch.stack([g, -B[0]], dim=1)
            t, nu = torch.linalg.lstsq(pair, (H @ d).unsqueeze(1)).solution.squeeze(1)
            torch.testing.assert_close(t * g - nu * B[0], H @ d)
            assert t > 0 and nu > 0


def test_projection_by_hand() -> None:
    """PCPO with one constraint: TRPO's step minus max(0, (c + bᵀd) / bᵀF⁻¹b) · F⁻¹b."""
    for seed in range(10):
        F, g, B, c = random_problem(seed, 1, size=6)
        x, p = torch.linalg.solve(F, g), torch.linalg.solve(F, B[0])
        step = x * math.sqrt(2 * DELTA / (g @ x))
        expected = step - p * max(0.0, float((c + B[0] @ step) / (B[0] @ p)))
        kl = float(expected @ F @ expected / 2)
        expected = expected * min(1.0, math.sqrt(DELTA / kl))
        torch.testing.assert_close(solve(F, g, B, c, project=True).displacement, expected)


def test_without_a_gradient() -> None:
    """Without a gradient of the objective there is a step only if a constraint is violated."""
    F, g, B, _ = random_problem(3, 1, size=4)
    stays = solve(F, 0 * g, B, torch.tensor([-1.0]))
    assert stays.rejection is Rejection.NO_IMPROVEMENT and not stays.displacement.any()
    reach = float((2 * DELTA * B[0] @ torch.linalg.solve(F, B[0])).sqrt())
    back = solve(F, 0 * g, B, torch.tensor([0.5 * reach]))
    assert back.case is Case.RETURN and float(B[0] @ back.displacement) == pytest.approx(-0.5 * reach)
    assert solve(F, math.nan * g, B, torch.tensor([1.0])).rejection is Rejection.NON_FINITE_GRADIENT
    with pytest.raises(ValueError, match="one finite excess per constraint, 1; got"):
        solve(F, g, B, torch.tensor([math.nan]))


def test_constraints_cost_products_only_if_they_matter() -> None:
    """As many as TRPO while no constraint would be violated; otherwise, one solve more for each."""
    F, g, B, _ = random_problem(4, 2, size=30)
    natural, free, limited = Dense(F), Dense(F), Dense(F)
    assert natural_direction(natural, g, damping=0.1).rejection is None
    assert constrained_direction(free, g, B, [-1e6, -1e6]).case is Case.FREE
    assert constrained_direction(limited, g, B, [1e-3, -1e6]).case is Case.RETURN
    iterations = 10  # of conjugate gradient, which does not converge
    assert natural.products == free.products == iterations + 1
    assert limited.products == 3 * iterations + 1 + 3  # and the curvature of each solution


def batch_of(actor: RandomActor, seed: int, m: int, n: int = 32) -> tuple[Tensor, ...]:
    """Return observations, sampled actions, and advantages of objective and constraints."""
    observations = oracles.observations(seed, n)
    actions = actor(observations).sample(oracles.generator(seed))
    return observations, actions, oracles.randn(seed + 1, n), oracles.randn(seed + 2, n, m)


def test_objective_of_constraints() -> None:
    """Gradients and changes are those of surrogate objectives with the constraints' advantages."""
    actor = RandomActor("gaussian")
    observations, actions, advantages, of_constraints = batch_of(actor, 0, 2)
    objective = ConstrainedObjective(actor, observations, actions, advantages, of_constraints)
    plain = SurrogateObjective(actor, observations, actions, advantages)
    step = 0.1 * oracles.randn(7, objective.parameters.size)
    assert torch.equal(objective.gradient(), plain.gradient())
    assert torch.equal(objective.gradient(), objective.gradient())
    found = objective.measure(step)
    for name, value in plain.measure(step).items():
        assert torch.equal(found[name], value), name
    for i in range(2):
        alone = SurrogateObjective(actor, observations, actions, of_constraints[:, i])
        torch.testing.assert_close(objective.constraint_gradients()[i], alone.gradient())
        torch.testing.assert_close(float(found[f"constraint {i}"]), alone.evaluate(step).gain)
    assert math.isnan(objective.measure(math.inf * step)["constraint 0"])
    with pytest.raises(ValueError, match=r"shape \(32, m\), one row per state"):
        ConstrainedObjective(actor, observations, actions, advantages, of_constraints[:, 0])


def test_accepted_steps_keep_their_promise() -> None:
    """Recompute KL, gain and costs on a copy that takes the step; a rejected step is zero."""
    outcomes: Counter[object] = Counter()
    for seed in range(24):
        actor = RandomActor("gaussian" if seed % 2 else "categorical", seed)
        observations, actions, advantages, of_constraints = batch_of(actor, seed, 2)
        excesses = ((0.05 if seed % 4 else 0.5) * oracles.randn(seed + 5, 2) - 0.02).tolist()
        objective = ConstrainedObjective(actor, observations, actions, advantages, of_constraints)
        before = FlatParameters(actor).vector()
        step = constrained_step(
            objective, ExactFisher(actor, observations), excesses, target_kl=0.05, damping=1e-3
        )
        assert torch.equal(FlatParameters(actor).vector(), before)
        outcomes[step.case if step.accepted else step.rejection] += 1
        assert all(math.isfinite(value) and type(value) is float for value in step.scalars().values())
        if not step.accepted:
            assert not step.displacement.any() and step.constraint_changes == (0.0, 0.0)
            continue
        new = deepcopy(actor)
        FlatParameters(new).add_(step.displacement)
        with torch.no_grad():
            p, q = actor(observations), new(observations)
            assert oracles.kl(p, q).mean() <= 0.05 * (1 + 1e-9)
            change = (oracles.log_prob(q, actions) - oracles.log_prob(p, actions)).exp() - 1
        costs = (change.unsqueeze(1) * of_constraints).mean(0)
        torch.testing.assert_close(torch.tensor(step.constraint_changes, dtype=costs.dtype), costs)
        assert all(change <= max(0.0, -c) for change, c in zip(costs.tolist(), excesses, strict=True))
        if step.case >= Case.LIMITED and max(excesses) <= 0:
            assert (change * advantages).mean() > 0
    assert {*Case} <= outcomes.keys(), outcomes


def test_far_from_its_limits_it_is_the_trust_region_step() -> None:
    """Without a constraint that matters, every bit is that of TRPO's step."""
    actor = RandomActor("gaussian")
    observations, actions, advantages, of_constraints = batch_of(actor, 3, 1)
    fisher = ExactFisher(actor, observations)
    objective = ConstrainedObjective(actor, observations, actions, advantages, of_constraints)
    step = constrained_step(objective, fisher, [-1e6])
    expected = trust_region_step(SurrogateObjective(actor, observations, actions, advantages), fisher)
    assert step.case is Case.FREE
    torch.testing.assert_close(step.displacement, expected.displacement, rtol=1e-12, atol=0)
    assert (step.gain, step.kl) == pytest.approx((expected.gain, expected.kl), rel=1e-9)
    assert natural_step(objective, fisher).accepted


def test_single_precision() -> None:
    """In float32 the step is that of float64, up to the rounding of the products."""
    for seed in range(5):
        F, g, B, c = random_problem(seed, 2)
        d = solve(F, g, B, c)
        single = solve(*(tensor.float() for tensor in (F, g, B, c)))
        assert single.case is d.case and single.displacement.dtype == torch.float32
        torch.testing.assert_close(single.displacement.double(), d.displacement, rtol=1e-3, atol=1e-4)


RULE = StepRule.trust_region(DELTA, 0.8, 10)


@pytest.mark.parametrize(
    ("changes", "excesses", "case", "gain", "kl", "expected"),
    [
        ([0.1], [-0.2], Case.FREE, 1.0, 0.005, None),
        ([0.1], [-0.2], Case.FREE, -1.0, 0.005, Rejection.NO_IMPROVEMENT),
        ([0.3], [-0.2], Case.LIMITED, 1.0, 0.005, Rejection.CONSTRAINT_ABOVE_LIMIT),
        ([0.1, 0.3], [-0.2, -0.2], Case.LIMITED, 1.0, 0.005, Rejection.CONSTRAINT_ABOVE_LIMIT),
        ([0.1], [-0.2], Case.LIMITED, 1.0, 0.02, Rejection.KL_ABOVE_TARGET),
        ([-0.1], [0.2], Case.RETURN, -1.0, 0.005, None),
        ([0.1], [0.2], Case.RETURN, 1.0, 0.005, Rejection.CONSTRAINT_ABOVE_LIMIT),
        ([0.0], [0.2], Case.RECOVERY, 1.0, 0.005, Rejection.NO_IMPROVEMENT),
        ([-0.1, 0.1], [0.2, -0.2], Case.RECOVERY, -1.0, 0.005, None),
        ([-0.1], [0.2], Case.FREE, -1.0, 0.005, None),
        ([math.nan], [-0.2], Case.FREE, 1.0, 0.005, Rejection.CONSTRAINT_ABOVE_LIMIT),
        ([-0.1], [0.2], Case.RETURN, math.nan, 0.005, Rejection.NON_FINITE_SURROGATE),
    ],
)
def test_what_is_accepted(changes, excesses, case, gain, kl, expected) -> None:
    """The KL, every constraint and, unless one is violated, the objective decide."""
    assert constrained_rejection(Evaluation(gain, gain, kl), changes, excesses, case, RULE) is expected


def test_nonnegative_least_squares() -> None:
    """The result is SciPy's, for full rank, repeated and zero columns."""
    for seed in range(30):
        matrix, target = oracles.randn(seed, 6, 1 + seed % 8), oracles.randn(seed + 1, 6)
        _, expected = optimize.nnls(matrix.numpy(), target.numpy())
        for columns in (matrix, torch.cat([matrix, matrix, 0 * matrix], dim=1)):
            found = nonnegative_least_squares(columns, target)
            assert found.min() >= 0
            assert torch.linalg.vector_norm(columns @ found - target) == pytest.approx(expected, abs=1e-12)


def test_nearest_point() -> None:
    """A point inside stays; an empty polyhedron has none, even if its two sides are parallel."""
    square = Polyhedron(torch.cat([torch.eye(2), -torch.eye(2)]).double(), torch.ones(4).double())
    inside, corner = torch.tensor([0.5, -0.5]).double(), torch.tensor([3.0, -9.0]).double()
    assert torch.equal(square.nearest(inside)[0], inside)
    point, active = square.nearest(corner)
    torch.testing.assert_close(point, torch.tensor([1.0, -1.0]).double())
    assert active.tolist() == [True, False, False, True]
    empty = Polyhedron(square.normals, torch.tensor([-1.0, 1.0, 0.5, 1.0]).double())
    assert empty.nearest(inside) is None
