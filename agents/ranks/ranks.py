"""The collectives of data-parallel training, on the default process group of `torch.distributed`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch import distributed as dist

# Vectors of up to this many numbers are gathered and added by each rank, since a ring gathers in half as many
# messages as it reduces. Longer ones are reduced, which sends fewer bytes on more than two ranks.
GATHERED = 16_384


class RankError(RuntimeError):
    """The ranks differ, or one of them does not answer; training cannot go on."""


@dataclass(frozen=True)
class Ranks:
    """The processes that train one agent together.

    Every rank calls the same methods in the same order; each call blocks until all ranks have made it. With
    one rank, nothing is communicated and tensors are returned as they are.

    Attributes:
        rank: the number of this process, from 0.
        size: the number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Self:
        """Return the ranks of the default process group, or one rank if it is not initialised."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def several(self) -> bool:
        """Whether there is more than one rank."""
        return self.size > 1

    def mean(self, mean: Tensor, states: int) -> Tensor:
        """Return the mean over the states of all ranks: the `reduce` of `npg`'s operators.

        Args:
            mean: the mean over this rank's states, of any shape; not read if there are none.
            states: the number of this rank's states.
        """
        if not self.several:
            return mean
        count = mean.new_tensor([float(states)])
        total = mean.detach().reshape(-1) * states if states else mean.new_zeros(mean.numel())
        packed = torch.cat([total, count])
        if packed.numel() <= GATHERED:
            packed = self._gathered(packed, "the mean over states").sum(0)
        else:
            with self._named("the mean over states"):
                dist.all_reduce(packed)
        return (packed[:-1] / packed[-1]).view(mean.shape)

    def moments(self, values: Tensor) -> tuple[Tensor | int, Tensor, Tensor]:
        """Return number, mean and variance of the values (n, ...) of all ranks, along the first dimension.

        The variance is that within ranks plus that of their means (Chan, Golub & LeVeque 1979).
        """
        own, variance, states = values.mean(0), values.var(0, correction=0), len(values)
        if not self.several:
            return states, own, variance
        packed = torch.cat([own.new_tensor([float(states)]), own.reshape(-1), variance.reshape(-1)])
        parts = self._gathered(packed, "the moments over states")
        counts, means, variances = parts.split([1, own.numel(), own.numel()], dim=1)
        number = counts.sum()
        mean = (counts * means).sum(0) / number
        variance = (counts * (variances + (means - mean).square())).sum(0) / number
        return number, mean.view(own.shape), variance.view(own.shape)

    def _gathered(self, vector: Tensor, what: str) -> Tensor:
        parts = [torch.empty_like(vector) for _ in range(self.size)]
        with self._named(what):
            dist.all_gather(parts, vector)
        return torch.stack(parts)

    def sum(self, count: int) -> int:
        """Return the sum of a count over ranks."""
        return sum(self.gather(count, "a count"))

    def gather(self, value: Any, what: str) -> list[Any]:
        """Return the values (anything that can be pickled) of all ranks, in order; `what` names them."""
        if not self.several:
            return [value]
        values: list[Any] = [None] * self.size
        with self._named(what):
            dist.all_gather_object(values, value)
        return values

    def first(self, value: Any, what: str) -> Any:
        """Return rank 0's value (anything that can be pickled) on all ranks; `what` names it in errors."""
        if not self.several:
            return value
        values = [value]
        with self._named(what):
            dist.broadcast_object_list(values, 0)
        return values[0]

    def of_first(self, tensor: Tensor, what: str) -> Tensor:
        """Return rank 0's tensor; those of the others give shape and dtype. `what` names it in errors."""
        if self.several:
            tensor = tensor.detach().clone()
            with self._named(what):
                dist.broadcast(tensor, 0)
        return tensor

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # of the process group: a rank died, or did not answer in time
            raise RankError(
                f"rank {self.rank} of {self.size} was waiting for {what}, and another rank did not answer: "
                f"it died, failed or hangs. {str(error).strip().splitlines()[0]:.300}"
            ) from error


ONE = Ranks()  # without data parallelism
