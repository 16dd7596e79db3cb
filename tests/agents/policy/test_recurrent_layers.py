"""The recurrent layers against torch's, and their Fisher matrix against one from torch's layers."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agents.policy.recurrent.layers import CELLS, RecurrentLayers
from agents.policy.recurrent.sequences import Sequences
from npg import Categorical, DiagGaussian, Distribution, ExactFisher, FiniteDifferenceFisher, KLHessian
from npg.states import count_states, micro_batches, select

LENGTHS = (3, 1, 4, 2)
INPUTS, UNITS = 2, 3
TORCH = {"lstm": nn.LSTM, "gru": nn.GRU}


class Actor(nn.Module):
    """Two recurrent layers and a head, computed by ours or, sequence by sequence, by torch's."""

    def __init__(self, cell: str, gaussian: bool, own: bool = True, bias: bool = True):
        super().__init__()
        self.layers: RecurrentLayers = CELLS[cell](INPUTS, UNITS, 2, bias=bias)
        self.head = nn.Linear(UNITS, 3)
        self.cell, self.own = cell, own
        self.log_std = nn.Parameter(torch.zeros(3)) if gaussian else None

    def outputs(self, sequences: Sequences) -> Tensor:
        """Return the layers' outputs, (N, H)."""
        if self.own:
            return self.layers(sequences.observations, sequences.packing, sequences.states)[0]
        parts = sequences.observations.split(sequences.lengths)
        found = []
        for i, part in enumerate(parts):
            state = sequences.states[:, :, i : i + 1].contiguous()
            given = tuple(state) if self.cell == "lstm" else state[0]
            found.append(TORCH[self.cell].forward(self.layers, part.unsqueeze(1), given)[0][:, 0])
        return torch.cat(found)

    def forward(self, sequences: Sequences) -> Distribution:
        """Return the distribution at every state."""
        logits = self.head(self.outputs(sequences))
        return Categorical(logits) if self.log_std is None else DiagGaussian(logits, self.log_std)


def make(cell: str, gaussian: bool = False, **kwargs: bool) -> tuple[Actor, Sequences]:
    """Return an actor and its input, in float64; with a seed, equal ones."""
    torch.manual_seed(0)
    actor = Actor(cell, gaussian, **kwargs).double()
    states = torch.randn(actor.layers.cell.parts, 2, len(LENGTHS), UNITS, dtype=torch.float64)
    return actor, Sequences(torch.randn(sum(LENGTHS), INPUTS, dtype=torch.float64), LENGTHS, states)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_outputs_and_derivatives_are_torchs(cell: str, bias: bool) -> None:
    """Outputs, Jᵀu, and Jv by differentiating Jᵀu, for sequences of several lengths."""
    found = []
    for own in (True, False):
        actor, sequences = make(cell, own=own, bias=bias)
        outputs, parameters = actor.outputs(sequences), list(actor.layers.parameters())
        torch.manual_seed(1)
        u = torch.randn_like(outputs).requires_grad_()
        pulled = torch.autograd.grad(outputs, parameters, u, create_graph=True)
        pushed = torch.autograd.grad(pulled, u, [torch.randn_like(p) for p in parameters])
        found.append((outputs, *pulled, *pushed))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("cell", CELLS)
