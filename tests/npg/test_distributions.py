"""Distributions against torch.distributions, enumeration and quadrature."""

import dataclasses
import math

import oracles
import pytest
import torch
from torch import Tensor
from torch.func import hessian

from npg import Bernoulli, Beta, Categorical, DiagGaussian, Distribution, FullGaussian, MultiCategorical

N = 6


def gaussian(seed: int = 0) -> DiagGaussian:
    """A Gaussian of three dimensions with a scale for every state."""
    return DiagGaussian(oracles.randn(seed, N, 3), 0.5 * oracles.randn(seed + 50, N, 3))


def gaussian_shared(seed: int = 0) -> DiagGaussian:
    """A Gaussian of two dimensions with one scale for all states."""
    return DiagGaussian(oracles.randn(seed, N, 2), 0.5 * oracles.randn(seed + 50, 2))


def categorical(seed: int = 0) -> Categorical:
    """One choice of four."""
    return Categorical(2 * oracles.randn(seed, N, 4))


def multi_categorical(seed: int = 0) -> MultiCategorical:
    """Choices of two, three and four."""
    return MultiCategorical([2 * oracles.randn(seed + k, N, k) for k in (2, 3, 4)])


def bernoulli(seed: int = 0) -> Bernoulli:
    """Three bits."""
    return Bernoulli(2 * oracles.randn(seed, N, 3))


def full_gaussian(seed: int = 0) -> FullGaussian:
    """A Gaussian of three correlated dimensions with a covariance for every state."""
    return FullGaussian(oracles.randn(seed, N, 3), 0.5 * oracles.randn(seed + 50, N, 6))


def beta(seed: int = 0) -> Beta:
    """One bounded action."""
    alpha, rest = (1.2 + oracles.randn(seed + k, N, 1).exp() for k in (0, 50))
    return Beta(alpha, rest, -1.0, 2.0)


every_family = pytest.mark.parametrize(
    "make", [gaussian, gaussian_shared, full_gaussian, beta, categorical, multi_categorical, bernoulli]
)


def equal(a: Tensor, b: Tensor, atol: float = 1e-10) -> None:
    """Assert equal shapes and values."""
    torch.testing.assert_close(a, b, rtol=1e-10, atol=atol)


def metric(distribution: Distribution) -> Tensor:
    """Return fisher_product as one dense matrix over the coordinates of all states."""
    shapes = [z.shape for z in distribution.coordinates]
    sizes = [shape.numel() for shape in shapes]

    def product(vector: Tensor) -> Tensor:
        parts = zip(vector.split(sizes), shapes, strict=True)
        out = distribution.fisher_product(tuple(part.reshape(shape) for part, shape in parts))
        return torch.cat([z.reshape(-1) for z in out])

    return torch.stack([product(e) for e in torch.eye(sum(sizes), dtype=torch.float64)], 1)


@every_family
def test_values_equal_torch_distributions(make) -> None:
    """log_prob, entropy and KL are those of torch.distributions, summed over action dimensions."""
    old, new = make(0), make(1)
    actions = old.sample(oracles.generator(2))
    for value in (old.log_prob(actions), old.entropy(), old.kl(new)):
        assert value.shape == (N,)
    equal(old.log_prob(actions), oracles.log_prob(old, actions))
    equal(new.log_prob(actions), oracles.log_prob(new, actions))
    equal(old.entropy(), oracles.entropy(old))
    equal(old.kl(new), oracles.kl(old, new))


@every_family
def test_kl_is_positive_and_zero_only_for_equals(make) -> None:
    """KL ≥ 0, and 0 iff the two distributions are equal."""
    old = make(0)
    assert torch.equal(old.kl(make(0)), torch.zeros(N, dtype=torch.float64))
    for seed in range(1, 30):
        assert (old.kl(make(seed)) > 1e-3).all()


