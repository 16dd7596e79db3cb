"""The step of ACKTR against dense matrices and its own recursion."""

import copy
import math

import oracles
import pytest
import torch
from torch import Tensor, nn

from npg import DiagGaussian, KroneckerFisher, KroneckerStepper, SingularMatrixError
from npg.fisher.blocks import BlockDiagonal
from npg.scaling import power_of_two


class Linear(nn.Module):
    """One linear layer with a Gaussian output, for which K-FAC is the Fisher matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2).double()
        self.log_std = nn.Parameter(torch.tensor([0.1, -0.4]).double())

    def forward(self, observations: Tensor) -> DiagGaussian:
        """Return the policy at observations (N, 3)."""
        return DiagGaussian(self.layer(observations), self.log_std)


def make(seed: int = 0, **options: float) -> KroneckerStepper:
    """Return a stepper without statistics."""
    torch.manual_seed(seed)
    return KroneckerStepper(KroneckerFisher(Linear()), **{"damping": 0.1, "momentum": 0.0} | options)


def gradient(seed: int, size: int) -> Tensor:
    """Return a random gradient."""
    return oracles.randn(seed, size)


@pytest.mark.parametrize("target_kl", [1e-3, 1e-2])
def test_the_capped_step_has_the_kl_that_it_was_given(target_kl: float) -> None:
    """With η out of the way d = sqrt(2δ / xᵀF_λx) x along x = F_λ⁻¹g, with ½ dᵀF_λd = δ."""
    stepper = make()
    stepper.observe(oracles.observations(0, n=30))
    g = gradient(1, stepper.fisher.size)
    d = stepper.displacement(g, step_size=1e6, target_kl=target_kl)
    F = stepper.fisher.damped(0.1).to_dense()
    x = torch.linalg.solve(F, g)
    torch.testing.assert_close(d, math.sqrt(2 * target_kl / float(x @ F @ x)) * x, rtol=1e-8, atol=1e-10)
    assert float(d @ F @ d) / 2 == pytest.approx(target_kl)


def test_the_learning_rate_is_the_longest_step() -> None:
    """Where η is below the trust region's length, d = η x."""
    stepper = make()
    stepper.observe(oracles.observations(0, n=30))
    g = gradient(1, stepper.fisher.size)
    d = stepper.displacement(g, step_size=1e-4, target_kl=1.0)
    torch.testing.assert_close(d, 1e-4 * stepper.fisher.solve(g, 0.1))


def test_momentum_is_a_mean_of_past_steps_and_stays_in_the_region() -> None:
    """A step is the mean d = μ d_last + (1 − μ) α x, and ½ dᵀF_λd ≤ δ for any sequence of gradients."""
    stepper, plain = make(momentum=0.9), make()
    states = oracles.observations(0, n=30)
    stepper.observe(states), plain.observe(states)
    last, damped = torch.zeros(stepper.fisher.size).double(), stepper.fisher.damped(0.1)
    for seed in range(30):
        g = gradient(seed % 3 if seed < 20 else seed, stepper.fisher.size)
        d = stepper.displacement(g, step_size=10.0, target_kl=0.01)
        step = plain.displacement(g, step_size=10.0, target_kl=0.01)
        torch.testing.assert_close(d, 0.9 * last + 0.1 * step)
        assert float(d @ (damped @ d)) / 2 <= 0.01 * (1 + 1e-12)
        stepper.keep(d)
        last = d


def test_a_step_that_was_not_kept_leaves_no_trace() -> None:
    """Displacements are proposals: without `keep`, the next is the same."""
    stepper = make(momentum=0.5)
    stepper.observe(oracles.observations(0))
    g = gradient(1, stepper.fisher.size)
    first = stepper.displacement(g, step_size=1.0, target_kl=0.01)
    assert torch.equal(stepper.displacement(g, step_size=1.0, target_kl=0.01), first)


def test_refresh_intervals() -> None:
    """Factors are renewed at updates 0, 2, 4, ..., their inverses at 0, 3, 6, ...."""
    stepper = make(factor_interval=2, inverse_interval=3)
    factors, inverses = [], []
    for seed in range(7):
        stepper.observe(oracles.observations(seed))
        factors.append(stepper.fisher.averages)
        inverses.append(stepper._inverse)
    assert [a is not b for a, b in zip(factors[1:], factors, strict=False)] == [False, True] * 3
    assert [a is not b for a, b in zip(inverses[1:], inverses, strict=False)] == [False, False, True] * 2


