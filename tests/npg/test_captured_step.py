"""Captured steps are the eager steps, whatever changes between two calls."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import oracles
import pytest
import torch
from device_guard import device_only
from fake_graph import FakeGraph, fake_graphs
from oracles import FAMILIES
from torch import Tensor, nn

from npg import (
    DiagGaussian,
    ExactFisher,
    FiniteDifferenceFisher,
    LinearOperator,
    PolicyStep,
    Rejection,
    Scaled,
    SurrogateObjective,
    natural_step,
    trust_region_step,
)
from npg.captured_step import CapturedStep, fresh_parameters
from npg.conjugate_gradient import conjugate_gradient
from npg.states import each, select

# On the CPU with a stand-in for graphs, and on a GPU with CUDA graphs.
on_devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
N = 48


@pytest.fixture(autouse=True)
def graphs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use the stand-in on the CPU."""
    if request.node.callspec.params.get("device", "meta") != "cpu":
        yield
        return
    with fake_graphs(monkeypatch):
        yield


class Problem:
    """An actor on a device, with data that differ from call to call."""

    def __init__(self, device: str, family: str = "gaussian", dtype: torch.dtype = torch.float64) -> None:
        self.actor = oracles.RandomActor(family).to(device, dtype)
        self.device, self.dtype = device, dtype
        self.calls = 0

    def objective(
        self, n: int = N, advantage: float | None = None, bonus: float | None = None
    ) -> SurrogateObjective:
        """Return an objective of new data."""
        self.calls += 1
        cpu = copy.deepcopy(self.actor).to("cpu", torch.float64)
        observations = oracles.observations(self.calls, n)
        actions = oracles.actions_of(cpu, observations)
        advantages = oracles.randn(self.calls, n)
        if advantage is not None:
            advantages = torch.full_like(advantages, advantage)

        def there(data: Tensor) -> Tensor:
            return data.to(self.device, self.dtype if data.is_floating_point() else data.dtype)

        return SurrogateObjective(
            self.actor,
            there(observations),
            there(actions),
            there(advantages),
            entropy_coefficient=bonus,
        )


def assert_same(ours: PolicyStep, eager: PolicyStep, tolerance: float = 1e-6) -> None:
    """Compare everything that a step has."""
    assert ours.rejection == eager.rejection
    scale = float(eager.displacement.abs().max())
    torch.testing.assert_close(ours.displacement, eager.displacement, rtol=tolerance, atol=tolerance * scale)
    assert ours.scalars() == pytest.approx(eager.scalars(), rel=tolerance, abs=1e-9)
    assert ours.surrogate == pytest.approx(eager.surrogate, rel=tolerance, abs=1e-9)
    assert (ours.solution is None) == (eager.solution is None)
    if ours.solution is not None and eager.solution is not None:
        assert ours.solution.status == eager.solution.status
        torch.testing.assert_close(ours.solution.x, eager.solution.x, rtol=1e-5, atol=1e-6 * scale)


def eager_step(
    objective: SurrogateObjective, make_fisher: Callable[..., LinearOperator] = ExactFisher, **options: Any
) -> PolicyStep:
    """Return the trust-region step without captures, with the solver of `CapturedStep`."""
    fisher = make_fisher(objective._actor, objective.data["observations"])
    return trust_region_step(objective, fisher, **options)


def captures() -> int:
    """Return the number of captures on the CPU."""
    return FakeGraph.captures


@on_devices
@pytest.mark.parametrize("family", FAMILIES)
def test_steps_of_all_distributions(family: str, device: str) -> None:
    """Over several updates, with and without backtracking, and of both kinds."""
    problem = Problem(device, family)
    steps = CapturedStep(problem.actor, ExactFisher)
    for target_kl, shrink in ((0.01, 0.8), (0.5, 0.5), (3.0, 0.6)):
        objective = problem.objective()
        ours = steps.trust_region_step(objective, target_kl=target_kl, shrink=shrink)
        assert_same(ours, eager_step(objective, target_kl=target_kl, shrink=shrink))
        assert ours.accepted
        objective.parameters.add_(ours.displacement, known_finite=True)
    assert steps.failure is None
    objective = problem.objective()
    fisher = ExactFisher(problem.actor, objective.data["observations"])
    for options in ({"target_kl": 0.02}, {"step_size": 0.05}, {"step_size": 0.1, "damping": 0.5}):
        assert_same(steps.natural_step(objective, **options), natural_step(objective, fisher, **options))
    if device == "cpu":
        assert captures() in (2, 3) and FakeGraph.replays >= 6  # the second graph is for backtracking
    assert steps.failure is None


