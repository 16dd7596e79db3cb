"""K-FAC against its definition, and where theory says that it is exact."""

import warnings
from collections.abc import Callable

import oracles
import pytest
import torch
from oracles import FAMILIES, RandomActor, Stack
from torch import Tensor, nn

from npg import (
    BlockDiagonalFisher,
    Categorical,
    DiagGaussian,
    Distribution,
    EigenvalueCorrectedFisher,
    ExactFisher,
    KroneckerFisher,
    SingularMatrixError,
)

every_family = pytest.mark.parametrize("family", FAMILIES)
GAUSSIANS = ("gaussian", "gaussian_frozen")  # their metric is the same in every state
CONVOLUTIONS = [
    {"padding": 1},
    {"stride": 2},
    {"dilation": (1, 2), "padding": (1, 0), "bias": False},
    {"stride": (2, 1), "padding": (0, 2)},
]


def equal(a: Tensor, b: Tensor, atol: float = 1e-10) -> None:
    """Assert equal shapes and values."""
    torch.testing.assert_close(a, b, rtol=1e-10, atol=atol)


def convolutional(family: str, options: dict, seed: int = 0) -> Stack:
    """Two convolutions and a linear layer on images (N, 2, 6, 7)."""
    conv = nn.Conv2d(2, 3, (2, 3), **options)
    size = nn.Conv2d(3, 2, 2)(conv(torch.zeros(1, 2, 6, 7))).numel()
    head = nn.Linear(size, oracles.outputs_of(family))
    return Stack(family, conv, nn.Tanh(), nn.Conv2d(3, 2, 2), nn.Tanh(), nn.Flatten(), head, seed=seed)


def frozen(actor: nn.Module, *names: str) -> nn.Module:
    """Freeze some parameters."""
    for name in names:
        actor.get_parameter(name).requires_grad_(False)
    return actor


def kfac(actor: nn.Module, observations: object, **options: object) -> KroneckerFisher:
    """K-FAC that must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return KroneckerFisher(actor, observations, **options)


# --- exact cases -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", GAUSSIANS)
@pytest.mark.parametrize("trained", ["both", "no bias", "bias frozen", "weight frozen"])
def test_one_linear_layer_with_gaussian_output_is_exact(family: str, trained: str) -> None:
    """The gradient is independent of the input, so that A ⊗ G is all of F, log scale included."""
    actor = Stack(family, nn.Linear(3, 2, bias=trained != "no bias"))
    actor = frozen(
        actor, *{"bias frozen": ["body.0.bias"], "weight frozen": ["body.0.weight"]}.get(trained, [])
    )
    observations = oracles.observations(0, n=9)
    equal(kfac(actor, observations).to_dense(), oracles.enumerated_fisher(actor, observations))


@pytest.mark.parametrize("family", GAUSSIANS)
def test_a_deep_linear_network_with_gaussian_output_is_exact(family: str) -> None:
    """In every block, for the same reason; between blocks F is not zero."""
    actor = Stack(family, nn.Linear(3, 4), nn.Linear(4, 5, bias=False), nn.Linear(5, 2))
    observations = oracles.observations(0, n=9)
    exact = oracles.enumerated_fisher(actor, observations)
    dense = kfac(actor, observations).to_dense()
    equal(dense, oracles.within_modules(exact, actor))
    assert (dense - exact).abs().max() > 0.1


@every_family
@pytest.mark.parametrize("seed", [0, 1])
def test_one_state_is_exact(family: str, seed: int) -> None:
    """With N = 1 there is nothing for inputs and gradients to correlate over, in any network."""
    actor, observation = RandomActor(family, seed), oracles.observations(seed, n=1)
    for n in (1, 6):
        equal(
            kfac(actor, observation.expand(n, -1)).to_dense(),
            oracles.within_modules(oracles.enumerated_fisher(actor, observation), actor),
        )


@pytest.mark.parametrize("family", GAUSSIANS)
def test_a_convolution_with_one_position_is_exact(family: str) -> None:
    """A kernel as large as the image is a linear layer."""
    actor = Stack(family, nn.Conv2d(2, 2, (3, 2)), nn.Flatten())
    images = oracles.randn(0, 6, 2, 3, 2)
    equal(kfac(actor, images).to_dense(), oracles.enumerated_fisher(actor, images))


def test_where_it_is_not_exact() -> None:
    """A softmax has another metric in every state, and a convolution several positions in one state."""
    softmax, conv = (
        Stack("categorical", nn.Linear(3, 3)),
        [nn.Conv2d(2, 2, 2), nn.Flatten(), nn.Linear(18, 2)],
    )
    for actor, observations in (
        (softmax, oracles.observations(0, n=20)),
        (Stack("gaussian", *conv), oracles.randn(0, 1, 2, 4, 4)),
    ):
        exact = oracles.within_modules(oracles.enumerated_fisher(actor, observations), actor)
        gap = torch.linalg.norm(kfac(actor, observations).to_dense() - exact) / torch.linalg.norm(exact)
        assert gap > 0.1


@pytest.mark.parametrize("family", ["gaussian", "gaussian_of_state", "categorical"])
def test_what_lies_outside_any_layer_has_its_exact_block(family: str) -> None:
    """The log scale, and a temperature of the logits: a few parameters that are the actor's own."""

    class Tempered(RandomActor):
        def __init__(self, family: str):
            super().__init__(family)
            self.temperature = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))

        def policy(self, out: Tensor) -> Distribution:
            return super().policy(out * self.temperature.exp().sum() + self.temperature[0])

    actor, observations = Tempered(family), oracles.observations(0)
    exact = BlockDiagonalFisher(actor, observations).blocks[""]
    equal(kfac(actor, observations).averages[""][0], exact)
    assert (exact != 0).sum() > len(exact)