@pytest.mark.parametrize("updates", [0, 1, 4, 5])
def test_saved_and_loaded_it_goes_on_bitwise(updates: int) -> None:
    """The next displacements are the same bits, also where the inverse is older than the factors."""
    options = {"momentum": 0.9, "decay": 0.5, "factor_interval": 1, "inverse_interval": 3}
    stepper = make(**options)
    for seed in range(updates):
        advance(stepper, seed)
    state = copy.deepcopy(stepper.state_dict())
    twin = make(**options)
    twin.load_state_dict(state)
    for seed in range(10, 14):
        assert torch.equal(advance(stepper, seed), advance(twin, seed))


def advance(stepper: KroneckerStepper, seed: int) -> Tensor:
    """Make one update and return its displacement."""
    stepper.observe(oracles.observations(seed, n=9))
    d = stepper.displacement(gradient(seed, stepper.fisher.size), step_size=0.5, target_kl=0.01)
    stepper.keep(d)
    return d


def test_bad_statistics_change_nothing() -> None:
    """A NaN observation raises by name; averages, inverse and count stay."""
    stepper = make()
    advance(stepper, 0)
    averages, inverse, updates = stepper.fisher.averages, stepper._inverse, stepper.updates
    with pytest.raises(FloatingPointError, match="not finite"):
        stepper.observe(torch.full((4, 3), math.nan).double())
    assert stepper.fisher.averages is averages
    assert stepper._inverse is inverse
    assert stepper.updates == updates


def test_a_singular_matrix_is_damped_tenfold_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where λ does not do, 10 λ is tried before the matrix is given up."""
    stepper, tried = make(), []
    invert = stepper.fisher.unchecked_inverse

    def strict(damping: float) -> tuple[BlockDiagonal, dict[str, Tensor]]:
        tried.append(damping)
        return invert(damping)[0], {"too little": torch.tensor(damping >= needed)}

    monkeypatch.setattr(stepper.fisher, "unchecked_inverse", strict)
    needed = 0.5
    assert advance(stepper, 0).any()
    assert tried == [0.1, 1.0]
    needed = 2.0
    with pytest.raises(SingularMatrixError, match="too little"):
        stepper.observe(oracles.observations(1))


def test_what_cannot_be_asked_for() -> None:
    """A step before any statistics, and options out of range, are named."""
    with pytest.raises(ValueError, match="observe"):
        make().displacement(torch.ones(10).double(), step_size=1.0, target_kl=0.01)
    for bad in ({"damping": -1.0}, {"momentum": 1.0}, {"decay": 1.5}, {"inverse_interval": 0}):
        with pytest.raises(ValueError, match="must be"):
            make(**bad)


def test_a_fresh_state_forgets_the_inverse() -> None:
    """After it, as at first, there is no displacement without statistics."""
    stepper = make()
    fresh = copy.deepcopy(stepper.state_dict())
    stepper.observe(oracles.observations(0, n=30))
    stepper.load_state_dict(fresh)
    assert not stepper.state_dict()["inverted"]
    with pytest.raises(ValueError, match="observe"):
        stepper.displacement(gradient(1, stepper.fisher.size), step_size=1.0, target_kl=1.0)


@pytest.mark.parametrize("size", [1e-36, 1e-25, 1.0, 1e20, 3e37])
def test_the_scale_of_a_gradient_does_not_overflow_in_float32(size: float) -> None:
    """With η out of the way the step is the same for every length of g, within the range of float32."""
    torch.manual_seed(0)
    actor = Linear().float()
    stepper = KroneckerStepper(KroneckerFisher(actor), damping=0.1, momentum=0.0)
    stepper.observe(oracles.observations(0, n=30, dtype=torch.float32))
    g = gradient(1, stepper.fisher.size).float().clamp(-1, 1)
    plain = stepper.displacement(g, step_size=1e6, target_kl=0.01)
    d = stepper.displacement(size * g, step_size=1e38, target_kl=0.01)
    torch.testing.assert_close(d, plain, rtol=1e-5, atol=1e-6)
    F = stepper.fisher.damped(0.1).to_dense()
    assert float(d @ F @ d) / 2 == pytest.approx(0.01, rel=1e-4)


def test_a_power_of_two_changes_no_digit() -> None:
    """Dividing by it and multiplying again gives the same bits; of zeros it is 1."""
    for scale in (1e-30, 0.3, 1.0, 7e12, 1e38):
        g = scale * oracles.randn(0, 20, dtype=torch.float32).clamp(-1, 1)
        power = power_of_two(g)
        assert torch.equal(g / power * power, g)
        assert 0.5 <= float((g / power).abs().amax()) <= 2
    assert float(power_of_two(torch.zeros(3))) == 1
