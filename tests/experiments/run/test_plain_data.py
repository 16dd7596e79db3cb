"""Tensors and plain data as bytes: bitwise there and back, and nothing else."""

import json
import math
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from agents.rollout.finite import NonFiniteError
from experiments.run.plain_data import DTYPES, STRUCTURE, from_bytes, to_bytes


def assert_same(one: Any, two: Any) -> None:
    """Type, dtype, shape and every bit agree."""
    assert type(one) is type(two)
    if isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype
        assert one.shape == two.shape
        raw = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (one, two)]
        assert torch.equal(*raw)
    elif isinstance(one, np.ndarray | np.generic):
        assert (one.dtype, one.shape, one.tobytes()) == (two.dtype, two.shape, two.tobytes())
    elif isinstance(one, dict):
        assert list(one) == list(two)
        assert [type(key) for key in one] == [type(key) for key in two]
        for key in one:
            assert_same(one[key], two[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert_same(a, b)
    elif isinstance(one, float):
        assert one == two
        assert math.copysign(1, one) == math.copysign(1, two)
    else:
        assert one == two


def returned(value: Any) -> Any:
    """Return a value after its way through bytes."""
    return from_bytes(to_bytes(value))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (7,), (2, 3, 4)], ids=str)
def test_tensors_are_bitwise(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Every dtype and shape, 0-dimensional and empty ones included; as arrays where numpy has the dtype."""
    tensor = torch.testing.make_tensor(shape, dtype=dtype, device="cpu")
    assert_same(returned(tensor), tensor)
    if dtype != torch.bfloat16:
        assert_same(returned(tensor.numpy()), tensor.numpy())


def test_extreme_numbers_are_bitwise() -> None:
    """Negative zero, subnormals, the largest of all, and integers of a generator's width and beyond."""
    floats = [-0.0, 5e-324, 1.7976931348623157e308, 0.1, 1 / 3]
    integers = [0, -1, 2**63 - 1, 2**63, -(2**63), -(2**64) - 1, 2**128 - 1, -(7**9000)]
    content = [
        floats,
        integers,
        torch.tensor(floats, dtype=torch.float64),
        np.array(floats),
        True,
        False,
        None,
    ]
    assert_same(returned(content), content)


def test_structure_survives() -> None:
    """Lists, tuples, keys of both types, texts that look like the format's own, and numpy's scalars."""
    content = {
        "tensor": {"tensor": "0", "1": 1, 1: "one", -3: (1, (2.5, []), {})},
        "": "ünïcode\n\x00\ud800",
        "a.b": [np.float32(0.1), np.float64(0.1), np.int64(-3), np.bool_(True), ()],
    }
    assert_same(returned(content), content)
    for plain in (None, True, 3, 0.5, "text", [], (), {}, torch.ones(2)):
        assert_same(returned(plain), plain)


def test_optimizer_and_generator_states_survive() -> None:
    """Integer keys, 0-dimensional steps, tuples of betas; the integers of PCG64 and the arrays of MT19937."""
    module = nn.Linear(3, 2)
    optimizers = [torch.optim.Adam(module.parameters()), torch.optim.SGD(module.parameters(), momentum=0.9)]
    for optimizer in optimizers:
        module(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    generators = [kind(5) for kind in (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64)]
    content = {
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "generators": [generator.state for generator in generators],
    }
    assert_same(returned(content), content)
    subclass = module.state_dict()  # an OrderedDict comes back as the dict that it is
    assert_same(returned(subclass), dict(subclass))


def test_bytes_are_a_function_of_content() -> None:
    """Twice the same, and in other storage the same."""
    content = {"b": torch.arange(6.0).reshape(2, 3), "a": np.arange(3), "c": [1, 2.5]}
    same = {"b": torch.arange(6.0).reshape(2, 3).T.contiguous().T}
    assert to_bytes(content) == to_bytes(content)
    assert to_bytes(content) == to_bytes(content | same)


def test_a_view_is_stored_without_its_storage() -> None:
    """A secret beside it stays out; a view in another order, expanded or negated keeps its numbers."""
    secret = torch.full((1000,), 12345.0)
    assert len(to_bytes(secret[:1])) < 300
    base = torch.arange(6.0)
    views = [base.reshape(2, 3).T, base[::2], base[:1].expand(4), torch._neg_view(base), nn.Parameter(base)]
    for view in views:
        assert torch.equal(returned(view), view.detach())
    assert np.array_equal(returned(base.numpy()[::-2]), base.numpy()[::-2])
    one, two = returned([base, base])
    one.zero_()
    assert torch.equal(two, base)


def test_what_is_read_is_aligned_and_may_be_changed() -> None:
    """As torch's own memory is, on which the order of sums depends; arrays are no read-only views."""
    content = returned([torch.ones(1, dtype=torch.int8), torch.ones(5), np.ones(3)])
    assert all(tensor.data_ptr() % 64 == 0 for tensor in content[:2])
    content[2][0] = 7
    assert content[2][0] == 7


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", [float, torch.tensor, np.array, np.float32], ids=lambda kind: kind.__name__)
def test_non_finite_numbers_are_refused_by_place(number: float, kind: Any) -> None:
    """In a tensor, array or number, with the way to it."""
    with pytest.raises(NonFiniteError, match=r"^policy\.1\.log_std (is|has)"):
        to_bytes({"policy": ["ok", {"log_std": kind(number), 3: 1.0}]})
    with pytest.raises(NonFiniteError, match=r"^policy\.1 has 1 NaN or infinite among its 3 numbers"):
        to_bytes({"policy": [None, torch.tensor([0.0, number, 1.0], dtype=torch.bfloat16)]})
    with pytest.raises(NonFiniteError, match=r"^the content"):
        to_bytes(kind(number))


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        b"bytes",
        object(),
        1j,
        nn.Linear(1, 1),
        {(1, 2): 3},
        {True: 1},
        {None: 1},
        np.array(["text"]),
        np.array([object()]),
        np.ones(2, dtype=">f4" if np.little_endian else "<f4"),
        np.ones(2, dtype=np.complex64),
        torch.ones(2, dtype=torch.complex64),
        torch.ones(2, device="meta"),
        torch.ones(2, 2).to_sparse(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_things_are_refused_by_place(value: Any) -> None:
    """Rather than pickled."""
    with pytest.raises(TypeError, match=r"^callbacks\.0 (is a|has the key)"):
        to_bytes({"callbacks": [value]})


def crafted(structure: Any, **tensors: torch.Tensor) -> bytes:
    """Return a payload with the structure given, as JSON or as text."""
    text = structure if isinstance(structure, str) else json.dumps(structure)
    return safetensors.torch.save({STRUCTURE: torch.tensor(list(text.encode()), dtype=torch.uint8)} | tensors)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff" * 8,
        b"\xff" * 1000,
        safetensors.torch.save({}),
        safetensors.torch.save({STRUCTURE: torch.ones(3)}),
        crafted(""),
        crafted("[1"),
        crafted("NaN"),
        crafted("-Infinity"),
        crafted("1e999"),
        crafted("9" * 5000),
        crafted("[" * 100_000),
        crafted('{"tuple":[' * 2000 + "]}" * 2000),
        crafted({}),
        crafted({"tensor": "0", "array": "0"}, **{"0": torch.ones(1)}),
        crafted({"object": "os.system"}),
        crafted({"__reduce__": ["os.system", ["true"]]}),
        crafted({"integer": "print(1)"}),
        crafted({"integer": 3}),
        crafted({"tuple": 3}),
        crafted({"dict": [["a"]]}),
        crafted({"dict": [[[], 1]]}),
        crafted({"dict": [[None, 1]]}),
        crafted({"tensor": "0"}),
        crafted({"tensor": ["0"]}),
        crafted({"tensor": STRUCTURE}),
        crafted([{"tensor": "0"}, {"tensor": "0"}], **{"0": torch.ones(1)}),  # two names for one tensor
        crafted(None, hidden=torch.ones(1)),
        crafted({"tensor": "0"}, **{"0": torch.tensor(float("nan"))}),
        crafted({"tensor": "0"}, **{"0": torch.ones(1, dtype=torch.complex64)}),
        crafted({"array": "0"}, **{"0": torch.ones(1, dtype=torch.bfloat16)}),
    ],
    ids=lambda payload: repr(payload[:1] + payload[-30:]),
)
def test_crafted_payloads_are_refused(payload: bytes) -> None:
    """With a ValueError, whatever they are made of."""
    with pytest.raises(ValueError, match=r"is invalid|does not use"):
        from_bytes(payload)


def test_any_bytes_give_content_or_a_value_error() -> None:
    """Changed at random, without a checksum to stop them: finite plain data or a ValueError, nothing else."""
    payload = to_bytes({"a": torch.arange(4.0), "b": [(1, 2**70), {"c": 0.5, 3: np.ones(2)}], "d": None})
    randomness = np.random.default_rng(0)
    refused = 0
    for _ in range(2000):
        changed = bytearray(payload)
        for place in randomness.integers(len(changed), size=randomness.integers(1, 4)):
            changed[place] ^= 1 << randomness.integers(8)
        try:
            content = from_bytes(bytes(changed))
        except ValueError:
            refused += 1
        else:
            to_bytes(content)
    assert 200 < refused < 2000
