"""What K-FAC sees of a network."""

import oracles
import pytest
import torch
from oracles import RandomActor, Stack
from torch import Tensor, nn

from npg import Bernoulli, Distribution
from npg.fisher.layers import Layer, check_owners
from npg.fisher.passes import pass_through, recorded

CONVOLUTIONS = [
    {},
    {"stride": 2},
    {"padding": 1},
    {"dilation": 2, "padding": (2, 1)},
    {"stride": (1, 2), "padding": (0, 2), "bias": False},
]


def linear(module: nn.Module) -> Layer:
    """The layer of a module of which everything is trained."""
    layer = Layer.of(module, [name for name, _ in module.named_parameters()])
    assert layer is not None
    return layer


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_a_convolution_is_linear_in_its_columns(options: dict) -> None:
    """Its output at each position is the weight as a matrix, bias last, times the column there."""
    conv = nn.Conv2d(2, 3, (3, 2), **options).double()
    x = oracles.randn(0, 4, 2, 6, 7)
    layer = linear(conv)
    columns = layer.columns(x, 4)
    weight = conv.weight.flatten(1)
    V = weight if conv.bias is None else torch.cat([weight, conv.bias.unsqueeze(1)], 1)
    assert layer.shape == (V.shape[1], 3)
    torch.testing.assert_close(columns @ V.T, layer.rows(conv(x), 4))
    for state, column in zip(x, columns, strict=True):
        expected = oracles.positions(conv, state.unsqueeze(0))
        assert torch.equal(column[:, : expected.shape[1]], expected)