def test_state_by_state(cell: str) -> None:
    """Sequences of one state, with the states passed on, give the same; that is how a rollout acts."""
    actor, sequences = make(cell)
    together = actor.outputs(sequences).split(LENGTHS)
    for i, part in enumerate(sequences.observations.split(LENGTHS)):
        states = sequences.states[:, :, i : i + 1]
        for t, x in enumerate(part):
            output, states = actor.layers(x.unsqueeze(0), None, states)
            torch.testing.assert_close(output[0], together[i][t], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("gaussian", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_fisher_is_the_dense_one(cell: str, gaussian: bool) -> None:
    """Products equal those of 1/N Σ JᵀMJ, with J from torch's layers, sequence by sequence."""
    actor, sequences = make(cell, gaussian)
    reference, _ = make(cell, gaussian, own=False)
    tensors = list(reference.parameters())
    policy = reference(sequences)
    jacobians = []
    for z in policy.coordinates:
        basis = torch.eye(z.numel(), dtype=z.dtype).reshape(-1, *z.shape)
        rows = [torch.autograd.grad(z, tensors, e, retain_graph=True, materialize_grads=True) for e in basis]
        jacobians.append(torch.stack([torch.cat([part.flatten() for part in row]) for row in rows]))
    jacobian, shapes = torch.cat(jacobians), [z.shape for z in policy.coordinates]
    vectors = torch.randn(3, jacobian.shape[1], dtype=torch.float64)
    dense = []
    for vector in vectors:
        parts = (jacobian @ vector).split([shape.numel() for shape in shapes])
        pushed = tuple(part.view(shape) for part, shape in zip(parts, shapes, strict=True))
        product = policy.snapshot().fisher_product(pushed)
        dense.append(jacobian.T @ torch.cat([part.flatten() for part in product]) / sum(LENGTHS))
    for micro_batch_size in (None, 5):
        fisher = ExactFisher(actor, sequences, micro_batch_size=micro_batch_size)
        found = torch.stack([fisher @ vector for vector in vectors])
        torch.testing.assert_close(found, torch.stack(dense), rtol=1e-10, atol=1e-13)
    difference = FiniteDifferenceFisher(actor, sequences)
    torch.testing.assert_close(difference @ vectors[0], dense[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_no_sequence_depends_on_another(cell: str) -> None:
    """Alone, in other company and in another order, a sequence has the same distributions, exactly enough."""
    actor, sequences = make(cell)
    alone = torch.cat([actor.outputs(sequences.take(np.array([i]))) for i in range(len(LENGTHS))])
    torch.testing.assert_close(actor.outputs(sequences), alone, rtol=1e-13, atol=1e-14)
    order = np.array([2, 0, 3, 1])
    moved = torch.as_tensor(sequences.states_of(order))
    torch.testing.assert_close(actor.outputs(sequences.take(order)), alone[moved], rtol=1e-13, atol=1e-14)


def test_second_derivatives_are_an_error() -> None:
    """They are not implemented, and must not be silently wrong."""
    actor, sequences = make("lstm")
    with pytest.raises(TypeError, match="no second derivatives"):
        _ = (fisher := KLHessian(actor, sequences)) @ torch.ones(fisher.size, dtype=torch.float64)


def test_sequences_are_selected_whole() -> None:
    """By the indices of all of their states, in any order of sequences; parts of one are an error."""
    _, sequences = make("gru")
    assert count_states(sequences) == len(sequences) == 10
    chosen = select(sequences, torch.tensor([8, 9, 3]))
    assert chosen.lengths == (2, 1)
    torch.testing.assert_close(chosen.observations, sequences.observations[[8, 9, 3]])
    torch.testing.assert_close(chosen.states, sequences.states[:, :, [3, 1]])
    for wrong in (slice(0, 2), slice(1, 4), slice(0, None, 2), torch.tensor([3, 4])):
        with pytest.raises(ValueError, match="whole sequences"):
            sequences.select(wrong)


def sizes(size: int) -> Iterator[tuple[int, ...]]:
    """Yield the lengths of the sequences in micro-batches."""
    _, sequences = make("gru")
    further = torch.arange(10)
    for part, rows in micro_batches((sequences, further), size):
        assert len(part) == len(rows)
        torch.testing.assert_close(part.observations, sequences.observations[rows])
        yield part.lengths


def test_micro_batches_have_whole_sequences() -> None:
    """As many as fit; a longer sequence is alone."""
    assert list(sizes(4)) == [(3, 1), (4,), (2,)]
    assert list(sizes(3)) == [(3,), (1,), (4,), (2,)]
    assert list(sizes(100)) == [LENGTHS]
    assert list(sizes(1)) == [(length,) for length in LENGTHS]


def test_a_rollout_is_divided_at_the_starts() -> None:
    """Environment by environment; only episodes that started before keep their recurrent states."""
    starts = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 1], [0, 0, 0]], dtype=np.float32)
    before = torch.randn(2, 1, 3, 4)
    sequences = Sequences.of_rollout(torch.arange(12.0), starts, before)
    assert sequences.lengths == (4, 2, 2, 1, 1, 2)
    for sequence, environment in {0: None, 1: 1, 2: None, 3: 2, 4: None, 5: None}.items():
        expected = torch.zeros(2, 1, 4) if environment is None else before[:, :, environment]
        torch.testing.assert_close(sequences.states[:, :, sequence], expected)