# --- the definition --------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("seed", [0, 1])
def test_factors_are_those_of_the_definition(family: str, seed: int) -> None:
    """A and G of every layer by the enumerated per-state definition, and their product in place."""
    actor = Stack(
        family,
        nn.Linear(3, 4),
        nn.Tanh(),
        nn.Linear(4, 4),
        nn.ReLU(),
        nn.Linear(4, oracles.outputs_of(family)),
    )
    oracles.draw_weights_(actor, seed)
    observations = oracles.observations(seed, n=6)
    fisher = kfac(actor, observations)
    for name, factors in oracles.kronecker_factors(actor, observations).items():
        for mine, theirs in zip(fisher.averages[name], factors, strict=True):
            equal(mine, theirs)
    equal(fisher.to_dense(), oracles.layerwise(actor, observations))


@pytest.mark.parametrize("options", CONVOLUTIONS)
@pytest.mark.parametrize("family", ["gaussian_of_state", "categorical"])
def test_convolutions_are_those_of_the_definition(options: dict, family: str) -> None:
    """KFC: sums over positions in A, means in G, whatever stride, padding and dilation."""
    actor, images = convolutional(family, options), oracles.randn(0, 3, 2, 6, 7)
    equal(kfac(actor, images).to_dense(), oracles.layerwise(actor, images))


def test_a_layer_on_sequences_is_that_of_the_definition() -> None:
    """Inputs (N, T, D) have T positions."""
    actor = Stack("categorical", nn.Linear(3, 4), nn.Tanh(), oracles.MeanOverTime(), nn.Linear(4, 3))
    sequences = oracles.randn(0, 4, 5, 3)
    equal(kfac(actor, sequences).to_dense(), oracles.layerwise(actor, sequences))


@pytest.mark.parametrize(
    "names", [("hidden.weight",), ("hidden.bias", "head.weight"), ("head.weight", "head.bias")]
)
def test_frozen_parameters_have_no_rows(names: tuple[str, ...]) -> None:
    """A layer of which one parameter is trained has the factors of that one alone."""
    actor, observations = frozen(RandomActor("gaussian_of_state"), *names), oracles.observations(0)
    equal(kfac(actor, observations).to_dense(), oracles.layerwise(actor, observations))


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("family", ["gaussian_of_state", "multi_categorical"])
def test_random_signs_are_unbiased(samples: int, family: str) -> None:
    """The mean of G over 300 operators is the exact one within four standard errors; A is the same."""
    actor, observations = RandomActor(family), oracles.observations(0)
    exact, source = kfac(actor, observations), oracles.generator(0)
    before = torch.get_rng_state()
    drawn = [kfac(actor, observations, samples=samples, generator=source) for _ in range(300)]
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("hidden", "head"):
        G = torch.stack([fisher.averages[name][1] for fisher in drawn])
        error = G.std(0) / len(G) ** 0.5
        assert ((G.mean(0) - exact.averages[name][1]).abs() <= 4 * error + 1e-12).all()
        assert error.max() > 1e-4
        equal(drawn[0].averages[name][0], exact.averages[name][0])


