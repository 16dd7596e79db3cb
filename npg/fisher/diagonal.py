"""The diagonal and the block diagonal of the exact Fisher matrix.

With M = B Bᵀ the metric of a state's distribution and J its Jacobian, the rows of R = Bᵀ J are *root scores*:
K vectors a state, K being the number of the distribution's coordinates, with F = 1/N Σ_s Rᵀ R exactly, the
action integrated out. The diagonal is the mean of their squares, a block the mean of their outer products.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from npg.distributions import Distribution
from npg.fisher.blocks import BlockDiagonal, Dense, Diagonal
from npg.parameters import FlatParameters
from npg.policy import evaluate
from npg.reduction import Reduce, identity
from npg.states import check_micro_batch_size, each, micro_batches

# Root scores held at a time where the caller names no micro-batch: 128 MB in float32.
NUMBERS_AT_A_TIME = 2**25


class DiagonalFisher(Diagonal):
    """diag(F), each entry exact.

    Built by K passes backward, one state at a time under `torch.func.vmap`, which the actor has to bear.

    Args:
        actor: a module whose forward maps observations to an npg distribution, in evaluation mode.
        observations: what `actor` takes, N states.
        micro_batch_size: states whose root scores are held at a time; by default as many as fit into
            `NUMBERS_AT_A_TIME`.
        reduce: maps a local mean to the mean over all processes.

    Attributes:
        diagonal: (P,).

    Raises:
        ValueError: there is no state, no trainable parameter reaches the distribution, or micro-batches
            would be empty.
        TypeError: the actor does not return an npg distribution, or cannot run under vmap.
    """

    def __init__(
        self,
        actor: nn.Module,
        observations: Any,
        *,
        micro_batch_size: int | None = None,
        reduce: Reduce = identity,
    ):
        parameters = FlatParameters(actor)
        total, states = torch.zeros_like(parameters.vector()), 0
        for rows in root_scores(actor, observations, parameters.named(), micro_batch_size):
            total += parameters.flatten([row.square().sum((0, 1)) for row in rows])
            states += len(rows[0])
        super().__init__(reduce(total / states))


class BlockDiagonalFisher(BlockDiagonal):
    """F between the parameters of one module, and zero between different modules.

    A module's weight and bias make one dense block: for modules of up to a few thousand parameters.
    Arguments not listed, and errors, are those of `DiagonalFisher`.

    Attributes:
        blocks: {module's name: (P_b, P_b)}, in the order of the flat vector; the actor's own parameters
            are under "".
    """

    def __init__(
        self,
        actor: nn.Module,
        observations: Any,
        *,
        micro_batch_size: int | None = None,
        reduce: Reduce = identity,
    ):
        parameters = FlatParameters(actor)
        modules, vector = parameters.by_module(), parameters.vector()
        sums = {name: torch.zeros_like(vector[part].outer(vector[part])) for name, part in modules.items()}
        states = 0
        for rows in root_scores(actor, observations, parameters.named(), micro_batch_size):
            flat = torch.cat([row.flatten(2) for row in rows], -1).flatten(0, 1)
            for name, part in modules.items():
                sums[name].addmm_(flat[:, part].T, flat[:, part])
            states += len(rows[0])
        self.blocks = {name: reduce(total / states) for name, total in sums.items()}
        super().__init__([Dense(matrix) for matrix in self.blocks.values()])


def root_scores(
    actor: nn.Module,
    observations: Any,
    parameters: Mapping[str, Tensor],
    micro_batch_size: int | None = None,
) -> Iterator[list[Tensor]]:
    """Yield the root scores of one micro-batch after another.

    Args:
        actor: maps observations to an npg distribution.
        observations: N states.
        parameters: those of the actor to differentiate by, all of them or some.
        micro_batch_size: n, states at a time.

    Yields:
        A tensor a parameter, (n, K, *shape of the parameter).

    Raises:
        ValueError: see `DiagonalFisher`.
        TypeError: see `DiagonalFisher`.
    """
    check_micro_batch_size(micro_batch_size)
    with torch.enable_grad():
        first = evaluate(actor, next(micro_batches(observations, 1))).coordinates
    sizes = [z.shape[-1] for z in first]
    states = first[0].shape[:-1].numel()  # in one entry of the first dimension: more where that is time
    unit = torch.eye(states * sum(sizes), dtype=first[0].dtype, device=first[0].device)
    columns = unit.view(len(unit), states, sum(sizes))

    def as_batch(entry: Tensor) -> Tensor:
        return entry.unsqueeze(0)

    def rows_of_state(state: Any) -> dict[str, Tensor]:
        def policy(theta: dict[str, Tensor]) -> tuple[Tensor, ...]:
            distribution: Distribution = functional_call(actor, theta, (each(as_batch, state),), strict=False)
            metrics.append(distribution.snapshot())
            return distribution.coordinates

        metrics: list[Distribution] = []
        outputs, pull_back = vjp(policy, dict(parameters))[:2]

        def row(column: Tensor) -> dict[str, Tensor]:
            parts = zip(torch.split(column, sizes, -1), outputs, strict=True)
            white = tuple(part.reshape(z.shape) for part, z in parts)
            gradients: tuple[dict[str, Tensor]] = pull_back(metrics[0].fisher_root_product(white))
            return gradients[0]

        return vmap(row)(columns)

    numbers = len(columns) * sum(p.numel() for p in parameters.values())
    for part in micro_batches(observations, micro_batch_size or max(1, NUMBERS_AT_A_TIME // numbers)):
        try:
            rows = vmap(rows_of_state)(part)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise TypeError(
                "per-state derivatives need an actor that runs under torch.func.vmap, and "
                f"{type(actor).__name__} does not: {error}"
            ) from error
        yield [rows[name].detach().reshape(-1, sum(sizes), *p.shape) for name, p in parameters.items()]