@on_devices
def test_numbers_change_without_a_capture(device: str) -> None:
    """Damping, target KL and data are read in every replay; the steps stay usable afterwards."""
    problem = Problem(device)
    steps = CapturedStep(problem.actor, ExactFisher)
    kept: list[tuple[PolicyStep, Tensor]] = []
    for damping, target_kl in ((0.1, 0.01), (0.01, 0.02), (1.0, 0.005)):
        objective = problem.objective()
        ours = steps.trust_region_step(objective, damping=damping, target_kl=target_kl)
        assert_same(ours, eager_step(objective, damping=damping, target_kl=target_kl))
        assert ours.damping == damping
        kept.append((ours, ours.displacement.clone()))
    assert all(torch.equal(step.displacement, before) for step, before in kept)
    if device == "cpu":
        assert captures() == 1 + any(step.backtracks for step, _ in kept)


@on_devices
def test_the_entropy_bonus_is_read_in_every_replay(device: str) -> None:
    """Its coefficient may change; that there is one takes a capture of its own."""
    problem = Problem(device)
    steps = CapturedStep(problem.actor, ExactFisher)
    lengths = []
    for bonus in (None, 0.1, 3.0, 0.1):
        objective = problem.objective(bonus=bonus)
        ours = steps.trust_region_step(objective, target_kl=2.0)  # also by the second graph
        assert_same(ours, eager_step(objective, target_kl=2.0))
        lengths.append(ours.backtracks)
    assert any(lengths) and steps.failure is None
    if device == "cpu":
        assert captures() <= 4


@on_devices
def test_what_changes_the_capture(device: str) -> None:
    """Another batch size; moved, replaced and frozen parameters; another activation."""
    problem = Problem(device)
    steps = CapturedStep(problem.actor, ExactFisher)

    def check(what: str, n: int = N) -> None:
        before = captures()
        objective = problem.objective(n)
        assert_same(steps.trust_region_step(objective), eager_step(objective))
        assert steps.failure is None
        if device == "cpu":
            assert (captures() > before) == (what != ""), what

    check("first")
    check("")
    check("batch size", 30)
    check("", 30)
    for parameter in problem.actor.parameters():
        parameter.data = parameter.data.clone() + 0.01
    check("moved")
    check("")
    with torch.no_grad():
        for parameter in problem.actor.parameters():
            parameter.add_(0.01)
    check("")
    problem.actor.load_state_dict({k: v + 0.01 for k, v in problem.actor.state_dict().items()})
    check("")
    parts = [(module, name) for module in problem.actor.modules() for name, _ in module.named_children()]
    linear = [(m, name) for m, name in parts if isinstance(getattr(m, name), nn.Linear)]
    owner, name = linear[0]
    old = getattr(owner, name)
    setattr(owner, name, copy.deepcopy(old))
    check("replaced")
    getattr(owner, name).weight.requires_grad_(False)
    check("frozen")
    tanh = [(m, name) for m, name in parts if isinstance(getattr(m, name), nn.Tanh)]
    if tanh:
        setattr(*tanh[0], nn.Sigmoid())
        check("activation")


@on_devices
def test_solver_options(device: str) -> None:
    """Iterations and tolerance are those of the eager solver, which stops early."""
    problem = Problem(device)
    for max_iterations, tolerance in ((3, 1e-8), (40, 1e-3), (25, 0.3)):
        steps = CapturedStep(problem.actor, ExactFisher, max_iterations=max_iterations, tolerance=tolerance)
        objective = problem.objective()
        fisher = ExactFisher(problem.actor, objective.data["observations"])

        def solver(
            operator: LinearOperator, b: Tensor, options: tuple[int, float] = (max_iterations, tolerance)
        ) -> Any:
            return conjugate_gradient(operator, b, max_iterations=options[0], tolerance=options[1])

        ours = steps.trust_region_step(objective)
        eager = trust_region_step(objective, fisher, solver=solver)
        assert_same(ours, eager)
        assert ours.solution is not None and eager.solution is not None
        assert ours.solution.iterations == eager.solution.iterations


