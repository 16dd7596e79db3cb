"""K-FAC: the Fisher matrix as one Kronecker product per layer, with running averages.

For a linear layer s = W ā, where ā is the input with a 1 appended for the bias, the gradient with respect to
W is g āᵀ, where g is the gradient with respect to s. The layer's block of the Fisher matrix is
E[āāᵀ ⊗ ggᵀ], which K-FAC replaces by

    A ⊗ G,   A = E[āāᵀ],   G = E[ggᵀ],

as if inputs and gradients were independent (Martens & Grosse 2015, arXiv:1503.05671). A convolution sums over
T positions: A = E[Σ_t ā_t ā_tᵀ], G = E[Σ_t g_t g_tᵀ] / T (Grosse & Martens 2016, arXiv:1602.01407).
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn

from npg import host
from npg.fisher.blocks import BlockDiagonal
from npg.fisher.layers import check_owners
from npg.fisher.memory import check_memory
from npg.fisher.module_blocks import ModuleBlocks
from npg.fisher.passes import Pass, pass_through
from npg.linear_operator import InvertibleOperator, RelativelyDamped
from npg.parameters import FlatParameters
from npg.reduction import Reduce, identity
from npg.states import check_micro_batch_size, micro_batches

Averages = dict[str, tuple[Tensor, ...]]


class KroneckerFisher(InvertibleOperator):
    """The Fisher matrix with one diagonal block per module, which is A ⊗ G for layers.

    Linear and Conv2d layers are Kronecker-factored. Parameters outside any layer, e.g. a log standard
    deviation, have an exact block if they are few. For any other module, e.g. a parametrised layer, only the
    diagonal of its block is used, with a warning. The matrix is exact for a policy of one linear layer whose
    metric is the same in every state.

    Args:
        actor: a module whose forward maps observations to an npg distribution, in evaluation mode.
        observations: input of `actor`, N states; None to start without statistics.
        samples: number of sums of a state's root scores, with random signs, to use instead of the root scores
            themselves: unbiased, with one backward pass each. None uses every root score, without noise.
        generator: source of the signs, on the policy's device; torch's global one by default.
        micro_batch_size: states sent through the actor at a time; None for all of them.
        reduce: maps the mean over this process's states to that over all processes; see `npg.reduction`.

    Attributes:
        parameters: the actor's trainable parameters, in the order of the flat vector.
        averages: {module's name: (A, G), (block,) or (diagonal,)}, empty before the first statistics.
        damping_units: {module's name: c, the unit in which its block is damped, B + cλI}; 1 if not listed.

    Raises:
        ValueError: there is no state, the distribution depends on no trainable parameter, a layer or a
            parameter is used twice, the factors do not fit the memory, or an argument is out of range.
        TypeError: the actor does not return an npg distribution, or is of half precision.
        FloatingPointError: a statistic is not finite.
    """

    def __init__(
        self,
        actor: nn.Module,
        observations: Any = None,
        *,
        samples: int | None = None,
        generator: Generator | None = None,
        micro_batch_size: int | None = None,
        reduce: Reduce = identity,
    ):
        check_owners(actor)
        check_micro_batch_size(micro_batch_size)
        if samples is not None and samples < 1:
            raise ValueError(
                f"samples must be at least 1 random sign per state, or None for all; got {samples}"
            )
        self._actor = actor
        self._samples = samples
        self._generator = generator
        self._micro_batch_size = micro_batch_size
        self._reduce = reduce
        self.parameters = FlatParameters(actor)
        super().__init__(*self.parameters.space)
        if self.dtype in (torch.float16, torch.bfloat16):
            raise TypeError(f"K-FAC needs parameters of float32 or float64, got {self.dtype}")
        self._modules = ModuleBlocks(actor, self.parameters)
        self.layers = self._modules.layers
        check_memory(self._modules.shapes(), self.parameters.tensors[0])
        self.averages: Averages = {}
        self.damping_units: Mapping[str, float] = {}
        if observations is not None:
            self.update(observations)

    def update(self, observations: Any, *, decay: float = 0.0) -> None:
        """Add the statistics of more states to the running averages, all of them or none.

        Args:
            observations: N states.
            decay: weight of the averages so far, in [0, 1); it does not apply to the first statistics.

        Raises:
            FloatingPointError: a statistic is not finite; nothing was changed.
            ValueError: see the class.
        """
        averages, finite = self.updated(observations, decay=decay)
        check_finite(host.read(**finite))
        self.averages = averages

    def updated(self, observations: Any, *, decay: float = 0.0) -> tuple[Averages, dict[str, Tensor]]:
        """Return the averages after an `update`, without a host read.

        Returns:
            The averages, and {module's name: whether its statistics are finite, 0-d}.
        """
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        new = self._statistics(observations)
        for name, olds in self.averages.items():
            new[name] = tuple(torch._foreach_lerp(list(olds), list(new[name]), 1 - decay))
        return new, finite_by_module(new)

    def _statistics(self, observations: Any) -> Averages:
        """Return the averages over these states alone."""
        sums: dict[str, list[Tensor]] = {}
        states = 0
        for through in self.passes(observations):
            for name, values in self._modules.sums(through, sampled=self._samples is not None).items():
                if name in sums:
                    torch._foreach_add_(sums[name], values)
                else:
                    sums[name] = values
            states += through.states
        if self._samples is None:
            sums |= self._modules.exact_diagonals(observations, self._micro_batch_size)
        return {
            name: tuple(self._reduce(total / states, states) for total in sums[name])
            for name in self._modules.shapes()
        }

    def passes(self, observations: Any) -> Iterator[Pass]:
        """Yield passes through the layers, one per micro-batch."""
        size = self._micro_batch_size
        for part in (observations,) if size is None else micro_batches(observations, size):
            yield pass_through(
                self._actor,
                self.layers,
                {} if self._samples is None else self._modules.tensors_with_a_diagonal(),
                part,
                samples=self._samples,
                generator=self._generator,
            )

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the product with the matrix of the current averages."""
        return self.operator().matvec(vector)

    def damped(self, damping: float) -> BlockDiagonal:
        """Return the matrix that `inverse(damping)` inverts: factored Tikhonov damping in every layer."""
        return self.operator().damped(damping)

    def unchecked_inverse(self, damping: float = 0.0) -> tuple[BlockDiagonal, dict[str, Tensor]]:
        """Return the inverse of `damped(damping)`, for the current averages."""
        return self.operator().unchecked_inverse(damping)

    def operator(self) -> BlockDiagonal:
        """Return the matrix of the current averages; later updates do not change it."""
        return BlockDiagonal(list(self.blocks().values()))

    def blocks(self) -> dict[str, InvertibleOperator]:
        """Return {module's name: its block} of the current averages, in the order of the flat vector.

        Raises:
            ValueError: there are no statistics yet.
        """
        if not self.averages:
            raise ValueError("there are no Fisher statistics yet; call update(observations) first")
        return {name: self._block(name, *values) for name, values in self.averages.items()}

    def _block(self, name: str, *statistics: Tensor) -> InvertibleOperator:
        if (unit := self.damping_units.get(name)) is None:
            return self._modules.block(name, *statistics)
        *others, last = statistics
        return RelativelyDamped(unit, self._modules.block(name, *others, last / unit))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages as a flat dictionary of tensors."""
        return {
            f"{name}/{i}": value for name, values in self.averages.items() for i, value in enumerate(values)
        }

    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool = True) -> None:
        """Restore what `state_dict` returned.

        Raises:
            FloatingPointError, ValueError: see `averages_of`; nothing was changed.
        """
        self.averages = self.averages_of(state)

    def averages_of(self, state: Mapping[str, Any]) -> Averages:
        """Return the averages that `state_dict` returned, without restoring them.

        Raises:
            FloatingPointError: a number is NaN or infinite.
            ValueError: they belong to another policy.
        """
        shapes = self._modules.shapes()
        expected = {f"{name}/{i}": shape for name, own in shapes.items() for i, shape in enumerate(own)}
        floats = (torch.float32, torch.float64)
        kinds = {key: getattr(value, "dtype", type(value)) for key, value in state.items()}
        given = {key: (*state[key].shape,) if kind in floats else kind for key, kind in kinds.items()}
        if given and given != expected:
            wrong = sorted(set(given.items()) ^ set(expected.items()), key=str)
            raise ValueError(
                f"these statistics belong to another policy: they differ in {wrong}; load them into a policy "
                "of the same architecture"
            )
        values = {key: value.to(self.device, self.dtype, copy=True) for key, value in state.items()}
        averages = {
            name: tuple(values[f"{name}/{i}"] for i in range(len(own)))
            for name, own in shapes.items()
            if given
        }
        check_finite(host.read(**finite_by_module(averages)))
        return averages


def finite_by_module(averages: Averages) -> dict[str, Tensor]:
    """Return {module's name: whether its statistics are finite, 0-d}."""
    return {
        name: torch.stack(torch._foreach_norm(list(values), math.inf)).isfinite().all()
        for name, values in averages.items()
    }


def check_finite(finite: Mapping[str, float]) -> None:
    """Check statistics before they are used.

    Args:
        finite: `finite_by_module`, read from the device.

    Raises:
        FloatingPointError: some are not finite; the message names their modules.
    """
    if bad := [name or "the policy" for name in finite if not finite[name]]:
        raise FloatingPointError(
            f"the Fisher statistics of {', '.join(bad)} are not finite; the running averages stay as they "
            "were. Look for NaN or infinity in observations and parameters"
        )
