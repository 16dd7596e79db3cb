"""Actors that the usual kernels of torch can differentiate only once, and those that it cannot at all."""

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from fake_graph import fake_graphs
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from npg import (
    CapturedStep,
    Categorical,
    ExactFisher,
    KLHessian,
    KroneckerFisher,
    SurrogateObjective,
    trust_region_step,
)
from npg.parameters import FlatParameters

N, T, D = 5, 6, 4


class Numpy(torch.autograd.Function):
    """tanh, whose backward pass computes outside of autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return tanh x."""
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return g (1 − tanh² x)."""
        slope = 1 - np.tanh(ctx.saved_tensors[0].detach().numpy()) ** 2
        return torch.from_numpy(gradient.detach().numpy() * slope)


class Actor(nn.Module):
    """A function of observations (N, T, D) with modules of its own, and a linear layer."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **modules: nn.Module):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)
        self.head = nn.Linear(D, 3)
        self.double().eval()
        oracles.draw_weights_(self, 0)

    def forward(self, observations: Tensor) -> Categorical:
        """Return the policy."""
        return Categorical(self.head(self.function(self, observations)))


def linear() -> nn.Module:
    """Return a layer."""
    return nn.Linear(D, D)


def buckets(x: Tensor) -> Tensor:
    """Return an integer per token."""
    return (x[..., 0].abs() * 10).long().clamp(max=9)


GROUPS = torch.tensor([0, 1, 2, 0, 1, 2])
EXACT: dict[str, Callable[[], Actor]] = {
    "encoder": lambda: Actor(
        lambda s, x: s.layer(x).mean(1),
        layer=nn.TransformerEncoderLayer(D, 2, 8, dropout=0.1, batch_first=True),
    ),
    "attention": lambda: Actor(
        lambda s, x: s.layer(x, x, x, need_weights=False)[0].mean(1),
        layer=nn.MultiheadAttention(D, 2, batch_first=True),
    ),
    "function": lambda: Actor(
        lambda s, x: F.scaled_dot_product_attention(*[s.l(x)[:, None]] * 3, is_causal=True)[:, 0, -1],
        l=linear(),
    ),
    "lstm": lambda: Actor(lambda s, x: s.layer(x)[0][:, -1], layer=nn.LSTM(D, D, batch_first=True)),
    "gru": lambda: Actor(lambda s, x: s.layer(x)[0][:, -1], layer=nn.GRU(D, D, batch_first=True)),
    "graph": lambda: Actor(
        lambda s, x: s.l(x).new_zeros(N, 3, D).index_add(1, GROUPS, s.l(x)).tanh().mean(1), l=linear()
    ),
    "largest": lambda: Actor(
        lambda s, x: (
            s.l(x).new_zeros(N, 3, D).scatter_reduce(1, GROUPS[:, None].expand(N, T, D), s.l(x), "amax")[:, 0]
        ),
        l=linear(),
    ),
    "grid": lambda: Actor(
        lambda s, x: F.grid_sample(
            s.l(x)[:, None], s.m(x[:, :2]).reshape(N, 2, 2, 2), align_corners=False
        ).flatten(1),
        l=linear(),
        m=linear(),
    ),
    "sparse": lambda: Actor(lambda s, x: s.e(buckets(x)).mean(1), e=nn.Embedding(10, D, sparse=True)),
}
DIFFERENCES: dict[str, Callable[[], Actor]] = {
    "bag": lambda: Actor(lambda s, x: s.e(buckets(x)), e=nn.EmbeddingBag(10, D)),
    "sparse bag": lambda: Actor(lambda s, x: s.e(buckets(x)), e=nn.EmbeddingBag(10, D, sparse=True)),
    "distance": lambda: Actor(lambda s, x: torch.cdist(s.l(x), s.m(x))[:, 0, :D], l=linear(), m=linear()),
    "hard": lambda: Actor(lambda s, x: F.hardsigmoid(s.l(x[:, 0])), l=linear()),
    "segments": lambda: Actor(
        lambda s, x: torch.segment_reduce(s.l(x).flatten(0, 1), "mean", lengths=torch.full((N,), T)),
        l=linear(),
    ),
    "numpy": lambda: Actor(lambda s, x: Numpy.apply(s.l(x[:, 0])), l=linear()),
}


def checkpointed(*, use_reentrant: bool) -> Actor:
    """Return an actor with a layer whose outputs are computed again in the backward pass."""
    return Actor(
        lambda s, x: checkpoint(lambda z: s.l(z).tanh(), s.m(x[:, 0]), use_reentrant=use_reentrant),
        l=linear(),
        m=linear(),
    )


def observations() -> Tensor:
    """Return N sequences."""
    return oracles.randn(7, N, T, D)


def looped_fisher(actor: nn.Module, states: Tensor) -> Tensor:
    """Return 1/N Σ p s sᵀ over states and actions, the scores s by one backward pass each."""
    parameters = list(actor.parameters())
    log_p = F.log_softmax(actor(states).logits, -1)
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=log_p.dtype)
    total = torch.outer(total, total)
    for entry in log_p.flatten():
        parts = torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
        score = torch.cat([part.to_dense().flatten() for part in parts])
        total += entry.exp().detach() * torch.outer(score, score) / len(log_p)
    return total