@every_family
def test_kl_is_the_expected_log_ratio_under_the_old(make) -> None:
    """KL(old ‖ new) = E_old[log old − log new]; the log ratio of Gaussians is a quadratic."""
    old, new = make(0), make(1)
    actions, weights = oracles.quadrature(old)
    ratios = torch.stack([old.log_prob(a) - new.log_prob(a) for a in actions])
    equal((weights * ratios).sum(0), old.kl(new))


def repeated(distribution: Distribution, copies: int) -> Distribution:
    """Return the distribution of N states for as many copies of them."""

    def repeat(value: object) -> object:
        if isinstance(value, Tensor):
            return value.repeat(copies, 1) if value.dim() == 2 else value
        return tuple(map(repeat, value)) if isinstance(value, tuple) else value

    fields = dataclasses.fields(distribution)
    return type(distribution)(*(repeat(getattr(distribution, field.name)) for field in fields))


@every_family
def test_samples_follow_the_distribution(make) -> None:
    """The sampled mean of log old − log new is KL and that of −log old the entropy, to 4 errors."""
    old, new, draws = make(0), make(1), 4000
    source = oracles.generator(3)
    old_copies, new_copies = repeated(old, draws), repeated(new, draws)
    actions = old_copies.sample(source)
    before, after = (copies.log_prob(actions).view(draws, N) for copies in (old_copies, new_copies))
    for samples, exact in ((before - after, old.kl(new)), (-before, old.entropy())):
        error = samples.std(0) / math.sqrt(draws)
        assert ((samples.mean(0) - exact).abs() <= 4 * error).all()


