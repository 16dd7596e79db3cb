"""Operators that take their states a few at a time."""

from typing import Any

import operators
import oracles
import pytest
import torch
from operators import EVERY
from oracles import FAMILIES, RandomActor
from torch import Tensor, nn

from npg import Categorical, Distribution, KroneckerFisher
from npg.fisher.root_scores import root_scores
from npg.states import micro_batches

N = 7
every_operator = pytest.mark.parametrize("name", EVERY)


@pytest.mark.covering(2)
@every_operator
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1, 2, N - 1, N, N + 3])
def test_micro_batched_is_whole(name: str, family: str, size: int) -> None:
    """Whatever the size, the matrix is the same to 1e-12."""
    actor, observations = RandomActor(family), oracles.observations(0, n=N)
    v = oracles.randn(0, oracles.flat_parameters(actor).numel())
    whole = EVERY[name](actor, observations) @ v
    parts = EVERY[name](actor, observations, micro_batch_size=size) @ v
    # A difference of rounded outputs is amplified by 1/√eps, and rounding depends on the batch.
    atol = 1e-6 if name == "difference" else 1e-12
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=atol * float(whole.abs().max()))


@every_operator
@pytest.mark.parametrize("size", [0, -1])
def test_empty_micro_batches_are_rejected(name: str, size: int) -> None:
    """A micro-batch has at least one state."""
    with pytest.raises(ValueError, match=f"micro_batch_size must be at least 1.*got {size}"):
        EVERY[name](RandomActor("bernoulli"), oracles.observations(0), micro_batch_size=size)


class Witness(RandomActor):
    """Notes how many states each forward pass sees."""

    def __init__(self, family: str):
        super().__init__(family)
        self.seen: list[int] = []

    def forward(self, observations: Tensor) -> Distribution:
        """Return the policy, and note the states."""
        self.seen.append(len(observations))
        return super().forward(observations)


@every_operator
def test_no_pass_sees_more_than_a_micro_batch(name: str) -> None:
    """Products send at most that many states through the actor, and so does construction.

    SampledFisher draws its actions in one pass without a graph, so that they do not depend on the size.
    """
    actor, observations = Witness("gaussian"), oracles.observations(0, n=N)
    fisher = EVERY[name](actor, observations, micro_batch_size=2)
    if name in ("empirical", "likelihood"):
        assert actor.seen.pop(0) == N  # for the actions of these tests
    if name == "sampled":
        assert actor.seen.pop(0) == N
    assert max(actor.seen) <= 2
    actor.seen.clear()
    fisher @ oracles.randn(0, fisher.size)
    assert max(actor.seen, default=0) <= 2


@pytest.mark.parametrize("name", sorted(EVERY.keys() - {"diagonal", "block"}))  # under vmap no hook works
def test_saved_memory_does_not_grow_with_the_states(name: str) -> None:
    """The numbers that autograd keeps alive at a time are bounded, where those of the whole batch are not."""
    actor, most = RandomActor("gaussian"), {}
    for n in (8, 64):
        for size in (None, 4):
            most[n, size] = peak(name, actor, oracles.observations(0, n=n), size)
    assert most[64, 4] <= 1.1 * most[8, 4]
    assert most[64, None] > 4 * most[8, None]


def peak(name: str, actor: nn.Module, observations: Tensor, size: int | None) -> int:
    """Return the largest number of numbers that saved tensors hold at one time, in a product."""
    alive, most = 0, 0

    class Held:
        def __init__(self, tensor: Tensor):
            nonlocal alive, most
            self.tensor = tensor.detach()  # else the tensor and the node that made it keep each other alive
            alive += tensor.numel()
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= self.tensor.numel()

    actions = oracles.actions_of(actor, observations)
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        if name in ("empirical", "likelihood"):
            kind = {"empirical": operators.EmpiricalFisher, "likelihood": operators.LikelihoodHessian}[name]
            fisher = kind(actor, observations, actions, micro_batch_size=size)
        else:
            fisher = EVERY[name](actor, observations, micro_batch_size=size)
        fisher @ oracles.randn(0, fisher.size)
    return most


@every_operator
def test_it_keeps_the_parameters_that_it_was_made_with(name: str) -> None:
    """Moving the policy afterwards changes no product, although the states are linearised anew."""
    actor, observations = RandomActor("gaussian"), oracles.observations(0, n=N)
    fisher = EVERY[name](actor, observations, micro_batch_size=3)
    v = oracles.randn(0, fisher.size)
    before = fisher @ v
    with torch.no_grad():
        for p in actor.parameters():
            p.add_(1)
    assert torch.equal(fisher @ v, before)
    assert not torch.equal(EVERY[name](actor, observations, micro_batch_size=3) @ v, before)