@pytest.mark.parametrize("operator", [ExactFisher, KLHessian])
@pytest.mark.parametrize("name", [*EXACT, pytest.param("checkpoint", marks=pytest.mark.slow)])
def test_kernels_with_a_second_derivative_are_found(name: str, operator: Any) -> None:
    """Products are exact, without a warning."""
    actor = checkpointed(use_reentrant=False) if name == "checkpoint" else EXACT[name]()
    states = observations()
    vector = oracles.randn(3, FlatParameters(actor).size)
    reference = looped_fisher(actor, states) @ vector
    for size in (None, N if name in ("graph", "largest", "grid") else 2):  # those have N in their function
        with warnings.catch_warnings(action="error"):
            product = operator(actor, states, micro_batch_size=size) @ vector
        assert float((product - reference).abs().max()) <= 1e-12 * float(reference.abs().max())


@pytest.mark.parametrize("operator", [ExactFisher, KLHessian])
@pytest.mark.parametrize("name", DIFFERENCES)
def test_other_functions_use_differences_and_say_so_once(name: str, operator: Any) -> None:
    """One warning names the reason; the next operator of the actor is silent."""
    actor, states = DIFFERENCES[name](), observations()
    vector = oracles.randn(3, FlatParameters(actor).size)
    reference = looped_fisher(actor, states) @ vector
    with pytest.warns(RuntimeWarning, match="cannot be differentiated twice.*finite differences") as caught:
        first = operator(actor, states)
    assert len(caught) == 1
    with warnings.catch_warnings(action="error"):
        second = operator(actor, states)
    for fisher in (first, second):
        assert float((fisher @ vector - reference).abs().max()) <= 1e-6 * float(reference.abs().max())


def test_attention_in_float32() -> None:
    """The fused kernel of float32 is exchanged, too."""
    states = observations()
    vector = oracles.randn(3, FlatParameters(EXACT["encoder"]()).size)
    double = looped_fisher(EXACT["encoder"](), states) @ vector
    single = ExactFisher(EXACT["encoder"]().float(), states.float()) @ vector.float()
    assert float((single.double() - double).abs().max()) <= 1e-5 * float(double.abs().max())


def test_the_critics_kernels_are_restored() -> None:
    """What torch chooses after an operator was made is what it chose before."""
    before = torch.backends.cuda.flash_sdp_enabled(), torch.backends.mha.get_fastpath_enabled()
    ExactFisher(EXACT["attention"](), observations())
    after = torch.backends.cuda.flash_sdp_enabled(), torch.backends.mha.get_fastpath_enabled()
    assert before == after == (True, True)


@pytest.mark.filterwarnings("ignore:no Kronecker factors are known")
@pytest.mark.parametrize("name", ["attention", "bag"])
def test_k_fac_has_exact_blocks_of_such_modules(name: str) -> None:
    """A small container's parameters have an exact block, here by another kernel or by differences."""
    actor, states = (EXACT | DIFFERENCES)[name](), observations()
    if name == "bag":  # a container, so that its block is exact
        actor.e.add_module("nothing", nn.Identity())
    warned = pytest.warns(RuntimeWarning, match="finite diff") if name == "bag" else contextlib.nullcontext()
    with warned:
        dense = KroneckerFisher(actor, states).to_dense()
    size = 60 if name == "attention" else 40  # in_proj's weight and bias, or the embedding
    reference = looped_fisher(actor, states)[:size, :size]
    assert float((dense[:size, :size] - reference).abs().max()) <= 1e-6 * float(reference.abs().max())


class Padded(nn.Module):
    """An encoder of sequences of several lengths, whose outputs are averaged over padding, too."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(D, 2, 8, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(D, 3)
        self.eval()

    def forward(self, x: Tensor) -> Categorical:
        """Return the policy at sequences of lengths 1 to T."""
        hidden = torch.arange(T) >= 1 + torch.arange(len(x))[:, None] % T
        return Categorical(self.head(self.encoder(x, src_key_padding_mask=hidden).mean(1)))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_policy_is_the_same_without_gradients() -> None:
    """Torch's fast path has zeros in place of padded outputs: without it, KL(θ ‖ θ) = 0 and no gain."""
    actor, states = Padded(), observations().float()
    objective = SurrogateObjective(actor, states, torch.zeros(N, dtype=torch.long), torch.ones(N))
    nowhere = objective.evaluate(torch.zeros(FlatParameters(actor).size))
    assert nowhere.kl <= 1e-12
    assert abs(nowhere.gain) <= 1e-6
    with torch.no_grad():  # what it would be
        fast = actor(states)
    assert float(actor(states).snapshot().kl(fast).mean()) > 1e-4


@pytest.mark.parametrize("name", ["encoder", "distance"])
def test_a_captured_step_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice is made before the capture, so that CapturedStep gives the direct step."""
    actor, states = (EXACT | DIFFERENCES)[name](), observations()
    actions, advantages = torch.arange(N) % 3, oracles.randn(1, N)
    with fake_graphs(monkeypatch), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        fisher = ExactFisher(actor, states)
        direct = trust_region_step(SurrogateObjective(actor, states, actions, advantages), fisher)
        fresh = (EXACT | DIFFERENCES)[name]()
        captured = CapturedStep(fresh, ExactFisher)
        step = captured.trust_region_step(SurrogateObjective(fresh, states, actions, advantages))
    assert captured.failure is None
    assert direct.accepted
    torch.testing.assert_close(step.displacement, direct.displacement, rtol=1e-6, atol=1e-9)


@pytest.mark.slow  # checkpoint imports the compiler
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_an_actor_without_any_derivative_is_rejected() -> None:
    """Reentrant checkpoints have no gradient by torch.autograd.grad; torch's advice is kept."""
    with pytest.raises(TypeError, match=r"Actor cannot be differentiated: .*use_reentrant=False"):
        ExactFisher(checkpointed(use_reentrant=True), observations())