def test_random_signs_come_from_torch_where_no_generator_is_given() -> None:
    """A seed repeats them."""
    actor, observations = RandomActor("categorical"), oracles.observations(0)
    factors = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        factors.append(kfac(actor, observations, samples=1).averages["head"][1])
    assert torch.equal(factors[0], factors[1])
    assert not torch.equal(factors[0], factors[2])


# --- damping and inverse ---------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("damping", [1e-3, 0.1, 10])
def test_the_inverse_is_that_of_the_damped_matrix(family: str, damping: float) -> None:
    """`inverse(λ) @ (damped(λ) @ v) = v`, and `solve` is that inverse."""
    fisher = kfac(RandomActor(family), oracles.observations(0))

    v = oracles.randn(0, fisher.size)
    equal(fisher.inverse(damping) @ (fisher.damped(damping) @ v), v, atol=1e-9)
    equal(fisher.solve(fisher.damped(damping) @ v, damping), v, atol=1e-9)


def test_damping_is_factored_in_layers_and_plain_elsewhere() -> None:
    """(A + π√λ I) ⊗ (G + √λ/π I) for a layer, B + λI for the log scale."""
    actor, observations, damping = RandomActor("gaussian"), oracles.observations(0), 0.3
    fisher = kfac(actor, observations)
    dense = fisher.damped(damping).to_dense()
    equal(dense[:2, :2], (2 + damping) * torch.eye(2).double())
    start = 2
    for A, G in oracles.kronecker_factors(actor, observations).values():
        pi = ((A.trace() / len(A)) / (G.trace() / len(G))).sqrt()
        shifted = (
            A + pi * damping**0.5 * torch.eye(len(A)).double(),
            G + damping**0.5 / pi * torch.eye(len(G)).double(),
        )
        stop = start + len(A) * len(G)
        equal(dense[start:stop, start:stop], oracles.kronecker(*shifted, True))
        start = stop
    equal(fisher.damped(0).to_dense(), fisher.to_dense())


def test_without_damping_a_singular_factor_is_rejected() -> None:
    """The logits of a softmax have a direction without effect: G is singular."""
    fisher = kfac(RandomActor("categorical"), oracles.observations(0, n=20))
    with pytest.raises(SingularMatrixError, match=r"Kronecker factor of .* at damping 0; raise the damping"):
        fisher.inverse()
    full = kfac(RandomActor("gaussian"), oracles.observations(0, n=20))
    v = oracles.randn(0, full.size)
    equal(full.inverse() @ (full @ v), v, atol=1e-8)


def test_a_dead_layer_has_a_zero_block_and_an_inverse() -> None:
    """One whose output goes nowhere, one that is cut off, one that never ran."""

    class Dead(RandomActor):
        def __init__(self) -> None:
            super().__init__("gaussian")
            self.ignored, self.cut, self.idle = (nn.Linear(3, 2).double() for _ in range(3))

        def forward(self, observations: Tensor) -> Distribution:
            self.ignored(observations)
            with torch.no_grad():
                observations = observations + self.cut(observations).sum() * 0
            return super().forward(observations)

    actor, observations = Dead(), oracles.observations(0)
    fisher, alive = kfac(actor, observations), kfac(RandomActor("gaussian"), observations)
    equal(fisher.to_dense()[: alive.size, : alive.size], alive.to_dense())
    assert not fisher.to_dense()[alive.size :].any()
    v = oracles.randn(0, fisher.size)
    equal(fisher.inverse(0.1) @ (fisher.damped(0.1) @ v), v)
    with pytest.raises(SingularMatrixError):
        fisher.inverse()


# --- running averages ------------------------------------------------------------------------------


