"""What every Fisher operator keeps to, and the exact matrix in four ways."""

import math
import warnings
from functools import partial

import operators
import oracles
import pytest
import scipy.sparse.linalg
import torch
from operators import EVERY, OPERATORS
from oracles import FAMILIES, RandomActor
from torch import Tensor, nn

from npg import (
    Categorical,
    Damped,
    DiagGaussian,
    ExactFisher,
    FiniteDifferenceFisher,
    KLHessian,
    conjugate_gradient,
)

every_family = pytest.mark.parametrize("family", FAMILIES)
every_operator = pytest.mark.parametrize("name", EVERY)
both = pytest.mark.parametrize("operator", (ExactFisher, KLHessian))


def near(name: str, actual: Tensor, expected: Tensor, atol: float = 1e-10) -> None:
    """Assert equal values to the accuracy that the operator of this name promises."""
    equal(actual, expected, atol=max(atol, operators.TOLERANCES.get(name, 0) * float(expected.abs().max())))


def equal(a: Tensor, b: Tensor, atol: float = 1e-10) -> None:
    """Assert equal shapes and values."""
    torch.testing.assert_close(a, b, rtol=1e-10, atol=atol)


@every_family
@pytest.mark.parametrize("seed", [0, 1])
def test_four_ways_to_one_matrix(family: str, seed: int) -> None:
    """ExactFisher = KLHessian = E[s sᵀ] = −E[∇² log π], entry by entry."""
    actor, observations = RandomActor(family, seed), oracles.observations(seed)
    dense = ExactFisher(actor, observations).to_dense()
    assert dense.abs().max() > 1e-2
    equal(dense, KLHessian(actor, observations).to_dense())
    equal(dense, oracles.enumerated_fisher(actor, observations))
    equal(dense, oracles.negative_expected_hessian(actor, observations))


@pytest.mark.covering(2)
@every_family
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_operator_is_its_dense_matrix(name: str, family: str, seed: int) -> None:
    """Entry by entry to 1e-10, the forward difference to 1e-6; never the zero matrix."""
    actor, observations = RandomActor(family, seed), oracles.observations(seed, n=6)
    expected = operators.dense(name, actor, observations)
    assert expected.abs().max() > 1e-2
    near(name, OPERATORS[name](actor, observations).to_dense(), expected)


@every_family
@pytest.mark.parametrize("name", sorted(EVERY.keys() - {"difference", "likelihood"}))
def test_symmetric_and_positive_semi_definite(family: str, name: str) -> None:
    """F = Fᵀ, and its smallest eigenvalue is zero or more up to rounding."""
    dense = EVERY[name](RandomActor(family), oracles.observations(0)).to_dense()
    equal(dense, dense.T, atol=1e-14)
    eigenvalues = torch.linalg.eigvalsh((dense + dense.T) / 2)
    assert eigenvalues[0] >= -1e-12 * eigenvalues[-1]


@every_operator
@every_family
def test_products_are_repeatable_and_linear(family: str, name: str) -> None:
    """The same vector twice gives the same bits, and F(au + bv) = aFu + bFv."""
    fisher = EVERY[name](RandomActor(family), oracles.observations(0))
    u, v = oracles.randn(1, fisher.size), oracles.randn(2, fisher.size)
    first = fisher @ u
    near(name, fisher @ (3 * u - 2 * v), 3 * first - 2 * (fisher @ v), atol=1e-12)
    assert torch.equal(fisher @ u, first)
    assert not first.requires_grad
    assert (fisher.shape, fisher.dtype) == ((fisher.size, fisher.size), torch.float64)


@every_operator
def test_it_stands_for_the_parameters_at_construction(name: str) -> None:
    """A later gradient, no_grad context or other operator changes no product; a new operator sees new θ."""
    operator, actor, observations = EVERY[name], RandomActor("gaussian"), oracles.observations(0)
    expected = operator(actor, observations).to_dense()
    with torch.no_grad():
        fisher = operator(actor, observations)
        equal(fisher.to_dense(), expected, atol=0)
    actor(observations).entropy().sum().backward()
    equal(fisher.to_dense(), expected, atol=0)
    torch.nn.init.ones_(actor.head.weight)
    if name != "sampled":
        near(name, operator(actor, observations).to_dense(), operators.dense(name, actor, observations))