@on_devices
def test_a_restart_of_the_solver_is_eager(device: str) -> None:
    """If b − A x is larger than the residual of the recurrence, conjugate gradient restarts."""
    problem = Problem(device, dtype=torch.float32)
    steps = CapturedStep(problem.actor, ExactFisher, max_iterations=60, tolerance=1e-7)
    objective = problem.objective()
    fisher = ExactFisher(problem.actor, objective.data["observations"])
    eager = trust_region_step(
        objective,
        fisher,
        damping=1e-3,
        solver=lambda a, b: conjugate_gradient(a, b, max_iterations=60, tolerance=1e-7),
    )
    assert_same(steps.trust_region_step(objective, damping=1e-3), eager, 2e-3)


@on_devices
@pytest.mark.parametrize("advantage", [0.0, math.nan, math.inf])
def test_gradients_without_a_direction(advantage: float, device: str) -> None:
    """Zero and non-finite gradients are rejected with the eager reason, and do no harm to the next step."""
    problem = Problem(device)
    steps = CapturedStep(problem.actor, ExactFisher)
    for value in (None, advantage, None):
        objective = problem.objective(advantage=value)
        ours, eager = steps.trust_region_step(objective), eager_step(objective)
        assert ours.rejection == eager.rejection
        if value is None:
            assert_same(ours, eager)
        else:
            assert ours.rejection in (Rejection.NO_IMPROVEMENT, Rejection.NON_FINITE_GRADIENT)
            assert not ours.displacement.any()
            assert ours.surrogate == pytest.approx(eager.surrogate, nan_ok=True)


class Indefinite(LinearOperator):
    """F − c I."""

    def __init__(self, actor: nn.Module, observations: Any, shift: float):
        self.fisher = ExactFisher(actor, observations)
        super().__init__(self.fisher.size, self.fisher.dtype, self.fisher.device)
        self.shift = shift

    def matvec(self, vector: Tensor) -> Tensor:
        """Return F v − c v."""
        return self.fisher @ vector - self.shift * vector


@on_devices
@pytest.mark.parametrize("shift", [0.3, 5.0])
def test_negative_curvature(shift: float, device: str) -> None:
    """The second attempt, with more damping, is eager; a rejection has the eager reason."""
    problem = Problem(device)

    def make(actor: nn.Module, observations: Any) -> LinearOperator:
        return Indefinite(actor, observations, shift)

    steps = CapturedStep(problem.actor, make)
    for _ in range(2):
        objective = problem.objective()
        ours, eager = steps.trust_region_step(objective), eager_step(objective, make)
        assert_same(ours, eager)
        assert ours.damping > 0.1 or ours.rejection is Rejection.NEGATIVE_CURVATURE
    assert steps.failure is None


@on_devices
@pytest.mark.parametrize(
    "make",
    [
        FiniteDifferenceFisher,
        lambda actor, observations: ExactFisher(actor, select(observations, slice(0, None, 3))),
        lambda actor, observations: Scaled(2.0, ExactFisher(actor, observations)),
    ],
    ids=["finite difference", "every third state", "composed"],
)
def test_other_fisher_matrices(make: Callable[..., LinearOperator], device: str) -> None:
    """Whatever needs no host read can be captured."""
    problem = Problem(device)
    steps = CapturedStep(problem.actor, make)
    for _ in range(2):
        objective = problem.objective()
        assert_same(steps.trust_region_step(objective), eager_step(objective, make), 1e-5)
    assert steps.failure is None


class DictActor(nn.Module):
    """A policy of two observations, with a buffer that its owner updates in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 8), nn.Linear(2, 8)
        self.out, self.log_std = nn.Linear(8, 2), nn.Parameter(torch.zeros(2))
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, observations: dict[str, Tensor]) -> DiagGaussian:
        """Return the distributions."""
        hidden = self.first(observations["a"] - self.mean) + self.second(observations["b"])
        return DiagGaussian(self.out(torch.tanh(hidden)), self.log_std)


@on_devices
def test_dictionaries_and_buffers(device: str) -> None:
    """Observations may be dictionaries; buffers are read where they are."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        actor = DictActor().double().to(device)
    steps = CapturedStep(actor, ExactFisher)
    for seed in range(3):
        observations = {"a": oracles.randn(seed, N, 3), "b": oracles.randn(seed + 9, N, 2)}
        actions, advantages = oracles.randn(seed, N, 2).to(device), oracles.randn(seed + 5, N).to(device)
        objective = SurrogateObjective(
            actor, each(lambda t: t.to(device), observations), actions, advantages, old_log_prob=None
        )
        ours = steps.trust_region_step(objective)
        assert_same(ours, eager_step(objective))
        objective.parameters.add_(ours.displacement)
        actor.mean.add_(0.1)
    if device == "cpu":
        assert captures() <= 2
    assert steps.failure is None