def test_running_averages() -> None:
    """After updates A_t the average is decay · old + (1 − decay) · new, from the first as it is."""
    actor = RandomActor("gaussian")
    batches = [oracles.observations(seed) for seed in range(3)]
    one, two, three = (kfac(actor, batch).averages for batch in batches)
    fisher = kfac(actor, None)
    fisher.update(batches[0], decay=0.9)
    for name, values in fisher.averages.items():
        assert all(torch.equal(a, b) for a, b in zip(values, one[name], strict=True))
    fisher.update(batches[1], decay=0.9)
    fisher.update(batches[2], decay=0.25)
    for name, values in fisher.averages.items():
        for value, a, b, c in zip(values, one[name], two[name], three[name], strict=True):
            equal(value, 0.25 * (0.9 * a + 0.1 * b) + 0.75 * c)
    fisher.update(batches[1])
    for name, values in fisher.averages.items():
        assert all(torch.equal(a, b) for a, b in zip(values, two[name], strict=True))


def test_averages_see_the_policy_of_their_time() -> None:
    """The second update is with the parameters as they have become."""
    actor, observations = RandomActor("gaussian"), oracles.observations(0)
    fisher = kfac(actor, observations)
    before = fisher.to_dense()
    with torch.no_grad():
        actor.head.weight.mul_(2)
    equal(fisher.to_dense(), before, atol=0)
    fisher.update(observations)
    equal(fisher.to_dense(), oracles.layerwise(actor, observations))


@pytest.mark.parametrize("decay", [-0.1, 1.0, torch.nan])
def test_a_decay_out_of_range_is_rejected(decay: float) -> None:
    """It lies in [0, 1)."""
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\)"):
        kfac(RandomActor("gaussian"), None).update(oracles.observations(0), decay=decay)


@pytest.mark.parametrize("cause", ["nan", "inf", "no variance", "little variance", "nan weight", "reduce"])
def test_a_failed_update_changes_nothing(cause: str) -> None:
    """Non-finite statistics raise FloatingPointError by name, and the averages stay bitwise as they were."""
    actor, observations = RandomActor("gaussian"), oracles.observations(0)
    broken: list[float] = []
    fisher = kfac(actor, observations, reduce=lambda t, _: t * broken[0] if broken else t)
    before = {key: value.clone() for key, value in fisher.state_dict().items()}
    if cause in ("nan", "inf"):
        observations[2, 1] = float(cause)
    elif cause == "reduce":
        broken.append(torch.nan)
    elif cause == "nan weight":
        nn.init.constant_(actor.hidden.weight, torch.nan)
    else:
        nn.init.constant_(actor.log_std, -torch.inf if cause == "no variance" else -800)
    with pytest.raises(FloatingPointError, match=r"statistics of .*hidden.* are not finite; the running"):
        fisher.update(observations, decay=0.5)
    after = fisher.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert not any(module._forward_hooks for module in actor.modules())


def test_a_huge_variance_is_no_failure() -> None:
    """With σ = e⁸⁰⁰ actions tell nothing about the mean: G is zero, and a damped inverse there is."""
    actor = RandomActor("gaussian")
    nn.init.constant_(actor.log_std, 800)
    fisher = kfac(actor, oracles.observations(0))
    assert not fisher.to_dense()[2:].any()
    assert fisher.inverse(0.1).to_dense().isfinite().all()


def test_a_failed_first_update_leaves_it_empty() -> None:
    """Every use before the first statistics raises an error."""
    fisher = kfac(RandomActor("gaussian"), None)
    with pytest.raises(FloatingPointError):
        fisher.update(torch.full((2, 3), torch.nan, dtype=torch.float64))
    v = torch.zeros(fisher.size, dtype=torch.float64)
    for use in (lambda: fisher @ v, lambda: fisher.inverse(0.1), lambda: fisher.damped(0.1), fisher.blocks):
        with pytest.raises(ValueError, match=r"no Fisher statistics yet; call update\(observations\) first"):
            use()
    assert fisher.state_dict() == {}