@every_operator
def test_a_coordinate_that_is_a_parameter_is_copied(name: str) -> None:
    """Moving log σ, which is its own coordinate and in no graph's memory, changes no product."""
    actor, observations = RandomActor("gaussian"), oracles.observations(0)
    fisher = EVERY[name](actor, observations)
    expected = fisher.to_dense()
    nn.init.constant_(actor.log_std, 2.0)
    equal(fisher.to_dense(), expected, atol=0)


@every_operator
@pytest.mark.parametrize("training", [False, True])
def test_no_randomness_and_nothing_is_touched(name: str, training: bool) -> None:
    """Generator, parameters, .grad, mode, hooks and gradient mode stay as they were."""
    actor, observations = RandomActor("categorical").train(training), oracles.observations(0)
    state, before = torch.get_rng_state(), {k: v.clone() for k, v in actor.state_dict().items()}
    attributes = {n: set(vars(module)) for n, module in actor.named_modules()}
    EVERY[name](actor, observations).to_dense()
    assert torch.equal(torch.get_rng_state(), state)
    assert list(before) == list(actor.state_dict())
    assert all(torch.equal(v, before[k]) for k, v in actor.state_dict().items())
    assert all(p.grad is None and p.is_leaf for p in actor.parameters())
    assert torch.is_grad_enabled()
    for n, module in actor.named_modules():
        assert module.training is training
        assert set(vars(module)) == attributes[n]
        assert not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


@both
@every_family
def test_scipy_solves_with_it(family: str, operator: type) -> None:
    """SciPy's conjugate gradient inverts the damped operator through to_scipy."""
    fisher = Damped(operator(RandomActor(family), oracles.observations(0)), 0.1)
    b = oracles.randn(3, fisher.size)
    x, info = scipy.sparse.linalg.cg(fisher.to_scipy(), b.numpy(), rtol=1e-10, maxiter=500)
    assert info == 0
    equal(torch.from_numpy(x), torch.linalg.solve(fisher.to_dense(), b), atol=1e-7)


def exchange(sent: list[Tensor], means: list[Tensor], local: Tensor, states: int) -> Tensor:
    """Record what a process sends, its sum over states, and return the mean if it is known."""
    sent.append(local * states)
    return means[len(sent) - 1] if len(sent) <= len(means) else local


@pytest.mark.parametrize("name", OPERATORS)
@every_family
def test_two_processes_average_to_the_whole(family: str, name: str) -> None:
    """Averaging what `reduce` is given over two unequal batches gives the operator of the whole batch.

    Two processes are played in turn: the first run notes what each would send, the second is given the
    means. EKFAC sends its scales in a basis that it needs the means for, so its last tensors come right in
    a third run.
    """
    operator, actor = OPERATORS[name], RandomActor(family)
    observations = oracles.observations(0, n=8)
    v = oracles.randn(4, oracles.flat_parameters(actor).numel())
    means: list[Tensor] = []
    for _ in range(3):
        sent: list[list[Tensor]] = []
        for part in observations.split([3, 5]):
            mine: list[Tensor] = []

            product = operator(actor, part, reduce=partial(exchange, mine, means)) @ v
            sent.append(mine)
        means = [(first + second) / 8 for first, second in zip(*sent, strict=True)]
    near(name, product, operator(actor, observations) @ v)


@every_operator
def test_a_doubling_reduce_doubles_the_matrix(name: str) -> None:
    """Every statistic passes through `reduce`; K-FAC's two factors are doubled each."""
    actor, observations = RandomActor("gaussian"), oracles.observations(0)
    single = EVERY[name](actor, observations).to_dense()
    double = EVERY[name](actor, observations, reduce=lambda t, _: 2 * t).to_dense()
    factor = torch.full_like(single, 2)
    if name == "kronecker":
        factor[2:, 2:] = 4
    equal(double, factor * single)


@every_operator
def test_unused_parameters_have_zero_rows(name: str) -> None:
    """What the forward never reads gets zero rows and columns, and disturbs no other entry."""
    operator, actor, observations = EVERY[name], RandomActor("bernoulli"), oracles.observations(0)
    expected = operator(actor, observations).to_dense()
    actor.unused = nn.Linear(2, 2).double()
    dense = operator(actor, observations).to_dense()
    size = len(expected)
    near(name, dense[:size, :size], expected, atol=0)
    assert not dense[size:].any()
    assert not dense[:, size:].any()