class OfParts(nn.Module):
    """A policy of observations in a dictionary, a tuple or a list."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 3), nn.Linear(2, 3)
        self.double()
        oracles.draw_weights_(self, 0)

    def forward(self, observations: Any) -> Categorical:
        """Return the policy."""
        if isinstance(observations, dict):
            observations = (observations["one"], (observations["other"],))
        one, (other,) = observations
        return Categorical(torch.tanh(self.one(one)) + self.other(other))


@every_operator
@pytest.mark.parametrize("kind", ["dictionary", "tuple", "list"])
def test_observations_of_several_parts(name: str, kind: str) -> None:
    """Dictionaries, tuples and lists of tensors, nested, are cut along the states as tensors are."""
    one, other = oracles.randn(0, N, 3), oracles.randn(1, N, 2)
    observations = {
        "dictionary": {"one": one, "other": other},
        "tuple": (one, (other,)),
        "list": [one, [other]],
    }[kind]
    actor = OfParts()
    v = oracles.randn(0, oracles.flat_parameters(actor).numel())
    whole = EVERY[name](actor, observations) @ v
    parts = EVERY[name](actor, observations, micro_batch_size=3) @ v
    atol = 1e-6 if name == "difference" else 1e-12
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=atol)
    assert whole.abs().max() > 1e-3


@every_operator
@pytest.mark.parametrize("bad", ["text", 3, {"one": torch.ones(2, 3), "other": None}])
def test_what_is_no_tensor_is_rejected(name: str, bad: object) -> None:
    """Micro-batches of something else raise TypeError with its type."""

    class Deaf(RandomActor):
        def forward(self, observations: object) -> Distribution:
            return super().forward(oracles.observations(0, n=2))

    with pytest.raises(TypeError, match=r"micro-batches need tensors.*got (str|int|NoneType)"):
        EVERY[name](Deaf("gaussian"), bad, micro_batch_size=1)


@pytest.mark.parametrize(
    "data", [(torch.ones(3), torch.ones(4)), {"a": torch.ones(2), "b": [torch.ones(3)]}, (), {}]
)
def test_tensors_of_different_length_are_rejected(data: object) -> None:
    """States that are missing from one of the tensors are never dropped in silence."""
    with pytest.raises(ValueError, match="tensors of the same length"):
        next(micro_batches(data, 1))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 9])
def test_micro_batches_are_all_the_states_in_order(size: int) -> None:
    """Cut and laid end to end the data is what it was, every part but the last of the asked length."""
    x, y = oracles.randn(0, 7, 2), torch.arange(7)
    parts = list(micro_batches((x, {"y": y}), size))
    assert torch.equal(torch.cat([part[0] for part in parts]), x)
    assert torch.equal(torch.cat([part[1]["y"] for part in parts]), y)
    assert [len(part[0]) for part in parts[:-1]] == [size] * (len(parts) - 1)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_root_scores_come_a_micro_batch_at_a_time(size: int) -> None:
    """At most n · K rows are held, and their outer products add up to the Fisher matrix."""
    actor, observations = RandomActor("multi_categorical"), oracles.observations(0, n=N)
    named = dict(actor.named_parameters())
    parts = list(root_scores(actor, observations, named, size))
    assert [len(part[0]) for part in parts] == [len(o) for o in observations.split(size)]
    assert all(row.shape[1:] == (5, *p.shape) for row, p in zip(parts[0], named.values(), strict=True))
    rows = torch.cat([torch.cat([row.flatten(2) for row in part], -1).flatten(0, 1) for part in parts])
    torch.testing.assert_close(rows.T @ rows / N, oracles.enumerated_fisher(actor, observations))


@pytest.mark.parametrize("size", [None, 2])
def test_a_bad_state_in_the_last_micro_batch_is_seen(size: int | None) -> None:
    """A NaN anywhere among the states makes the statistics non-finite."""
    observations = oracles.observations(0, n=N)
    observations[-1, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="hidden"):
        KroneckerFisher(RandomActor("gaussian"), observations, micro_batch_size=size)


@pytest.mark.parametrize("name", ["diagonal", "block", "kronecker", "corrected"])
@pytest.mark.parametrize("numbers", [1, 200, 700])
def test_own_micro_batches_change_nothing(name: str, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few numbers an operator allows itself at a time, convolutions included."""
    actor = oracles.Stack("categorical", nn.Conv2d(2, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3))
    images = oracles.randn(0, N, 2, 4, 4)
    whole = EVERY[name](actor, images).to_dense()
    for module in ("npg.fisher.root_scores", "npg.fisher.ekfac"):
        monkeypatch.setattr(f"{module}.NUMBERS_AT_A_TIME", numbers)
    torch.testing.assert_close(EVERY[name](actor, images).to_dense(), whole, rtol=1e-12, atol=1e-12)
    parts = EVERY[name](actor, images, micro_batch_size=3).to_dense()
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