class ReadingActor(nn.Module):
    """A policy that reads a number, which a capture does not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 2)
        self.log_std = nn.Parameter(torch.zeros(2))

    def forward(self, observations: Tensor) -> DiagGaussian:
        """Return the distributions."""
        if FakeGraph.capturing or float(observations.abs().max()) < 0:
            raise ValueError("reads a number")
        return DiagGaussian(self.net(observations), self.log_std)


@on_devices
def test_a_policy_that_cannot_be_captured(device: str) -> None:
    """There is one warning; all steps are the eager ones, and torch still draws random numbers."""
    problem = Problem(device)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        problem.actor = ReadingActor().double().to(device)
    steps = CapturedStep(problem.actor, ExactFisher)

    def objective() -> SurrogateObjective:
        observations, actions = oracles.observations(0, N), oracles.randn(1, N, 2)
        advantages = oracles.randn(2, N).to(device)
        return SurrogateObjective(problem.actor, observations.to(device), actions.to(device), advantages)

    with pytest.warns(RuntimeWarning, match="cannot be captured") as warned:
        for _ in range(2):
            assert_same(steps.trust_region_step(objective()), eager_step(objective()))
    assert len(warned) == 1 and steps.failure is not None
    assert torch.rand(3, device=device).isfinite().all()


@on_devices
def test_older_graphs_of_autograd_may_be_alive(device: str) -> None:
    """The objective has one, and so may a caller; it stays usable."""
    problem = Problem(device)
    steps = CapturedStep(problem.actor, ExactFisher)
    objective = problem.objective()
    loss = problem.actor(objective.data["observations"]).log_prob(objective.data["actions"]).sum()
    assert_same(steps.trust_region_step(objective), eager_step(objective))
    loss.backward()
    gradient = objective.gradient()
    assert gradient.isfinite().all() and steps.failure is None


@on_devices
def test_fresh_parameters_have_the_same_memory(device: str) -> None:
    """Shared ones stay shared, and the old ones come back after an error."""
    actor = Problem(device).actor
    before = list(actor.parameters())
    with pytest.raises(ZeroDivisionError), fresh_parameters(actor):
        for old, new in zip(before, actor.parameters(), strict=True):
            assert (new is old) == (not old.requires_grad) and new.data_ptr() == old.data_ptr()
            assert new.requires_grad == old.requires_grad
        _ = 1 / 0
    assert all(old is new for old, new in zip(before, actor.parameters(), strict=True))


@pytest.mark.parametrize("family", ["gaussian", "categorical"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nothing_is_read_in_a_graph(family: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both functions run on the meta device, which has no numbers."""
    actor = oracles.RandomActor(family)
    observations = oracles.observations(0, N)
    actions = oracles.actions_of(actor, observations)
    data = {
        "observations": observations.to("meta", dtype),
        "actions": actions.to("meta", dtype if actions.is_floating_point() else actions.dtype),
        "advantages": torch.ones(N, device="meta", dtype=dtype),
        "old_log_prob": torch.ones(N, device="meta", dtype=dtype),
    }
    actor = actor.to("meta", dtype)
    steps = CapturedStep(actor, ExactFisher, max_iterations=2)
    number = torch.ones((), device="meta", dtype=torch.float64)
    with device_only(monkeypatch) as reads:
        for options in ({"target_kl": number}, {"step_size": number}):
            solved = steps._solve_and_evaluate(data, {"damping": number, **options}, ())
            steps._solved = solved
            numbers = steps._evaluate_shortened(number, ())
            assert solved["numbers"].shape == (len(steps._names["solve"]),)
            assert numbers.shape == (len(steps._names["evaluate"]),)
            assert solved["full_step"].dtype == dtype
    assert reads == []


@pytest.mark.parametrize("device", ["cpu"])
def test_errors_are_those_of_eager_steps(device: str) -> None:
    """Options out of range."""
    problem = Problem(device)
    steps, objective = CapturedStep(problem.actor, ExactFisher), problem.objective()
    with pytest.raises(ValueError, match="damping must be"):
        steps.trust_region_step(objective, damping=-1.0)
    with pytest.raises(ValueError, match="target_kl must be"):
        steps.natural_step(objective, target_kl=0.0)
    with pytest.raises(ValueError, match="0 < shrink < 1"):
        steps.trust_region_step(objective, shrink=1.5)