@every_family
def test_sampling_draws_from_the_given_generator_alone(make) -> None:
    """Equal generators give equal actions, and the global generator does not move."""
    state = torch.get_rng_state()
    first, second = (make(0).sample(oracles.generator(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert torch.equal(torch.get_rng_state(), state)


@every_family
def test_metric_is_the_hessian_of_the_kl(make) -> None:
    """The second derivative of KL(p ‖ q) in q at q = p is fisher_product; the first one is zero."""
    table = oracles.Table(make(0))
    old = table().snapshot()
    policy, theta = oracles.as_function(table, None), oracles.flat_parameters(table)

    def divergence(vector: Tensor) -> Tensor:
        return old.kl(policy(vector)).sum()

    # torch's second derivative of log Γ has a relative error of 1e-9.
    equal(hessian(divergence)(theta), metric(old), atol=1e-9 if make is beta else 1e-10)
    equal(torch.func.grad(divergence)(theta), torch.zeros_like(theta))


@every_family
def test_metric_is_the_covariance_of_the_score(make) -> None:
    """fisher_product = E[score scoreᵀ] = −E[∇² log π] in the coordinates, block by state."""
    table = oracles.Table(make(0))
    equal(metric(table()), N * oracles.enumerated_fisher(table, None))
    atol = 1e-9 if make is beta else 1e-10  # as above
    equal(metric(table()), N * oracles.negative_expected_hessian(table, None), atol=atol)


def root(distribution: Distribution) -> Tensor:
    """Return fisher_root_product as one dense matrix B over the coordinates of all states."""
    shapes = [z.shape for z in distribution.coordinates]
    sizes = [shape.numel() for shape in shapes]

    def product(vector: Tensor) -> Tensor:
        parts = zip(vector.split(sizes), shapes, strict=True)
        out = distribution.fisher_root_product(tuple(part.reshape(shape) for part, shape in parts))
        assert [z.shape for z in out] == shapes
        return torch.cat([z.reshape(-1) for z in out])

    return torch.stack([product(e) for e in torch.eye(sum(sizes), dtype=torch.float64)], 1)


@every_family
def test_the_root_is_a_root_of_the_metric(make) -> None:
    """B Bᵀ is fisher_product, of all states at once: no state touches another."""
    distribution = make(0)
    B = root(distribution)
    equal(B @ B.T, metric(distribution))


@every_family
def test_the_root_makes_scores_of_white_noise(make) -> None:
    """Of random signs it makes mean zero and the score's covariance, within four standard errors."""
    table, draws = oracles.Table(make(0)), 4000
    distribution = table().snapshot()
    source = oracles.generator(0)
    signs = [2 * torch.randint(2, (draws, *z.shape), generator=source) - 1 for z in distribution.coordinates]
    made = torch.func.vmap(lambda *white: torch.cat(distribution.fisher_root_product(white), -1))(
        *(sign.double() for sign in signs)
    )
    size = sum(z.shape[-1] for z in distribution.coordinates)
    assert made.shape == (draws, N, size)
    covariance = oracles.enumerated_fisher(table, None) * N
    places = torch.arange(len(covariance)).split([z.numel() for z in distribution.coordinates])
    state = torch.cat([p.view(N, -1)[0] for p in places])  # of the first state
    outer = made[:, 0, :, None] * made[:, 0, None, :]
    for sample, exact in ((made[:, 0], torch.zeros(size)), (outer, covariance[state][:, state])):
        error = sample.std(0) / math.sqrt(draws)
        assert ((sample.mean(0) - exact).abs() <= 4 * error + 1e-12).all()


@pytest.mark.parametrize("family", [Categorical, lambda z: MultiCategorical([z, z])])
def test_the_root_of_a_forbidden_choice_is_zero(family) -> None:
    """A logit of −∞ has no score, and disturbs no other."""
    free = oracles.randn(0, N, 3)
    shut = family(torch.cat([free, torch.full((N, 1), -torch.inf, dtype=free.dtype)], -1))
    white = tuple(oracles.randn(1, *z.shape) for z in shut.coordinates)
    for made, plain in zip(
        shut.fisher_root_product(white),
        family(free).fisher_root_product(tuple(w[:, :3] for w in white)),
        strict=True,
    ):
        equal(made[:, :3], plain)
        assert not made[:, 3].any()


def test_shared_scale_equals_the_scale_spread_over_states() -> None:
    """A log_std of shape (A,) means the same as its copies of shape (N, A)."""
    shared = gaussian_shared(0)
    mean, log_std = oracles.randn(0, N, 2), 0.5 * oracles.randn(50, 2)
    spread = DiagGaussian(mean, log_std.repeat(N, 1))
    assert [z.shape for z in shared.coordinates] == [(N, 2), (N, 2)]
    equal(shared.entropy(), spread.entropy())
    equal(shared.kl(gaussian_shared(1)), spread.kl(gaussian_shared(1)))
    with pytest.raises(ValueError, match=r"\(6, 2\), got \(3,\)"):
        DiagGaussian(mean, torch.zeros(3, dtype=torch.float64))


def test_the_joint_kl_is_the_sum_over_dimensions() -> None:
    """Moving A means by c standard deviations each costs A c²/2, not c²/2."""
    zero = torch.zeros(1, 7, dtype=torch.float64)
    moved = DiagGaussian(zero + 0.3, zero)
    equal(DiagGaussian(zero, zero).kl(moved), torch.tensor([7 * 0.09 / 2], dtype=torch.float64))


def test_kl_is_directed_from_old_to_new() -> None:
    """KL(N(0, 1) ‖ N(0, e²)) = 1 − ½ (1 − e⁻²), the reverse is ½ (e² − 1) − 1."""
    zero = torch.zeros(1, 1, dtype=torch.float64)
    narrow, wide = DiagGaussian(zero, zero), DiagGaussian(zero, zero + 1)
    assert float(narrow.kl(wide)) == pytest.approx(1 - (1 - math.exp(-2)) / 2, rel=1e-12)
    assert float(wide.kl(narrow)) == pytest.approx((math.exp(2) - 1) / 2 - 1, rel=1e-12)


@pytest.mark.parametrize("change", [1e-6, 1e-4, 1e-2])
def test_tiny_shifts_of_the_mean_keep_their_relative_accuracy(change: float) -> None:
    """In float32 the KL of a shift c of the mean is c²/2, even where c² is far below the rounding of 1."""
    zero = torch.zeros(1, 1)
    assert float(DiagGaussian(zero, zero).kl(DiagGaussian(zero + change, zero))) == pytest.approx(
        change**2 / 2, rel=1e-3
    )


def test_small_changes_of_the_scale_keep_their_relative_accuracy() -> None:
    """In float32 the KL of a change of log σ by 1e-3 is 1e-6 to a part in a thousand."""
    zero = torch.zeros(1, 1)
    exact = oracles.kl(
        DiagGaussian(zero.double(), zero.double()), DiagGaussian(zero.double(), zero.double() + 1e-3)
    )
    new = DiagGaussian(zero, zero + 1e-3)
    assert float(DiagGaussian(zero, zero).kl(new)) == pytest.approx(float(exact), rel=1e-3)


@pytest.mark.parametrize("family", [Categorical, lambda z: MultiCategorical([z, z])])
def test_forbidden_choices_leave_everything_finite(family) -> None:
    """Logits of −∞ give the KL, entropy, gradients and metric of the remaining choices."""
    free = [oracles.randn(seed, N, 3) for seed in (0, 1)]
    shut = [torch.cat([z, torch.full((N, 1), -torch.inf, dtype=z.dtype)], -1) for z in free]
    old, new = (family(z.requires_grad_()) for z in shut)
    equal(old.kl(new), family(free[0]).kl(family(free[1])))
    equal(old.entropy(), family(free[0]).entropy())
    for gradient in torch.autograd.grad(old.kl(new).sum() + old.entropy().sum(), shut):
        assert torch.isfinite(gradient).all()
        assert (gradient[:, -1] == 0).all()
    for product in old.fisher_product(tuple(torch.ones_like(z) for z in old.coordinates)):
        equal(product, torch.zeros_like(product))


def test_far_logits_stay_finite() -> None:
    """A bit that is certain in float32 has entropy and KL zero, not NaN."""
    certain = Bernoulli(torch.tensor([[500.0, -500.0]]))
    assert float(certain.entropy()) == 0
    assert float(certain.kl(certain)) == 0
    assert float(certain.log_prob(torch.tensor([[0.0, 0.0]]))) == -500


@every_family
def test_wrong_action_shapes_are_rejected(make) -> None:
    """Actions that would only fit by broadcasting raise ValueError."""
    distribution = make(0)
    actions = distribution.sample(oracles.generator(0))
    for wrong in (actions[:1], actions.unsqueeze(-1), actions.unsqueeze(0), actions.reshape(-1)[:-1]):
        with pytest.raises(ValueError, match="actions must have shape"):
            distribution.log_prob(wrong)


@every_family
def test_families_do_not_mix(make) -> None:
    """KL between two families raises TypeError with both names."""
    other = bernoulli(0) if make is not bernoulli else categorical(0)
    with pytest.raises(TypeError, match=type(make(0)).__name__):
        make(0).kl(other)


@every_family
def test_distributions_are_values(make) -> None:
    """Every field is frozen, `detach` cuts the graph, and it is a Distribution."""
    distribution = make(0)
    assert isinstance(distribution, Distribution)
    for field in dataclasses.fields(distribution):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(distribution, field.name, None)
    live = oracles.Table(distribution)()
    assert all(z.requires_grad for z in live.coordinates)
    assert not any(z.requires_grad for z in live.snapshot().coordinates)
    equal(live.snapshot().kl(live), torch.zeros(N, dtype=torch.float64))


def test_no_choice_is_rejected() -> None:
    """A MultiCategorical of nothing raises; one of a generator reads it once and for all."""
    with pytest.raises(ValueError, match="at least one"):
        MultiCategorical([])
    lazily = MultiCategorical(z for z in (torch.zeros(2, 3), torch.zeros(2, 4)))
    assert lazily.entropy().shape == lazily.entropy().shape == (2,)


def test_kl_between_batches_of_different_length_is_rejected() -> None:
    """One state against N would broadcast."""
    with pytest.raises(ValueError, match="of the same shape"):
        DiagGaussian(torch.zeros(3, 2), torch.zeros(2)).kl(DiagGaussian(torch.zeros(1, 2), torch.zeros(2)))


@pytest.mark.parametrize(("old", "new"), [(17, 67), (-17, -67), (17, 18), (80, 17), (-80, -17), (3, 3)])
def test_certain_bits_keep_their_digits_in_float32(old: float, new: float) -> None:
    """1 − p is not rounded to 0: KL and entropy equal those of float64, and of the mirrored pair."""
    bits, other = Bernoulli(torch.tensor([[float(old)]])), Bernoulli(torch.tensor([[float(new)]]))
    wide, wide_other = Bernoulli(bits.logits.double()), Bernoulli(other.logits.double())
    torch.testing.assert_close(bits.entropy().double(), wide.entropy(), rtol=1e-5, atol=0)
    torch.testing.assert_close(bits.kl(other).double(), wide.kl(wide_other), rtol=1e-5, atol=0)
    mirrored = Bernoulli(-bits.logits)
    assert torch.equal(bits.entropy(), mirrored.entropy())
    assert torch.equal(bits.kl(other), mirrored.kl(Bernoulli(-other.logits)))


def test_the_metric_of_a_beta_distribution() -> None:
    """Of B(2, 3), with the trigamma function; KL(B(2, 3) ‖ B(3, 2)) = E[log((1−x)/x)] = ψ(3) − ψ(2) = 1/2."""
    two, three = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[3.0]], dtype=torch.float64)
    expected = torch.tensor([[0.42361111, -0.22132296], [-0.22132296, 0.17361111]], dtype=torch.float64)
    torch.testing.assert_close(metric(Beta(two, three)), expected, rtol=1e-7, atol=0)
    assert float(Beta(two, three).kl(Beta(three, two))) == pytest.approx(0.5, rel=1e-14)
    assert float(Beta(two, three, -1, 3).mean) == pytest.approx(-1 + 4 * 0.4, rel=1e-14)


def test_several_bounded_dimensions_are_independent() -> None:
    """Log-probability, entropy, KL and metric are those of each dimension, each with its bounds."""
    low, high = torch.tensor([[-1.0, 0.0], [2.0, 5.0]], dtype=torch.float64)
    alpha, rest = (1.2 + oracles.randn(k, N, 2).square() for k in (0, 50))
    joint, other = Beta(alpha, rest, low, high), Beta(alpha + 0.1, rest, low, high)
    actions = joint.sample(oracles.generator(0))
    single = [Beta(alpha[:, [k]], rest[:, [k]], float(low[k]), float(high[k])) for k in (0, 1)]
    changed = [Beta(alpha[:, [k]] + 0.1, rest[:, [k]], float(low[k]), float(high[k])) for k in (0, 1)]
    equal(joint.log_prob(actions), sum(d.log_prob(actions[:, [k]]) for k, d in enumerate(single)))
    equal(joint.entropy(), sum(d.entropy() for d in single))
    equal(joint.kl(other), sum(d.kl(new) for d, new in zip(single, changed, strict=True)))
    equal(joint.log_prob(actions), oracles.log_prob(joint, actions))


@pytest.mark.parametrize("concentration", [2.0, 1e2, 1e4, 1e6])
def test_concentrated_beta_distributions_keep_their_digits_in_float32(concentration: float) -> None:
    """Log-probability, entropy, KL, metric and root equal those of float64."""
    alpha = concentration * (1 + 0.1 * oracles.randn(0, 50, 1).tanh().float())
    rest = concentration * (1 + 0.1 * oracles.randn(1, 50, 1).tanh().float())
    new_alpha = alpha * (1 + 1e-3 / concentration**0.5)
    actions = Beta(alpha, rest).sample(oracles.generator(0))
    white = tuple(oracles.randn(k, 50, 1).float() for k in (2, 3))

    def numbers(dtype: torch.dtype) -> list[Tensor]:
        policy = Beta(alpha.to(dtype), rest.to(dtype))
        noise = tuple(w.to(dtype) for w in white)
        values = [
            policy.log_prob(actions.to(dtype)),
            policy.entropy(),
            policy.kl(Beta(new_alpha.to(dtype), rest.to(dtype))),
        ]
        return [*values, *policy.fisher_product(noise), *policy.fisher_root_product(noise)]

    for found, expected in zip(numbers(torch.float32), numbers(torch.float64), strict=True):
        torch.testing.assert_close(
            found.double(), expected, rtol=2e-5, atol=1e-6 * float(expected.abs().max())
        )


def test_actions_at_the_bounds_have_a_finite_log_probability() -> None:
    """An action that was clipped or rounded to a bound counts as the nearest one inside."""
    policy = Beta(torch.tensor([[2.0, 3.0]]), torch.tensor([[2.0, 3.0]]), -1.0, 1.0)
    for action in (-1.0, 1.0, -1.5):
        assert torch.isfinite(policy.log_prob(torch.full((1, 2), action))).all()
    narrow = Beta(torch.full((1000, 1), 1.001), torch.full((1000, 1), 1.001), -1.0, 1.0)
    drawn = narrow.sample(oracles.generator(0))
    assert bool((drawn > -1).all()) and bool((drawn < 1).all())


def test_a_diagonal_covariance_is_that_of_independent_dimensions() -> None:
    """With zeros below the diagonal, every value is that of `DiagGaussian`."""
    mean, log_std = oracles.randn(0, N, 3), oracles.randn(1, N, 3)
    zeros = torch.zeros(N, 3, dtype=torch.float64)
    full, diagonal = FullGaussian(mean, torch.cat([log_std, zeros], -1)), DiagGaussian(mean, log_std)
    actions = diagonal.sample(oracles.generator(0))
    equal(full.log_prob(actions), diagonal.log_prob(actions))
    equal(full.entropy(), diagonal.entropy())
    with pytest.raises(ValueError, match=r"broadcasts to \(6, 6\).*got \(6, 3\)"):
        FullGaussian(mean, log_std)
    with pytest.raises(ValueError, match="same shape"):
        Beta(mean.exp(), mean[:1].exp())


FROM_SIX = {
    "full_gaussian": lambda z: FullGaussian(z[..., :2], z[..., 2:5]),
    "categorical": Categorical,
    "multi_categorical": lambda z: MultiCategorical(z.split(3, -1)),
    "bernoulli": Bernoulli,
    "gaussian": lambda z: DiagGaussian(*z.split(3, -1)),
}


@pytest.mark.parametrize("family", FROM_SIX)
@pytest.mark.parametrize("change", [1e-5, 1e-4, 1e-3, 1.0])
@pytest.mark.parametrize("spread", [1.0, 8.0])
def test_small_kls_keep_their_digits_in_float32(family: str, change: float, spread: float) -> None:
    """A KL from 1e-11 upwards has at least two digits in every family, and none is negative."""
    scale = 1.0 if "gaussian" in family else spread  # of logits
    old = scale * oracles.randn(0, 500, 6).float()
    new = old + change * oracles.randn(1, 500, 6).float()
    found = FROM_SIX[family](old).kl(FROM_SIX[family](new))
    expected = oracles.kl(FROM_SIX[family](old.double()), FROM_SIX[family](new.double()))
    assert bool((found >= 0).all())
    assert float(found.double().mean()) == pytest.approx(float(expected.mean()), rel=1e-2)


@pytest.mark.parametrize("margin", [5.0, 17.0, 30.0, 80.0])
def test_almost_certain_choices_keep_their_digits_in_float32(margin: float) -> None:
    """Log-probability, entropy, KL and gradient where one probability rounds to 1."""
    old, new = torch.tensor([[margin, 0.0, -1.0]]), torch.tensor([[margin + 1, 0.5, -1.0]])

    def numbers(dtype: torch.dtype) -> list[Tensor]:
        logits = old.to(dtype).requires_grad_()
        policy, action = Categorical(logits), torch.tensor([0])
        (gradient,) = torch.autograd.grad(policy.log_prob(action), logits)
        return [policy.log_prob(action), policy.entropy(), policy.kl(Categorical(new.to(dtype))), gradient]

    for found, expected in zip(numbers(torch.float32), numbers(torch.float64), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0)
