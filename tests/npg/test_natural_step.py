"""The natural step on problems with known answers: Kakade's table, a bandit, a change of parameters."""

import math
from copy import deepcopy
from functools import partial

import oracles
import pytest
import torch
from oracles import FAMILIES, RandomActor
from torch import Tensor, nn

from npg import (
    Categorical,
    Damped,
    DiagGaussian,
    ExactFisher,
    FlatParameters,
    KLHessian,
    PolicyStep,
    Rejection,
    SurrogateObjective,
    conjugate_gradient,
    natural_direction,
    natural_step,
    trust_region_length,
)

exact_solver = partial(conjugate_gradient, max_iterations=2000, tolerance=1e-12)


def problem(actor: nn.Module, seed: int = 0, n: int = 64) -> tuple[SurrogateObjective, Tensor]:
    """Return an objective of random advantages on sampled actions, and its observations."""
    observations = oracles.observations(seed, n)
    actions = actor(observations).sample(oracles.generator(seed))
    return SurrogateObjective(actor, observations, actions, oracles.randn(seed + 1, n)), observations


@pytest.mark.parametrize("damping", [0.0, 1e-10])
@pytest.mark.parametrize("counts", [(1, 1, 1, 1), (4, 2, 1, 1)])
def test_the_direction_of_a_table_is_the_advantage(counts: tuple[int, ...], damping: float) -> None:
    """Softmax of a table: F⁻¹g is the advantage up to a constant a state (Kakade 2001)."""
    states, choices = 3, len(counts)
    advantage = oracles.randn(0, states, choices)
    probability = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    actor = nn.Sequential(nn.Linear(states, choices, bias=False).double(), Softmax())
    with torch.no_grad():
        actor[0].weight.copy_(probability.log().unsqueeze(-1).expand(choices, states))
    # Every action as often as the policy takes it: the batch mean is the expectation.
    state = torch.arange(states).repeat_interleave(sum(counts))
    action = torch.arange(choices).repeat_interleave(torch.tensor(counts)).repeat(states)
    observations = torch.eye(states).double()[state]
    objective = SurrogateObjective(actor, observations, action, advantage[state, action])
    fisher = ExactFisher(actor, observations)
    direction = natural_direction(fisher, objective.gradient(), damping=damping, solver=exact_solver)
    x = direction.x.reshape(choices, states).T
    centred = advantage - advantage.mean(1, keepdim=True)
    torch.testing.assert_close(x - x.mean(1, keepdim=True), centred, rtol=1e-7, atol=1e-7)
    least_norm = torch.linalg.pinv(fisher.to_dense(), rtol=1e-10) @ objective.gradient()
    torch.testing.assert_close(direction.x, least_norm, rtol=1e-6, atol=1e-7)


class Softmax(nn.Module):
    """Logits to a Categorical."""

    def forward(self, logits: Tensor) -> Categorical:
        """Return the policy."""
        return Categorical(logits)


class Bandit(nn.Module):
    """Three continuous actions of fixed scale, no state: the KL is exactly quadratic in the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64))
        self.register_buffer("log_std", torch.tensor([-1.0, 0.0, 1.5], dtype=torch.float64))

    def forward(self, observations: Tensor) -> DiagGaussian:
        """Return one distribution for every row."""
        return DiagGaussian(self.mean.expand(len(observations), 3), self.log_std)


@pytest.mark.parametrize("target_kl", [1e-6, 0.01, 2.0])
def test_the_kl_of_a_bandit_step_is_the_target(target_kl: float) -> None:
    """Where the KL is quadratic, the step's KL is δ itself, and its direction Σ g."""
    actor = Bandit()
    objective, observations = problem(actor)
    fisher = ExactFisher(actor, observations)
    step = natural_step(objective, fisher, target_kl=target_kl, damping=0.0, solver=exact_solver)
    assert step.accepted
    assert step.kl == pytest.approx(target_kl, rel=1e-9)
    natural = objective.gradient() * torch.exp(2 * actor.log_std)
    torch.testing.assert_close(step.displacement / step.displacement.norm(), natural / natural.norm())
    new = deepcopy(actor)
    FlatParameters(new).add_(step.displacement)
    kl = oracles.kl(actor(observations), new(observations)).mean()
    assert kl.item() == pytest.approx(target_kl, rel=1e-9)


@pytest.mark.covering(2)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("damping", [0.01, 1.0])
@pytest.mark.parametrize("operator", [ExactFisher, KLHessian])
def test_the_length_is_that_of_the_quadratic_model(family: str, damping: float, operator: type) -> None:
    """½ dᵀFd = δ with the undamped F, along the damped direction."""
    actor = RandomActor(family)
    objective, observations = problem(actor)
    fisher = operator(actor, observations)
    step = natural_step(objective, fisher, target_kl=0.03, damping=damping, solver=exact_solver)
    F, d, g = fisher.to_dense(), step.displacement, objective.gradient()
    assert float(d @ F @ d) / 2 == pytest.approx(0.03, rel=1e-9)
    x = torch.linalg.solve(F + damping * torch.eye(len(F)), g)
    torch.testing.assert_close(d, math.sqrt(0.06 / float(x @ F @ x)) * x, rtol=1e-6, atol=1e-8)
    assert step.predicted_gain == pytest.approx(float(g @ d))
    assert step.cosine == pytest.approx(float(g @ d / (g.norm() * d.norm())))
    assert step.damping == damping


