"""One flat vector in `parameters()` order, written all or nothing."""

from copy import deepcopy

import oracles
import pytest
import torch
from torch import Tensor, nn

from npg import FlatParameters


def network() -> nn.Module:
    """Two layers of different shapes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 4)).double()


def snapshot(module: nn.Module) -> list[Tensor]:
    """Return copies of all parameters."""
    return [p.detach().clone() for p in module.parameters()]


def unchanged(module: nn.Module, before: list[Tensor]) -> bool:
    """Tell whether every parameter is bitwise what it was."""
    return all(torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))


def test_flatten_and_unflatten_are_inverse() -> None:
    """unflatten(flatten(t)) = t with the parameters' shapes, and flatten(unflatten(v)) = v."""
    module = network()
    parameters = FlatParameters(module)
    vector = oracles.randn(0, parameters.size)
    parts = parameters.unflatten(vector)
    assert [part.shape for part in parts] == [p.shape for p in module.parameters()]
    assert torch.equal(parameters.flatten(parts), vector)
    tensors = [oracles.randn(i, *p.shape) for i, p in enumerate(module.parameters())]
    for part, tensor in zip(parameters.unflatten(parameters.flatten(tensors)), tensors, strict=True):
        assert torch.equal(part, tensor)


def test_the_order_is_that_of_parameters() -> None:
    """`vector` is torch's own parameters_to_vector, in a copy."""
    module = network()
    parameters = FlatParameters(module)
    vector = parameters.vector()
    assert torch.equal(vector, nn.utils.parameters_to_vector(module.parameters()))
    assert parameters.names == tuple(name for name, _ in module.named_parameters())
    assert (parameters.size, parameters.dtype) == (3 * 2 + 2 + 2 * 4 + 4, torch.float64)
    before = snapshot(module)
    vector.zero_()
    assert unchanged(module, before)


def test_none_counts_as_zeros() -> None:
    """Autograd's None for an unused parameter becomes zeros of its shape."""
    parameters = FlatParameters(network())
    ones = [torch.ones_like(p) for p in parameters.tensors]
    flat = parameters.flatten([ones[0], None, ones[2], None])
    assert [part.unique().tolist() for part in parameters.unflatten(flat)] == [[1], [0], [1], [0]]


def test_flatten_rejects_a_missing_tensor() -> None:
    """One tensor too few or too many is an error, never a shorter vector."""
    parameters = FlatParameters(network())
    for wrong in (parameters.tensors[:-1], (*parameters.tensors, parameters.tensors[0])):
        with pytest.raises(ValueError):
            parameters.flatten(wrong)


def test_frozen_parameters_are_left_out() -> None:
    """Those with requires_grad=False are not in the vector and not moved."""
    module = network()
    module[0].weight.requires_grad_(False)
    parameters = FlatParameters(module)
    assert parameters.names == ("0.bias", "2.weight", "2.bias")
    before = snapshot(module)
    parameters.add_(torch.ones(parameters.size, dtype=torch.float64))
    after = snapshot(module)
    assert torch.equal(after[0], before[0])
    assert all(torch.equal(a, b + 1) for a, b in zip(after[1:], before[1:], strict=True))


def test_tied_parameters_count_once() -> None:
    """A parameter used twice has one place in the vector."""
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    assert FlatParameters(module).size == 4 + 2 + 2


def test_displaced_is_what_add_writes() -> None:
    """`displaced` leaves the module alone and returns bitwise what `add_` then writes in place."""
    module = network()
    parameters, before = FlatParameters(module), snapshot(module)
    displacement = oracles.randn(1, parameters.size)
    candidate = parameters.displaced(displacement)
    assert unchanged(module, before)
    addresses = [p.data_ptr() for p in module.parameters()]
    parameters.add_(displacement)
    assert [p.data_ptr() for p in module.parameters()] == addresses
    assert list(candidate) == [name for name, _ in module.named_parameters()]
    assert unchanged(module, list(candidate.values()))
    assert torch.equal(parameters.vector(), parameters.flatten(before) + displacement)
    assert all(p.requires_grad and p.grad_fn is None for p in module.parameters())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("index", [0, 7, -1])
def test_a_bad_number_leaves_every_parameter_unchanged(bad: float, index: int) -> None:
    """One NaN or infinity anywhere raises, names its parameter and moves nothing at all."""
    module = network()
    parameters, before = FlatParameters(module), snapshot(module)
    displacement = torch.ones(parameters.size, dtype=torch.float64)
    displacement[index] = bad
    with pytest.raises(FloatingPointError, match={0: "0.weight", 7: "0.bias", -1: "2.bias"}[index]) as error:
        parameters.add_(displacement)
    assert "2.weight" not in str(error.value)
    assert unchanged(module, before)


def test_an_overflow_leaves_every_parameter_unchanged() -> None:
    """A finite displacement whose sum with θ overflows is rejected as well."""
    module = network()
    with torch.no_grad():
        module[2].bias.fill_(torch.finfo(torch.float64).max)
    parameters, before = FlatParameters(module), snapshot(module)
    displacement = torch.ones(parameters.size, dtype=torch.float64)
    displacement[-1] = torch.finfo(torch.float64).max
    with pytest.raises(FloatingPointError, match=r"2\.bias"):
        parameters.add_(displacement)
    assert unchanged(module, before)


