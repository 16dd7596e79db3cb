"""Root scores: the rows of R = Bᵀ J, with M = B Bᵀ the metric of a state's distribution and J its Jacobian.

There are K per state, K being the number of the distribution's coordinates. F = 1/N Σ_s Rᵀ R is exact, since
it is an expectation over all actions.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import vjp, vmap

from npg.distributions import Coordinates, Distribution
from npg.kernels import differentiable_kernels
from npg.policy import call_with, evaluate
from npg.states import check_micro_batch_size, each, micro_batches

# Numbers in the root scores held in memory at a time if the caller sets no micro-batch: 128 MB in float32.
NUMBERS_AT_A_TIME = 2**25


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
        parameters: {name: parameter of the actor} to differentiate by, all of them or some.
        micro_batch_size: n, the number of states at a time; by default as many as fit into
            `NUMBERS_AT_A_TIME`.

    Yields:
        One tensor per parameter, (n, K, *shape of the parameter).

    Raises:
        ValueError: see `DiagonalFisher`.
        TypeError: see `DiagonalFisher`.
    """
    check_micro_batch_size(micro_batch_size)
    with torch.enable_grad():
        first = evaluate(actor, next(micro_batches(observations, 1))).coordinates
    sizes = [z.shape[-1] for z in first]
    states = first[0].shape[:-1].numel()  # per entry of the observations' first dimension, which may be time
    unit = torch.eye(states * sum(sizes), dtype=first[0].dtype, device=first[0].device)
    columns = unit.view(len(unit), states, sum(sizes))

    def as_batch(entry: Tensor) -> Tensor:
        return entry.unsqueeze(0)

    def rows_of_state(state: Any) -> dict[str, Tensor]:
        def policy(theta: dict[str, Tensor]) -> tuple[Tensor, ...]:
            distribution: Distribution = call_with(theta, actor, each(as_batch, state))
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
            with differentiable_kernels():  # fused ones have no rule for vmap
                rows = vmap(rows_of_state)(part)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise TypeError(
                "per-state derivatives need an actor that runs under torch.func.vmap, and "
                f"{type(actor).__name__} does not: {error}"
            ) from error
        yield [rows[name].detach().reshape(-1, sum(sizes), *p.shape) for name, p in parameters.items()]


def white_noise(
    coordinates: Coordinates, samples: int | None, generator: Generator | None
) -> Iterator[Coordinates]:
    """Yield white noise shaped as the coordinates: k draws of random signs / √k, or all unit vectors."""
    if samples is None:
        for i, z in enumerate(coordinates):
            for k in range(z.shape[-1]):
                white = [torch.zeros_like(other) for other in coordinates]
                white[i][..., k] = 1
                yield tuple(white)
        return
    for _ in range(samples):
        bits = [torch.randint(2, z.shape, generator=generator, device=z.device) for z in coordinates]
        yield tuple((2 * bit - 1).to(z) / samples**0.5 for bit, z in zip(bits, coordinates, strict=True))