def test_without_damping_the_step_is_the_textbooks() -> None:
    """The displacement is sqrt(2δ / gᵀF⁻¹g) F⁻¹g."""
    actor = RandomActor("gaussian")
    objective, observations = problem(actor)
    fisher = ExactFisher(actor, observations)
    step = natural_step(objective, fisher, target_kl=0.01, damping=0.0, solver=exact_solver)
    F, g = fisher.to_dense(), objective.gradient()
    x = torch.linalg.solve(F, g)
    torch.testing.assert_close(step.displacement, math.sqrt(0.02 / float(g @ x)) * x, rtol=1e-5, atol=1e-7)
    assert trust_region_length(4.0, 0.02) == pytest.approx(0.1)


def test_a_fixed_step_size_multiplies_the_direction() -> None:
    """With step_size η the displacement is η (F + λI)⁻¹ g, whatever target_kl is."""
    actor = RandomActor("categorical")
    objective, observations = problem(actor)
    fisher = ExactFisher(actor, observations)
    for target_kl in (1e-4, 1.0):
        step = natural_step(
            objective, fisher, step_size=0.3, target_kl=target_kl, damping=0.1, solver=exact_solver
        )
        x = torch.linalg.solve(Damped(fisher, 0.1).to_dense(), objective.gradient())
        torch.testing.assert_close(step.displacement, 0.3 * x, rtol=1e-8, atol=1e-10)
        assert step.backtracks == 0


class Reparametrised(nn.Module):
    """The same policies through other parameters: θ = M φ, M invertible."""

    def __init__(self, actor: nn.Module, matrix: Tensor):
        super().__init__()
        self.policy = partial(oracles.as_function, actor)
        self.register_buffer("matrix", matrix)
        self.phi = nn.Parameter(torch.linalg.solve(matrix, oracles.flat_parameters(actor)))

    def forward(self, observations: Tensor) -> object:
        """Return π at θ = M φ."""
        return self.policy(observations)(self.matrix @ self.phi)


def moved(actor: nn.Module, displacement: Tensor, observations: Tensor) -> object:
    """Return the distribution that a step would lead to."""
    return oracles.as_function(actor, observations)(oracles.flat_parameters(actor) + displacement)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_step_does_not_depend_on_the_parameters(seed: int) -> None:
    """After θ = Mφ the natural step leads to the same distributions; a gradient step does not."""
    actor = RandomActor("gaussian", seed)
    objective, observations = problem(actor, seed)
    size = oracles.flat_parameters(actor).numel()
    matrix = torch.eye(size).double() + 0.5 * oracles.randn(seed + 9, size, size) / math.sqrt(size)
    other = Reparametrised(actor, matrix)
    other_objective, _ = problem(other, seed)
    assert torch.linalg.eigvalsh(ExactFisher(actor, observations).to_dense())[0] > 1e-6

    def natural(actor: nn.Module, objective: SurrogateObjective) -> PolicyStep:
        fisher = ExactFisher(actor, observations)
        return natural_step(objective, fisher, target_kl=0.05, damping=0.0, solver=exact_solver)

    ours, theirs = natural(actor, objective), natural(other, other_objective)
    assert theirs.kl == pytest.approx(ours.kl, rel=1e-6)
    torch.testing.assert_close(matrix @ theirs.displacement, ours.displacement, rtol=1e-4, atol=1e-6)
    pair = [
        moved(actor, ours.displacement, observations),
        moved(other, theirs.displacement, observations),
    ]
    assert float(oracles.kl(*pair).max().detach()) < 1e-9
    # The plain gradient, of the same rate and of the same length, is another policy.
    g, h = objective.gradient(), other_objective.gradient()
    length = float(ours.displacement.norm())
    for ours, theirs in ((0.3 * g, 0.3 * h), (length * g / g.norm(), length * h / h.norm())):
        pair = [moved(actor, ours, observations), moved(other, theirs, observations)]
        assert float(oracles.kl(*pair).mean().detach()) > 1e-5


def test_there_is_no_search() -> None:
    """A step is taken at full length even where its KL exceeds δ or the surrogate falls."""
    actor = RandomActor("gaussian")
    objective, observations = problem(actor)
    step = natural_step(objective, ExactFisher(actor, observations), target_kl=3.0)
    assert step.accepted
    assert step.backtracks == 0
    assert step.kl > 3.0


