"""The block diagonal of the exact Fisher matrix: the mean of outer products of root scores."""

from typing import Any

import torch
from torch import nn

from npg.fisher.blocks import BlockDiagonal, Dense
from npg.fisher.root_scores import root_scores
from npg.parameters import FlatParameters
from npg.reduction import Reduce, identity


class BlockDiagonalFisher(BlockDiagonal):
    """F within each module, and zero between different modules.

    The weight and bias of a module form one dense block, which suits modules of up to a few thousand
    parameters. Arguments and errors are those of `DiagonalFisher`.

    Attributes:
        blocks: {module's name: (P_b, P_b)}, in the order of the flat vector. The name of the actor itself,
            for parameters that belong to no submodule, is "".
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
        self.blocks = {name: reduce(total / states, states) for name, total in sums.items()}
        super().__init__([Dense(matrix) for matrix in self.blocks.values()])