def test_add_keeps_the_gradient_graph_out() -> None:
    """A displacement that carries a graph writes values alone."""
    module = network()
    parameters = FlatParameters(module)
    reference = deepcopy(module)
    displacement = torch.ones(parameters.size, dtype=torch.float64, requires_grad=True)
    parameters.add_(2 * displacement)
    FlatParameters(reference).add_(2 * displacement.detach())
    assert unchanged(module, snapshot(reference))
    assert all(p.is_leaf for p in module.parameters())


def test_modules_without_one_flat_vector_are_rejected() -> None:
    """Nothing to train and mixed dtypes raise ValueError with the fix in the message."""
    with pytest.raises(ValueError, match="requires_grad=True"):
        FlatParameters(nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(ValueError, match=r"ReLU has no trainable parameter"):
        FlatParameters(nn.ReLU())
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    with pytest.raises(ValueError, match=r"float32 on cpu, torch.float64 on cpu.*\.to\("):
        FlatParameters(mixed)


@pytest.mark.parametrize("shape", [(17,), (19,), (20, 1), (1, 20), ()])
def test_vectors_of_another_size_are_rejected(shape: tuple[int, ...]) -> None:
    """Only shape (P,) is a displacement, and nothing moves before that is known."""
    module = network()
    parameters, before = FlatParameters(module), snapshot(module)
    for use in (parameters.unflatten, parameters.displaced, parameters.add_):
        with pytest.raises(ValueError, match=r"shape \(20,\)"):
            use(torch.zeros(shape, dtype=torch.float64))
    assert unchanged(module, before)


class Nested(nn.Module):
    """A parameter of its own, and modules within modules."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(2))
        self.body = network()
        self.head = nn.Linear(4, 2)
        self.offset = nn.Parameter(torch.zeros(3))
        self.double()


def test_the_space_is_what_an_operator_says_of_itself() -> None:
    """(P, dtype, device)."""
    parameters = FlatParameters(Nested())
    assert parameters.space == (35, torch.float64, torch.device("cpu"))


def test_parameters_by_name() -> None:
    """`named` has the parameters themselves, in the order of the vector."""
    module = Nested()
    module.body[0].bias.requires_grad_(False)
    parameters = FlatParameters(module)
    expected = {name: p for name, p in module.named_parameters() if p.requires_grad}
    assert list(parameters.named()) == list(expected)
    assert all(p is expected[name] for name, p in parameters.named().items())


@pytest.mark.parametrize("frozen", [(), ("scale",), ("body.0.weight", "head.bias"), ("body.2",)])
def test_modules_are_slices_of_the_vector(frozen: tuple[str, ...]) -> None:
    """Each part holds the parameters of one module, the parts lie end to end, and frozen ones are in none."""
    module = Nested()
    for name, p in module.named_parameters():
        p.requires_grad_(not name.startswith(frozen) if frozen else True)
    parameters = FlatParameters(module)
    vector, parts = oracles.randn(0, parameters.size), parameters.by_module()
    assert torch.equal(torch.cat([vector[part] for part in parts.values()]), vector)
    unflat = dict(zip(parameters.names, parameters.unflatten(vector), strict=True))
    for name, part in parts.items():
        own = [n for n, p in module.get_submodule(name).named_parameters(recurse=False) if p.requires_grad]
        assert own
        flat = torch.cat([unflat[f"{name}.{n}".lstrip(".")].reshape(-1) for n in own])
        assert torch.equal(flat, vector[part])


@pytest.mark.parametrize("name", ["", "body.0", "body.2", "head"])
def test_the_parameters_of_one_module(name: str) -> None:
    """`of_module` is a flat vector of its own, that leaves the whole as it was."""
    module = Nested()
    parameters = FlatParameters(module)
    part = parameters.of_module(name)
    own = dict(module.get_submodule(name).named_parameters(recurse=False))
    assert [n.rpartition(".")[2] for n in part.names] == list(own)
    assert all(p is q for p, q in zip(part.tensors, own.values(), strict=True))
    assert part.size == sum(p.numel() for p in own.values())
    assert torch.equal(part.vector(), parameters.vector()[parameters.by_module()[name]])
    vector = oracles.randn(0, part.size)
    assert torch.equal(part.flatten(part.unflatten(vector)), vector)
    assert parameters.size == 35


def test_copies_are_leaves_of_their_own() -> None:
    """Equal values, other storage, a gradient of their own."""
    module = Nested()
    parameters = FlatParameters(module)
    copies = parameters.copies()
    assert list(copies) == list(parameters.names)
    for copy, p in zip(copies.values(), parameters.tensors, strict=True):
        assert torch.equal(copy, p)
        assert copy.data_ptr() != p.data_ptr()
        assert copy.is_leaf
        assert copy.requires_grad
    parameters.add_(torch.ones(parameters.size, dtype=torch.float64))
    assert torch.equal(copies["scale"], torch.zeros(2, dtype=torch.float64))