@every_operator
@pytest.mark.parametrize("frozen", ["log_std", "hidden.weight", "head.bias", "hidden"])
def test_frozen_parameters_are_left_out(name: str, frozen: str) -> None:
    """Freezing removes rows and columns and nothing else, of EKFAC up to the eigenvectors that go with it."""
    actor, observations = RandomActor("gaussian"), oracles.observations(0)
    kept = torch.cat(
        [torch.full((p.numel(),), not n.startswith(frozen)) for n, p in actor.named_parameters()]
    )
    expected = EVERY[name](actor, observations).to_dense()[kept][:, kept]
    for n, p in actor.named_parameters():
        p.requires_grad_(not n.startswith(frozen))
    if name == "corrected":
        expected = operators.dense(name, actor, observations)
    near(name, EVERY[name](actor, observations).to_dense(), expected, atol=1e-14)


@pytest.mark.parametrize("name", sorted(EVERY.keys() - {"empirical", "likelihood", "sampled"}))
@pytest.mark.parametrize("family", ["categorical", "multi_categorical"])
def test_forbidden_choices_change_nothing_else(family: str, name: str) -> None:
    """With one more choice at logit −∞ the matrix is finite and the same."""

    class Masked(RandomActor):
        def forward(self, observations: Tensor) -> object:
            distribution = super().forward(observations)
            shut = [nn.functional.pad(z, (0, 1), value=-torch.inf) for z in distribution.coordinates]
            return type(distribution)(shut if family == "multi_categorical" else shut[0])

    observations = oracles.observations(0)
    near(
        name,
        EVERY[name](Masked(family), observations).to_dense(),
        EVERY[name](RandomActor(family), observations).to_dense(),
    )


@pytest.mark.parametrize("name", ["exact", "kl", "diagonal", "block", "kronecker", "corrected"])
def test_the_mean_is_over_states_and_the_sum_over_dimensions(name: str) -> None:
    """N(θ, 1) in A dimensions has Fisher matrix I, whatever N and A: no division by A, none by N."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.Parameter(torch.zeros(5))

        def forward(self, observations: Tensor) -> DiagGaussian:
            return DiagGaussian(self.mean.expand(len(observations), 5), torch.zeros(5))

    for n in (1, 4):
        assert torch.equal(EVERY[name](Mean(), torch.zeros(n, 1)).to_dense(), torch.eye(5))


@pytest.mark.parametrize("family", ["gaussian", "categorical", "bernoulli"])
def test_sampled_scores_converge_to_it(family: str) -> None:
    """The mean of sampled s sᵀ agrees within four of its standard errors, and those shrink as 1/√n."""
    actor, observation = RandomActor(family, 2), oracles.observations(2, n=1)
    exact = ExactFisher(actor, observation).to_dense()
    states, source = observation.expand(250, -1), oracles.generator(5)
    draws = (actor(states).sample(source) for _ in range(20))
    scores = torch.cat([oracles.scores(actor, states, actions) for actions in draws])
    for n in (500, 5000):
        s = scores[:n]
        mean = s.T @ s / n
        error = ((s.square().T @ s.square() / n - mean.square()).clamp(min=0) / n).sqrt()
        assert ((mean - exact).abs() <= 4 * error + 1e-12).all()
        assert error.max() < 5 * exact.abs().max() / math.sqrt(n)


@pytest.mark.parametrize("name", sorted(EVERY.keys() - {"empirical", "likelihood", "sampled"}))
@every_family
def test_single_precision_agrees_with_double(family: str, name: str) -> None:
    """In float32 the matrix is right to 1e-5 of its largest entry, by a difference to 3e-3."""
    exact = EVERY[name](RandomActor(family), oracles.observations(0)).to_dense()
    single = EVERY[name](
        RandomActor(family, dtype=torch.float32), oracles.observations(0, dtype=torch.float32)
    ).to_dense()
    assert single.dtype is torch.float32
    assert (single.double() - exact).abs().max() <= (3e-3 if name == "difference" else 1e-5) * exact.max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_family
def test_half_precision_errs_by_a_few_units(family: str, dtype: torch.dtype) -> None:
    """In half precision ExactFisher is right to 4 eps of its largest entry."""
    exact = ExactFisher(RandomActor(family), oracles.observations(0)).to_dense()
    actor, observations = RandomActor(family, dtype=dtype), oracles.observations(0, dtype=dtype)
    half = ExactFisher(actor, observations).to_dense()
    assert half.dtype is dtype
    assert (half.double() - exact).abs().max() <= 4 * torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.covering(2)
@every_operator
@every_family
def test_one_state_is_enough(family: str, name: str) -> None:
    """With N = 1 every operator still is its dense matrix."""
    actor, observations = RandomActor(family), oracles.observations(0, n=1)
    dense = EVERY[name](actor, observations).to_dense()
    assert dense.isfinite().all()
    if name not in ("sampled", "corrected"):  # with one state K-FAC's eigenvectors are not unique
        near(name, dense, operators.dense(name, actor, observations))


class Recurrent(nn.Module):
    """The last output of an LSTM, and a linear layer."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 3)
        self.to(dtype)
        oracles.draw_weights_(self, 0)

    def forward(self, observations: Tensor) -> Categorical:
        """Return the policy at sequences (N, T, 3)."""
        return Categorical(self.head(self.lstm(observations)[0][:, -1]))