@pytest.mark.parametrize("name", ["target_kl", "step_size"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_options_out_of_range_are_rejected(name: str, value: float) -> None:
    """δ and η are positive and finite, λ is finite and not negative."""
    actor = RandomActor("gaussian")
    objective, observations = problem(actor)
    fisher = ExactFisher(actor, observations)
    with pytest.raises(ValueError, match=name):
        natural_step(objective, fisher, **{name: value})
    if value != 0:
        with pytest.raises(ValueError, match="damping"):
            natural_step(objective, fisher, damping=value)


def test_no_gradient_is_no_improvement() -> None:
    """Where all advantages are zero nothing is solved and nothing moves."""
    actor = RandomActor("gaussian")
    _, observations = problem(actor)
    zeros = torch.zeros(len(observations), dtype=torch.float64)
    actions = actor(observations).sample(oracles.generator(0))
    objective = SurrogateObjective(actor, observations, actions, zeros)
    step = natural_step(objective, ExactFisher(actor, observations))
    assert (step.rejection, step.solution) == (Rejection.NO_IMPROVEMENT, None)


@pytest.mark.parametrize("exponent", [-25, 0, 25])
def test_the_step_does_not_depend_on_the_scale_of_the_advantages(exponent: int) -> None:
    """In float32 too, advantages of 1e-25 or 1e25 give the step of advantages of 1."""
    logits = nn.Parameter(torch.zeros(3))
    actor = Table(logits)
    states, actions, advantages = torch.zeros(3, 1), torch.arange(3), torch.tensor([1.0, -2.0, 1.0])
    fisher = ExactFisher(actor, states)
    steps = [
        natural_step(SurrogateObjective(actor, states, actions, scale * advantages), fisher)
        for scale in (1.0, 10.0**exponent)
    ]
    torch.testing.assert_close(steps[1].displacement, steps[0].displacement)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e-30), (torch.float64, 1e-200)])
def test_a_step_too_small_for_its_dtype_is_reported_as_it_is(dtype: torch.dtype, size: float) -> None:
    """A displacement whose squares underflow has its length and its angle to the gradient."""
    actor = Table(nn.Parameter(torch.zeros(3, dtype=dtype)))
    states, advantages = torch.zeros(2, 1, dtype=dtype), torch.tensor([1.0, -1.0], dtype=dtype)
    objective = SurrogateObjective(actor, states, torch.tensor([0, 1]), advantages)
    step = natural_step(objective, ExactFisher(actor, states), step_size=size)
    assert step.accepted and step.cosine == pytest.approx(1)
    assert step.step_length == pytest.approx(size * float((step.displacement / size).norm()), rel=1e-6, abs=0)


def test_the_predicted_gain_of_small_numbers_does_not_underflow_in_float32() -> None:
    """Neither gradient nor step does, but their products would."""
    steps = []
    for dtype in (torch.float32, torch.float64):
        actor = Table(nn.Parameter(torch.zeros(3, dtype=dtype)))
        states, advantages = torch.zeros(2, 1, dtype=dtype), 1e-25 * torch.tensor([1.0, -1.0], dtype=dtype)
        objective = SurrogateObjective(actor, states, torch.tensor([0, 1]), advantages)
        steps.append(natural_step(objective, ExactFisher(actor, states), step_size=1.0))
    assert 0 < steps[0].predicted_gain == pytest.approx(steps[1].predicted_gain, rel=1e-4, abs=0)


@pytest.mark.parametrize("size", [1e-30, 1e20, 1e25, 1e30])
def test_the_diagnostics_of_a_step_do_not_overflow_in_float32(size: float) -> None:
    """With advantages of any size, cosine, length and predicted gain are those of float64."""
    steps = []
    for dtype in (torch.float32, torch.float64):
        actor = Table(nn.Parameter(torch.tensor([0.3, -0.2, 0.0], dtype=dtype)))
        states, advantages = torch.zeros(3, 1, dtype=dtype), torch.tensor([1.0, -3.0, 1.0], dtype=dtype)
        objective = SurrogateObjective(actor, states, torch.arange(3), size * advantages)
        steps.append(natural_step(objective, ExactFisher(actor, states)))
    assert steps[0].accepted and 0.1 < steps[0].cosine <= 1 + 1e-6
    for name in ("cosine", "step_length", "predicted_gain", "gain"):
        assert getattr(steps[0], name) == pytest.approx(getattr(steps[1], name), rel=1e-4, abs=0)


class Table(nn.Module):
    """One distribution for every state."""

    def __init__(self, logits: nn.Parameter):
        super().__init__()
        self.logits = logits

    def forward(self, observations: torch.Tensor) -> Categorical:
        """Return the distribution."""
        return Categorical(self.logits.expand(len(observations), -1))


@pytest.mark.parametrize("exponent", [-200, -170, 160, 200])
def test_gradients_beyond_the_range_of_a_float_are_rejected_with_a_reason(exponent: int) -> None:
    """xᵀFx under- or overflows float64: a step that is rejected, not an exception."""
    actor = Table(nn.Parameter(torch.zeros(3, dtype=torch.float64)))
    states, advantages = torch.zeros(3, 1), torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64)
    objective = SurrogateObjective(actor, states, torch.arange(3), 10.0**exponent * advantages)
    step = natural_step(objective, ExactFisher(actor, states))
    assert step.rejection in (Rejection.NON_FINITE_FISHER, Rejection.NEGATIVE_CURVATURE)
