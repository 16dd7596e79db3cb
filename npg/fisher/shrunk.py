"""The exact Fisher matrix of a few states, shrunk towards the K-FAC matrix of all states."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from npg import host
from npg.fisher.kfac import KroneckerFisher
from npg.fisher.low_rank import LowRankUpdate
from npg.fisher.root_scores import root_scores
from npg.linear_operator import InvertibleScaled
from npg.parameters import FlatParameters
from npg.states import count_states, select


class ShrunkFisher(LowRankUpdate):
    """The matrix (1 − ρ) F_m + ρ K.

    F_m is the exact Fisher matrix of m of the N states, evenly spaced, and K the `KroneckerFisher` of all N.
    F_m is exact in the directions to which its states are sensitive, including the coupling between layers,
    which K lacks. But its rank is at most mC, with C the number of the distribution's coordinates; K covers
    the other directions. Early in training F_m alone (ρ → 0) is as good or better; later, when m states
    represent F less well, K saves up to a quarter of the iterations (`benchmarks/preconditioning.py`). The
    sum is inverted by Woodbury's identity.

    It is meant as a preconditioner for conjugate gradient, not as an approximation of F in a norm: ρ = 0.02
    and m = 128 minimise iterations on policies of Hopper-v5 at damping 10⁻². It saves products with F, but
    saves time only if these are expensive: with 2048 states and 5000 parameters, building it and solving with
    it takes about as long on a CPU as solving without it. With ρ = 1 it is K-FAC; with m = N it tends to F as
    ρ → 0.

    Shrinkage towards a structured target: Ledoit & Wolf 2004, "A well-conditioned estimator for
    large-dimensional covariance matrices". A sub-sampled Fisher matrix inverted by Woodbury's identity, with
    a multiple of the identity instead of K: Ren & Goldfarb 2019, "Efficient subsampled Gauss-Newton and
    natural gradient methods for training neural networks".

    It stores up to mC·P numbers: 8 MB in float32 for a Gaussian of 3 dimensions with 5000 parameters, but
    3.5 GB for NatureCNN's 1.7 million with 4 discrete actions; use a smaller m there. Its inverse stores as
    many again, and twice as many while it is computed. Building takes C backward passes over all states, and
    C over the m states under `torch.func.vmap`, which must support the actor.

    There is no `reduce`: the inverse needs the root scores themselves, and a process has only those of its
    own states. So every process has its own matrix.

    Args:
        actor: a module whose forward maps observations to an npg distribution, in evaluation mode.
        observations: input of `actor`, N states: tensors, or tuples, lists and dictionaries of them.
        states: m; at most N are used.
        shrinkage: ρ, in (0, 1].
        micro_batch_size: states sent through the actor at a time, for F_m and for K; None for as many as
            `KroneckerFisher` and `root_scores` choose.

    Raises:
        ValueError: there is no state, the distribution depends on no trainable parameter, a layer or a
            parameter is used twice, or an argument is out of range.
        TypeError: the actor does not return an npg distribution, is of half precision, or cannot run under
            vmap; or the observations contain something other than tensors.
        FloatingPointError: a statistic is not finite.
    """

    def __init__(
        self,
        actor: nn.Module,
        observations: Any,
        *,
        states: int = 128,
        shrinkage: float = 0.02,
        micro_batch_size: int | None = None,
    ):
        if states < 1:
            raise ValueError(f"states must be at least 1 with an exact Fisher matrix, got {states}")
        if not 0 < shrinkage <= 1:
            raise ValueError(f"shrinkage must be in (0, 1], the weight of K-FAC; got {shrinkage}")
        kronecker = KroneckerFisher(actor, observations, micro_batch_size=micro_batch_size)
        few = select(observations, _strided(count_states(observations), states))
        rows = _rows(actor, few, micro_batch_size)
        kronecker_part = InvertibleScaled(shrinkage, kronecker.operator())
        super().__init__(kronecker_part, rows.mul_(math.sqrt(1 - shrinkage)))


def _strided(states: int, most: int) -> Tensor:
    """Return the indices of at most `most` of the states, evenly spaced."""
    m = min(states, most)
    return torch.arange(m) * states // m


def _rows(actor: nn.Module, observations: Any, micro_batch_size: int | None) -> Tensor:
    """Return R, of P columns and at most mC rows; RᵀR is the mean of the states' exact Fisher matrices."""
    parameters = FlatParameters(actor).named()
    parts = root_scores(actor, observations, parameters, micro_batch_size)
    rows = torch.cat([torch.cat([row.flatten(2) for row in part], -1) for part in parts])
    # A root score that is the same in all states, e.g. that of a log standard deviation, needs only one row.
    same = host.read(**{str(k): flag for k, flag in enumerate((rows == rows[0]).all(-1).all(0))})
    differing, equal = ([k for k, flag in enumerate(same.values()) if flag == kind] for kind in (0, 1))
    return torch.cat([rows[:, differing].flatten(0, 1) / math.sqrt(len(rows)), rows[0, equal]])