@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3), (2, 2, 3), (4, 2, 5, 3)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_is_linear_in_its_columns(shape: tuple[int, ...], bias: bool) -> None:
    """So it is at every position of inputs of more than two dimensions."""
    module = nn.Linear(3, 2, bias=bias).double()
    x, layer = oracles.randn(0, *shape), linear(module)
    V = torch.cat([module.weight, module.bias.unsqueeze(1)], 1) if bias else module.weight
    columns = layer.columns(x, 4)
    assert columns.shape == (4, x.numel() // 12, 3 + bias)
    torch.testing.assert_close(columns @ V.T, layer.rows(module(x), 4))


def test_only_what_is_trained_has_columns() -> None:
    """A frozen weight leaves the bias's ones, a frozen bias the inputs."""
    module, x = nn.Linear(3, 2).double(), oracles.randn(0, 4, 3)
    bias, weight = Layer.of(module, ["bias"]), Layer.of(module, ["weight"])
    assert torch.equal(bias.columns(x, 4), torch.ones(4, 1, 1, dtype=torch.float64))
    assert torch.equal(weight.columns(x, 4), x.unsqueeze(1))
    assert (bias.shape, weight.shape) == ((1, 2), (3, 2))
    assert not bias.split_bias
    assert not weight.split_bias


@pytest.mark.parametrize(
    "module",
    [
        nn.LayerNorm(3),
        nn.Conv1d(2, 2, 1),
        nn.Conv2d(2, 2, 1, groups=2),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(2, 2, 3, padding="same"),
        nn.Bilinear(2, 2, 2),
        nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
        nn.modules.linear.NonDynamicallyQuantizableLinear(2, 2),
    ],
)
def test_what_is_no_layer(module: nn.Module) -> None:
    """Other modules, and such convolutions as a column does not describe, are none."""
    assert Layer.of(module, [name for name, _ in module.named_parameters()]) is None


def test_a_layer_with_more_to_train_is_none() -> None:
    """A Linear with a third parameter, as under `torch.nn.utils.weight_norm`, has no two factors."""
    module = nn.Linear(2, 2)
    assert Layer.of(module, ["weight", "bias", "gain"]) is None
    assert Layer.of(module, ["bias", "weight_g", "weight_v"]) is None


def recorded_names(actor: nn.Module, names: list[str]) -> dict[str, Layer]:
    """The layers of these names."""
    return {name: linear(actor.get_submodule(name)) for name in names}


def hooks(actor: nn.Module) -> int:
    """Return how many hooks there are."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in actor.modules())


def test_inputs_and_outputs_are_recorded() -> None:
    """What a layer was given and what it made of it, the output with its graph; the policy is unchanged."""
    actor, observations = RandomActor("categorical"), oracles.observations(0)
    with recorded(recorded_names(actor, ["hidden", "head"])) as records:
        assert hooks(actor) == 2
        policy = actor(observations)
    assert hooks(actor) == 0
    assert torch.equal(records["hidden"][0], observations)
    assert torch.equal(records["head"][0], torch.tanh(records["hidden"][1]))
    assert torch.equal(records["head"][1], policy.logits)
    assert torch.equal(policy.logits, actor(observations).logits)
    assert records["hidden"][1].requires_grad


def test_no_hook_outlives_an_exception() -> None:
    """Whatever is raised inside, the module's hooks are gone; the user's own stay."""
    actor = RandomActor("categorical")
    actor.hidden.register_forward_hook(lambda *_: None)
    with (
        pytest.raises(KeyboardInterrupt),
        recorded(recorded_names(actor, ["hidden", "head"])),
    ):
        raise KeyboardInterrupt
    assert hooks(actor) == 1

    class Broken(RandomActor):
        def forward(self, observations: Tensor) -> Distribution:
            super().forward(observations)
            raise ZeroDivisionError

    broken = Broken("gaussian")
    with pytest.raises(ZeroDivisionError):
        passing(broken, oracles.observations(0))
    assert hooks(broken) == 0


def passing(actor: nn.Module, observations: Tensor, names: tuple[str, ...] = ("hidden", "head")) -> object:
    """Send observations through two layers of an actor."""
    layers = recorded_names(actor, list(names))
    return pass_through(actor, layers, {}, observations, samples=None, generator=None)


def test_a_layer_that_runs_twice_is_rejected() -> None:
    """The error names the layer, and what to do."""

    class Twice(RandomActor):
        def forward(self, observations: Tensor) -> Distribution:
            self.hidden(observations)
            return super().forward(observations)

    actor = Twice("gaussian")
    with pytest.raises(ValueError, match=r"'hidden' ran twice.*ExactFisher"):
        passing(actor, oracles.observations(0))
    assert hooks(actor) == 0


def test_a_layer_that_is_passed_by_is_rejected() -> None:
    """Weights used without the module that holds them are never taken for zero."""

    class Around(RandomActor):
        def forward(self, observations: Tensor) -> Distribution:
            hidden = nn.functional.linear(observations, self.hidden.weight, self.hidden.bias)
            return self.policy(self.head(torch.tanh(hidden)))

    with pytest.raises(ValueError, match=r"'hidden' did not run.*Call it, or use ExactFisher"):
        passing(Around("gaussian"), oracles.observations(0))


def test_a_layer_without_states_is_rejected() -> None:
    """An input that does not have the states along its first dimension is named with its shape."""

    class Broadcast(RandomActor):
        def forward(self, observations: Tensor) -> Distribution:
            return self.policy(self.head(torch.tanh(self.hidden(observations[:1]))).expand(5, -1))

    with pytest.raises(ValueError, match=r"'hidden' got an input of shape \(1, 3\) for 5 states"):
        passing(Broadcast("bernoulli"), oracles.observations(0))


def test_an_input_by_keyword_is_an_input() -> None:
    """`layer(input=x)` is recorded as `layer(x)` is."""

    class ByName(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Linear(3, 2).double()

        def forward(self, observations: Tensor) -> Bernoulli:
            return Bernoulli(self.hidden(input=observations))

    observations = oracles.observations(0)
    seen = passing(ByName(), observations, ("hidden",))
    assert torch.equal(seen.inputs["hidden"][:, 0, :3], observations)


def test_a_hook_of_the_user_comes_after() -> None:
    """The gradient is that at the layer's own output, before a user's hook scales it."""
    actor, observations = RandomActor("categorical"), oracles.observations(0)
    plain = passing(actor, observations)
    actor.head.register_forward_hook(lambda _, args, output: 3 * output)
    with torch.no_grad():
        actor.head.weight /= 3
        actor.head.bias /= 3
    scaled = passing(actor, observations)
    for one, other in zip(plain.gradients, scaled.gradients, strict=True):
        torch.testing.assert_close(3 * one["head"], other["head"])
        torch.testing.assert_close(one["hidden"], other["hidden"])


def test_what_follows_may_write_into_the_output() -> None:
    """With an in-place ReLU inputs and gradients are those of a plain one."""
    found = []
    for inplace in (False, True):
        actor = Stack("categorical", nn.Linear(3, 4), nn.ReLU(inplace=inplace), nn.Linear(4, 3))
        seen = passing(actor, oracles.observations(0), ("body.0", "body.2"))
        found.append([*seen.inputs.values(), *(g for draw in seen.gradients for g in draw.values())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_parameter_of_two_modules_is_rejected() -> None:
    """The error names it; a frozen one, and a module under two names, do no harm."""
    actor = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    actor[1].weight = actor[0].weight
    with pytest.raises(ValueError, match=r"^0\.weight: used by two modules.*ExactFisher"):
        check_owners(actor)
    actor[0].weight.requires_grad_(False)
    check_owners(actor)
    twice = nn.Linear(2, 2)
    check_owners(nn.ModuleDict({"a": twice, "b": twice}))


@pytest.mark.parametrize("family", oracles.FAMILIES)
def test_gradients_are_root_scores(family: str) -> None:
    """Outer products over all draws sum to E[g gᵀ] of each state, and of random signs in the mean."""
    actor, observations = RandomActor(family), oracles.observations(0, n=2)
    exact = passing(actor, observations)
    for name in ("hidden", "head"):
        outer = sum(torch.einsum("nti,ntj->nij", g[name], g[name]) for g in exact.gradients)
        for state, G in zip(observations, outer, strict=True):
            torch.testing.assert_close(G, oracles.kronecker_factors(actor, state.unsqueeze(0))[name][1])
    many = pass_through(
        actor,
        recorded_names(actor, ["head"]),
        {},
        observations.repeat_interleave(2000, 0),
        samples=2,
        generator=oracles.generator(0),
    )
    outer = [torch.einsum("nti,ntj->nij", g["head"], g["head"]) for g in many.gradients]
    for i, G in enumerate(sum(torch.einsum("nti,ntj->nij", g["head"], g["head"]) for g in exact.gradients)):
        own = sum(outer)[2000 * i : 2000 * (i + 1)]
        error = own.std(0) / 2000**0.5
        assert ((own.mean(0) - G).abs() <= 4 * error + 1e-12).all()