def test_statistics_can_be_saved_and_restored() -> None:
    """Averages loaded into another operator of the policy continue like the first."""
    actor, observations = RandomActor("gaussian"), oracles.observations(0)
    fisher, other = kfac(actor, observations), kfac(actor, None)
    other.load_state_dict(fisher.state_dict())
    assert torch.equal(other.to_dense(), fisher.to_dense())
    saved = {key: value.clone() for key, value in fisher.state_dict().items()}
    for each in (fisher, other):
        each.update(oracles.observations(1), decay=0.5)
    assert torch.equal(other.to_dense(), fisher.to_dense())
    other.load_state_dict({key: value.float() for key, value in saved.items()})
    assert other.to_dense().dtype is torch.float64
    saved["head/0"].zero_()
    assert other.averages["head"][0].any()
    other.load_state_dict({})
    assert other.averages == {}


@pytest.mark.parametrize("change", ["policy", "missing", "more", "shape"])
def test_statistics_of_another_policy_are_rejected(change: str) -> None:
    """What does not fit is named, and nothing is changed."""
    actor, observations = RandomActor("gaussian"), oracles.observations(0)
    fisher = kfac(actor, observations)
    before, state = fisher.to_dense(), dict(fisher.state_dict())
    if change == "policy":
        state = kfac(RandomActor("categorical"), observations).state_dict()
    elif change == "missing":
        del state["head/1"]
    elif change == "more":
        state["tail/0"] = torch.eye(2)
    else:
        state["head/1"] = torch.eye(3)
    with pytest.raises(ValueError, match=r"another policy: they differ in .*(head/1|tail/0)"):
        fisher.load_state_dict(state)
    assert torch.equal(fisher.to_dense(), before)


# --- modules that are no layer ---------------------------------------------------------------------


