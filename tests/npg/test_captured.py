"""Captured functions: buffers, constants, captures anew, state, random numbers and failures."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fake_graph import FakeGraph, fake_graphs
from torch import Tensor

from npg.captured import MOST_GRAPHS, Captured

# On the CPU with a stand-in for graphs, and on a GPU with CUDA graphs.
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
on_devices = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture(autouse=True)
def graphs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use the stand-in on the CPU."""
    if request.node.callspec.params["device"] != "cpu":
        yield
        return
    with fake_graphs(monkeypatch):
        yield


class Counted:
    """A function that counts how often its Python code runs; its results contain all kinds of values."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, data: dict[str, Any], factor: Tensor, name: str = "") -> dict[str, Any]:
        """Return results of several kinds."""
        self.runs += 1
        assert factor.ndim == 0
        return {"scaled": (data["a"] * factor, data["b"] + 1), "name": name, "nothing": None}


@on_devices
def test_calls_give_what_direct_calls_give(device: str) -> None:
    """Tensors and numbers may change; results are overwritten; constants are returned."""
    captured = Captured(Counted(), device)
    assert captured.replays
    previous: Any = None
    for seed, factor in ((0, 2.0), (1, -0.5), (2, 3.0)):
        data = {"a": torch.full((3, 2), float(seed)), "b": torch.arange(4) + seed}
        results = captured({key: value.to(device) for key, value in data.items()}, factor, "x")
        assert results["name"] == "x" and results["nothing"] is None
        assert torch.equal(results["scaled"][0].cpu(), data["a"] * factor)
        assert torch.equal(results["scaled"][1].cpu(), data["b"] + 1)
        assert results["scaled"][0].device.type == device
        assert previous is None or previous is results["scaled"][0]
        previous = results["scaled"][0]
    assert captured.failure is None


@on_devices
def test_arguments_may_be_anywhere_and_of_any_layout(device: str) -> None:
    """On the CPU, transposed, expanded, and integer numbers."""
    captured = Captured(lambda a, i: (a + i, i), device)
    for i, a in enumerate([torch.ones(2, 3), torch.rand(3, 2).T, torch.rand(1, 3).expand(2, 3)]):
        total, index = captured(a, i)
        assert torch.equal(total.cpu(), a + i)
        assert index.dtype == torch.int64 and int(index) == i


@on_devices
def test_one_capture_for_each_shape_dtype_and_constant(device: str) -> None:
    """Another kind of arguments is captured beside the first; the oldest of too many is dropped."""
    function = Counted()
    captured = Captured(function, device)
    double, single = torch.ones(2, dtype=torch.float64), torch.ones(2)
    kinds = [(single, ""), (double, ""), (single.new_ones(5), ""), (single, "other")]
    assert len(kinds) == MOST_GRAPHS
    for _ in range(3):
        for a, name in kinds:
            result = captured({"a": a.to(device), "b": a.to(device)}, 3.0, name)
            assert torch.equal(result["scaled"][0].cpu(), 3 * a) and result["name"] == name
    assert len(captured._recordings) == MOST_GRAPHS
    captured({"a": single.to(device), "b": double.to(device)}, 3.0)
    assert len(captured._recordings) == MOST_GRAPHS
    captured.forget()
    assert not captured._recordings
    if device == "cpu":
        assert (FakeGraph.captures, FakeGraph.replays, FakeGraph.drops) == (5, 13, 5)
    else:
        assert function.runs == 5 * 4  # in captures only


@on_devices
def test_state_is_read_and_changed_in_place(device: str) -> None:
    """The first call changes it once, as if there were no warm-up; a tensor that moved is found again."""
    holder = {"count": torch.zeros(3, device=device), "weight": torch.ones(3, device=device)}

    def step(a: Tensor) -> Tensor:
        holder["count"] += a
        return holder["count"] * holder["weight"]

    captured = Captured(step, device, state=lambda: [holder["count"]], reads=lambda: [holder["weight"]])
    a = torch.ones(3, device=device)
    for expected in (1, 2, 3):
        assert captured(a).tolist() == [expected] * 3
    holder["weight"].fill_(2)  # in place
    assert captured(a).tolist() == [8] * 3
    holder["weight"] = torch.full((3,), 5.0, device=device)  # elsewhere
    assert captured(a).tolist() == [25] * 3
    assert holder["count"].tolist() == [5] * 3
    assert len(captured._recordings) == 1


@on_devices
def test_untouched_state_is_not_written(device: str) -> None:
    """Else autograd would refuse a graph made before the capture."""
    weight = torch.ones(3, device=device, requires_grad=True)
    product = (weight * weight).sum()
    captured = Captured(lambda a: a * weight.detach(), device, state=lambda: [weight])
    captured(torch.ones(3))
    product.backward()
    assert weight.grad is not None


@on_devices
def test_random_numbers_are_those_of_direct_calls(device: str) -> None:
    """From the default generator and from a listed one; a capture draws none."""

    def draws(captured: bool) -> list[list[float]]:
        torch.manual_seed(0)
        generator = torch.Generator(device).manual_seed(1)

        def draw(n: Tensor) -> Tensor:
            noise = torch.randn(5, device=device)
            return noise + torch.rand(5, generator=generator, device=device) * n

        function = Captured(draw, device, generators=[generator]) if captured else draw
        return [function(torch.ones((), device=device)).tolist() for _ in range(4)]

    ours, direct = draws(True), draws(False)
    assert ours == direct
    assert ours[0] != ours[1]


@on_devices
def test_gradients_inside(device: str) -> None:
    """A function may differentiate, also twice, by tensors that it makes itself."""

    def hessian_product(x: Tensor, v: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad((leaf**3).sum(), leaf, create_graph=True)
        return torch.autograd.grad(gradient, leaf, v)[0]

    captured = Captured(hessian_product, device)
    for seed in range(3):
        x, v = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(captured(x, v).cpu(), 6 * x * v)


@on_devices
def test_captures_within_a_capture(device: str) -> None:
    """A captured function may call another one."""
    inner = Captured(lambda x: x + 1, device)
    outer = Captured(lambda x: inner(x) * 2, device)
    for value in (1.0, 2.0, 3.0):
        assert outer(torch.full((2,), value)).tolist() == [2 * (value + 1)] * 2
    assert outer.failure is None and inner.failure is None


@on_devices
def test_in_inference_mode_and_outside(device: str) -> None:
    """The mode of the capture does not matter to later calls."""
    captured = Captured(lambda x: x * 2, device)
    with torch.inference_mode():
        assert captured(torch.ones(2)).tolist() == [2, 2]
    assert captured(torch.full((2,), 3.0)).tolist() == [6, 6]
    with torch.no_grad():
        assert captured(torch.full((2,), 4.0)).tolist() == [8, 8]


@on_devices
def test_errors_of_the_function_are_raised(device: str) -> None:
    """And do not count as a failed capture."""
    captured = Captured(lambda a, b: a @ b, device)
    with pytest.raises(RuntimeError):
        captured(torch.ones(2, 3), torch.ones(2, 3))
    assert captured.failure is None
    assert captured(torch.ones(2, 3), torch.ones(3, 2)).tolist() == [[3, 3], [3, 3]]


class CaptureOnlyError(Exception):
    """An error that only a capture raises."""


@on_devices
def test_what_cannot_be_captured_runs_directly(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one warning, with the reason; state and random numbers are those of direct calls."""
    count = torch.zeros(2, device=device)
    torch.manual_seed(3)

    def step(a: Tensor) -> Tensor:
        count.add_(1)
        if float(a.sum()) < 0 or (device == "cpu" and FakeGraph.capturing):
            raise CaptureOnlyError("reads a number")
        return a + torch.rand(2, device=device)

    captured = Captured(step, device, state=lambda: [count])
    with pytest.warns(RuntimeWarning, match="step cannot be captured as a CUDA graph") as warned:
        first = captured(torch.zeros(2, device=device)).tolist()
        second = captured(torch.zeros(2, device=device)).tolist()
    assert len(warned) == 1
    assert captured.failure is not None and not captured.replays
    assert ("reads a number" if device == "cpu" else "synchronizing") in captured.failure
    assert count.tolist() == [2, 2]
    torch.manual_seed(3)
    assert [first, second] == [torch.rand(2, device=device).tolist() for _ in range(2)]