def test_an_lstm_has_a_fisher_matrix() -> None:
    """In float32, where the CPU runs a fused kernel, a difference gives the matrix to 3e-3.

    This kernel can be differentiated twice, so that ExactFisher holds there too.
    """
    observations = oracles.randn(0, 5, 6, 3)
    double = ExactFisher(Recurrent(torch.float64), observations).to_dense()
    equal(double, oracles.enumerated_fisher(Recurrent(torch.float64), observations))
    for operator, accuracy in ((FiniteDifferenceFisher, 3e-3), (ExactFisher, 1e-5)):
        single = operator(Recurrent(), observations.float()).to_dense()
        assert (single.double() - double).abs().max() <= accuracy * double.max()


def test_a_difference_needs_one_derivative_only() -> None:
    """Without a second derivative, every operator uses a difference, which one warning per actor says."""

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.tanh()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return gradient * (1 - ctx.saved_tensors[0].tanh().square())

    class Fused(RandomActor):
        def forward(self, observations: Tensor) -> object:
            return self.policy(self.head(Once.apply(self.hidden(observations))))

    observations = oracles.observations(0)
    for name in ("exact", "kl", "empirical", "likelihood", "sampled"):
        actor = Fused("categorical")
        with pytest.warns(RuntimeWarning, match="marked with once_differentiable.*finite differences"):
            dense = EVERY[name](actor, observations).to_dense()
        near("difference", dense, EVERY[name](RandomActor("categorical"), observations).to_dense())
        with warnings.catch_warnings(action="error"):
            EVERY[name](actor, observations, micro_batch_size=2)
    dense = FiniteDifferenceFisher(Fused("categorical"), observations).to_dense()
    near("difference", dense, ExactFisher(RandomActor("categorical"), observations).to_dense())


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_a_difference_knows_the_size_of_its_vector(scale: float) -> None:
    """The step is in units of the parameters, so that F(cv) = cFv over sixteen decades, and F0 = 0."""
    fisher = FiniteDifferenceFisher(RandomActor("bernoulli"), oracles.observations(0))
    v = oracles.randn(0, fisher.size)
    near("difference", (fisher @ (scale * v)) / scale, fisher @ v)
    assert not (fisher @ torch.zeros_like(v)).any()


@every_operator
@pytest.mark.parametrize("size", [None, 2])
def test_an_empty_batch_is_rejected(name: str, size: int | None) -> None:
    """No state has no mean."""
    for family in FAMILIES:
        with pytest.raises(ValueError, match="at least one state"):
            EVERY[name](RandomActor(family), torch.zeros(0, 3, dtype=torch.float64), micro_batch_size=size)


@every_operator
@pytest.mark.parametrize("size", [None, 1])
def test_an_actor_must_return_an_npg_distribution(name: str, size: int | None) -> None:
    """A tensor or a torch distribution is rejected by name, and so is an actor with nothing to train."""

    class Torch(nn.Linear):
        def forward(self, x: Tensor) -> object:
            return torch.distributions.Categorical(logits=super().forward(x))

    for actor, kind in ((nn.Linear(3, 2), "Tensor"), (Torch(3, 2), "Categorical")):
        with pytest.raises(TypeError, match=f"must return an npg distribution.*got {kind}"):
            EVERY[name](actor, torch.zeros(2, 3), micro_batch_size=size)
    with pytest.raises(ValueError, match="no trainable parameter"):
        frozen = RandomActor("categorical").requires_grad_(False)
        EVERY[name](frozen, oracles.observations(0), micro_batch_size=size)


