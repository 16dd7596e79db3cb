"""The diagonal of the exact Fisher matrix: the mean of the squares of root scores."""

from typing import Any

import torch
from torch import nn

from npg.fisher.blocks import Diagonal
from npg.fisher.root_scores import root_scores
from npg.parameters import FlatParameters
from npg.reduction import Reduce, identity


class DiagonalFisher(Diagonal):
    """diag(F), exactly.

    It takes K backward passes, K being the number of the distribution's coordinates, with one state at a time
    under `torch.func.vmap`, which must support the actor.

    Args:
        actor: a module whose forward maps observations to an npg distribution, in evaluation mode.
        observations: input of `actor`, N states.
        micro_batch_size: number of states whose root scores are in memory at a time; by default as many as
            fit into `NUMBERS_AT_A_TIME`.
        reduce: maps the mean over this process's states to that over all processes; see `npg.reduction`.

    Attributes:
        diagonal: (P,).

    Raises:
        ValueError: there is no state, the distribution depends on no trainable parameter, or
            micro_batch_size < 1.
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
        super().__init__(reduce(total / states, states))