@on_devices
def test_torch_works_after_a_failure_during_the_capture(device: str) -> None:
    """Streams, memory, random numbers and other captures do."""
    healthy = Captured(lambda a: a + torch.rand(2, device=device), device)
    healthy(torch.zeros(2))

    def poisoned(a: Tensor) -> Tensor:
        noise = torch.rand(2, device=device)
        capturing = FakeGraph.capturing if device == "cpu" else torch.cuda.is_current_stream_capturing()
        if capturing and device == "cuda":
            float((a + noise).sum())  # ends the capture with an error of CUDA
        if capturing:
            raise CaptureOnlyError("during the capture")
        return a + noise

    captured = Captured(poisoned, device)
    with pytest.warns(RuntimeWarning, match="poisoned"):
        captured(torch.zeros(2))
    torch.manual_seed(0)
    first = healthy(torch.zeros(2)).tolist()
    second = torch.rand(2, device=device).tolist()
    third = captured(torch.zeros(2)).tolist()
    torch.manual_seed(0)
    assert [first, second, third] == [torch.rand(2, device=device).tolist() for _ in range(3)]
    again = Captured(lambda a: a * 2, device)
    assert again(torch.ones(2)).tolist() == [2, 2] and again.failure is None
    if device == "cuda":
        assert torch.cuda.current_stream() == torch.cuda.default_stream()
        torch.cuda.empty_cache()