@pytest.mark.covering(2)
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("family", ["bernoulli", "categorical", "gaussian", "multi_categorical"])
@pytest.mark.parametrize("size", [None, 1])
def test_extra_batch_dimensions_are_states(name: str, family: str, size: int | None) -> None:
    """Coordinates (T, B, K) are T · B states, with T micro-batches too."""
    actor, x = RandomActor(family), oracles.observations(0, n=6)
    spread = OPERATORS[name](actor, x.reshape(2, 3, 3), micro_batch_size=size)
    near(name, spread.to_dense(), OPERATORS[name](actor, x).to_dense())


@every_operator
@pytest.mark.parametrize("size", [None, 2])
def test_an_actor_without_reach_is_rejected(name: str, size: int | None) -> None:
    """A trainable parameter that does not reach the distribution leaves nothing to differentiate."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Parameter(torch.ones(1))

        def forward(self, observations: torch.Tensor) -> Categorical:
            return Categorical(torch.zeros(len(observations), 2))

    with pytest.raises(ValueError, match="no trainable parameter of the actor reaches"):
        EVERY[name](Constant(), torch.zeros(3, 1), micro_batch_size=size)


@every_operator
def test_gradients_are_needed_at_construction_only_inside(name: str) -> None:
    """Inside `no_grad` and `set_grad_enabled(False)` an operator is the same."""
    actor, observations = RandomActor("multi_categorical"), oracles.observations(0)
    expected = EVERY[name](actor, observations).to_dense()
    with torch.no_grad():
        equal(EVERY[name](actor, observations).to_dense(), expected, atol=0)


@pytest.mark.parametrize("name", operators.INVERTIBLE)
@every_family
def test_a_preconditioner_changes_the_path_and_not_the_end(family: str, name: str) -> None:
    """Conjugate gradient preconditioned by any closed-form inverse finds the solution of the dense system."""
    actor, observations = RandomActor(family), oracles.observations(0)
    system = Damped(ExactFisher(actor, observations), 0.05)
    b = oracles.randn(5, system.size)
    inverse = EVERY[name](actor, observations).inverse(0.05)
    solution = conjugate_gradient(system, b, max_iterations=200, tolerance=1e-11, preconditioner=inverse)
    equal(solution.x, torch.linalg.solve(system.to_dense(), b), atol=1e-8)


@pytest.mark.parametrize("name", operators.INVERTIBLE)
@pytest.mark.parametrize("family", ["gaussian", "categorical"])
def test_a_preconditioner_undoes_a_bad_scale(family: str, name: str) -> None:
    """With features on scales from 0.01 to 100 at most three quarters of the iterations are left."""
    actor = oracles.Stack(family, nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, oracles.outputs_of(family)))
    scales = torch.logspace(-2, 2, 8, dtype=torch.float64)
    with torch.no_grad():
        actor.body[0].weight /= scales  # the policy is the same, its parameters are not
    observations = oracles.randn(1, 100, 8) * scales
    system = Damped(ExactFisher(actor, observations), 1e-2)
    b = system @ oracles.randn(5, system.size)
    inverse = EVERY[name](actor, observations).inverse(1e-2)
    plain = conjugate_gradient(system, b, max_iterations=500, tolerance=1e-6)
    better = conjugate_gradient(system, b, max_iterations=500, tolerance=1e-6, preconditioner=inverse)
    assert plain.status == better.status == "converged"
    assert better.iterations <= 0.75 * plain.iterations


@pytest.mark.parametrize("size", [1e-30, 1e20, 1e30])
def test_a_difference_does_not_overflow_in_float32(size: float) -> None:
    """The product is linear in the scale of the vector, although its squares leave the range of float32."""
    actor, observations = RandomActor("gaussian", dtype=torch.float32), oracles.observations(0).float()
    fisher = FiniteDifferenceFisher(actor, observations)
    vector = oracles.randn(1, fisher.size, dtype=torch.float32)
    torch.testing.assert_close(fisher @ (size * vector) / size, fisher @ vector, rtol=1e-2, atol=1e-3)