class Mixed(nn.Module):
    """A linear layer, and normalisation, grouped and circular convolutions, a `weight_norm`."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(2, 4, 2, groups=2)
        self.circular = nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular")
        self.norm = nn.LayerNorm(24)
        self.normed = nn.utils.weight_norm(nn.Linear(24, 4))
        self.head = nn.Linear(4, 3)
        self.double()
        oracles.draw_weights_(self, 0)

    def forward(self, images: Tensor) -> Categorical:
        """Return the policy at images (N, 2, 5, 4)."""
        hidden = torch.tanh(self.circular(torch.tanh(self.grouped(images)))).flatten(1)
        return Categorical(self.head(torch.tanh(self.normed(self.norm(hidden)))))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning", "ignore:There is a performance drop")
@pytest.mark.parametrize("operator", [KroneckerFisher, EigenvalueCorrectedFisher])
@pytest.mark.parametrize("size", [None, 2])
def test_other_modules_have_their_exact_diagonal_and_one_warning(operator: type, size: int | None) -> None:
    """The warning names all of them, points at this line, and none of them is skipped."""
    actor, images = Mixed(), oracles.randn(0, 3, 2, 5, 4)
    with pytest.warns(UserWarning, match="no Kronecker factors are known") as caught:
        fisher = operator(actor, images, micro_batch_size=size)
    (warning,) = [w for w in caught if "Kronecker" in str(w.message)]
    for name in ("grouped", "circular", "norm", "normed", "(Conv2d)", "(LayerNorm)", "(Linear)"):
        assert name in str(warning.message)
    assert "head" not in str(warning.message)
    assert warning.filename == __file__
    exact = oracles.enumerated_fisher(actor, images)
    dense, owner = fisher.to_dense(), oracles.modules_of(actor)
    others = torch.tensor([i for i, name in enumerate(owner) if name != "head"])
    equal(dense[others], torch.diag(exact.diagonal())[others])
    heads = torch.tensor([i for i, name in enumerate(owner) if name == "head"])
    assert dense[heads][:, heads].any()


def test_random_signs_know_the_diagonal_of_other_modules() -> None:
    """With samples the diagonal of a module without a rule is unbiased: within four errors over 300."""

    class Normalised(RandomActor):
        def __init__(self) -> None:
            super().__init__("gaussian_of_state")
            self.norm = nn.LayerNorm(4).double()

        def policy(self, out: Tensor) -> Distribution:
            return super().policy(self.norm(out))

    actor, observations, source = Normalised(), oracles.observations(0), oracles.generator(0)
    with pytest.warns(UserWarning, match="norm"):
        exact = KroneckerFisher(actor, observations).averages["norm"][0]
        drawn = [
            KroneckerFisher(actor, observations, samples=2, generator=source).averages["norm"][0]
            for _ in range(300)
        ]
    error = torch.stack(drawn).std(0) / 300**0.5
    assert ((torch.stack(drawn).mean(0) - exact).abs() <= 4 * error + 1e-12).all()


def test_a_module_used_by_nobody_is_no_error() -> None:
    """A normalisation that the forward never calls has a zero diagonal."""
    actor, observations = RandomActor("categorical"), oracles.observations(0)
    actor.norm = nn.LayerNorm(3).double()
    with pytest.warns(UserWarning, match=r"norm.*\(LayerNorm\)"):
        fisher = KroneckerFisher(actor, observations)
    assert not fisher.averages["norm"][0].any()


# --- rejections --------------------------------------------------------------------------------------


def test_a_layer_used_twice_is_rejected() -> None:
    """A recurrent use of one layer, and one weight in two layers."""

    class Twice(RandomActor):
        def policy(self, out: Tensor) -> Distribution:
            return super().policy(self.hidden(out)[:, :3])

    actor = Twice("categorical")
    with pytest.raises(ValueError, match=r"'hidden' ran twice.*ExactFisher"):
        KroneckerFisher(actor, oracles.observations(0))
    assert not any(module._forward_hooks for module in actor.modules())
    tied = Stack("gaussian", nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    tied.body[1].weight = tied.body[0].weight
    with pytest.raises(ValueError, match=r"body\.0\.weight: used by two modules"):
        KroneckerFisher(tied, oracles.observations(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rejected(dtype: torch.dtype) -> None:
    """Factors need a factorisation, which half precision has not."""
    with pytest.raises(TypeError, match=f"K-FAC needs parameters of float32 or float64, got {dtype}"):
        KroneckerFisher(RandomActor("gaussian", dtype=dtype))


@pytest.mark.parametrize("samples", [0, -2])
def test_no_sample_is_rejected(samples: int) -> None:
    """At least one random sign a state, or None."""
    with pytest.raises(ValueError, match=f"samples must be at least 1.*got {samples}"):
        KroneckerFisher(RandomActor("gaussian"), samples=samples)


def test_a_policy_that_is_itself_a_layer() -> None:
    """Its own few parameters are one exact block; many of them a diagonal, which is said."""

    class Head(nn.Linear):
        def forward(self, observations: Tensor) -> DiagGaussian:
            return DiagGaussian(super().forward(observations), torch.zeros(2).double())

    observations = oracles.observations(0)
    actor = Head(3, 2).double()
    equal(kfac(actor, observations).to_dense(), ExactFisher(actor, observations).to_dense())
    large = Head(40, 2).double()
    with pytest.warns(UserWarning, match=r"factors are known for weight and bias \(Head\)"):
        fisher = KroneckerFisher(large, oracles.randn(0, 3, 40))
    equal(fisher.to_dense(), torch.diag(oracles.enumerated_fisher(large, oracles.randn(0, 3, 40)).diagonal()))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(
    "parametrise", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm]
)
def test_a_parametrised_layer_has_its_exact_diagonal(parametrise: Callable[[nn.Module], nn.Module]) -> None:
    """It is not dropped, and a warning says what to do.

    In a random direction, the product with the diagonal is about √P times shorter than that with the block.
    """
    body = parametrise(nn.Linear(12, 20))
    actor = Stack("categorical", body, nn.Tanh(), nn.Linear(20, 3)).eval()
    observations = oracles.randn(0, 10, 12)
    with pytest.warns(UserWarning, match=r"body.0.*original.*Use Linear or Conv2d layers .*or ExactFisher"):
        fisher = KroneckerFisher(actor, observations)
    exact, place = ExactFisher(actor, observations).to_dense(), fisher.parameters.by_module()
    block = place["body.0.parametrizations.weight"]
    equal(fisher.to_dense()[block, block], torch.diag(exact.diag()[block]))
    bias = place["body.0"]
    equal(fisher.to_dense()[bias, bias], exact[bias, bias])
