"""A constructor for every Fisher operator, and the dense matrix that each stands for."""

from collections.abc import Callable
from typing import Any

import oracles
import torch
from torch import Tensor, nn

from npg import (
    BlockDiagonalFisher,
    DiagonalFisher,
    EigenvalueCorrectedFisher,
    EmpiricalFisher,
    ExactFisher,
    FiniteDifferenceFisher,
    KLHessian,
    KroneckerFisher,
    LikelihoodHessian,
    LinearOperator,
    SampledFisher,
)

Operator = Callable[..., LinearOperator]


def empirical(actor: nn.Module, observations: Any, **options: Any) -> EmpiricalFisher:
    """The empirical matrix of actions that depend on their own state alone."""
    return EmpiricalFisher(actor, observations, oracles.actions_of(actor, observations), **options)


def likelihood(actor: nn.Module, observations: Any, **options: Any) -> LikelihoodHessian:
    """The Hessian at the same actions."""
    return LikelihoodHessian(actor, observations, oracles.actions_of(actor, observations), **options)


def sampled(actor: nn.Module, observations: Any, **options: Any) -> SampledFisher:
    """Three actions a state from a generator of its own."""
    return SampledFisher(actor, observations, samples=3, generator=oracles.generator(3), **options)


# The same matrix, exactly, for any data; a part of the data has a part of the sum.
OPERATORS: dict[str, Operator] = {
    "exact": ExactFisher,
    "kl": KLHessian,
    "difference": FiniteDifferenceFisher,
    "empirical": empirical,
    "likelihood": likelihood,
    "diagonal": DiagonalFisher,
    "block": BlockDiagonalFisher,
    "kronecker": KroneckerFisher,
    "corrected": EigenvalueCorrectedFisher,
}
EVERY: dict[str, Operator] = OPERATORS | {"sampled": sampled}
INVERTIBLE = ("diagonal", "block", "kronecker", "corrected")

# Relative to the largest entry. A forward difference errs by √eps, see npg/jacobian.py.
TOLERANCES = {"difference": 1e-6}


def dense(name: str, actor: "oracles.RandomActor | oracles.Stack", observations: Tensor) -> Tensor:
    """Return by slow means the matrix that an operator should be."""
    match name:
        case "empirical":
            return oracles.empirical_fisher(actor, observations, oracles.actions_of(actor, observations))
        case "likelihood":
            return oracles.likelihood_hessian(actor, observations, oracles.actions_of(actor, observations))
        case "diagonal":
            return torch.diag(oracles.enumerated_fisher(actor, observations).diagonal())
        case "block":
            return oracles.within_modules(oracles.enumerated_fisher(actor, observations), actor)
        case "kronecker" | "corrected":
            return oracles.layerwise(actor, observations, corrected=name == "corrected")
    return oracles.enumerated_fisher(actor, observations)
