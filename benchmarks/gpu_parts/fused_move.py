"""`npg.cg_attempt.move` with few kernels, compiled by torch's jiterator (NVRTC); for an experiment of part 7.

Between two products with A, conjugate gradient makes about 30 operations, most of them on single numbers.
Here three kernels replace all but the dot products and the norm.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

BEGIN = """
template <typename T>
void begin(T curvature, T weight, T length, T largest, T outcome, T eps,
           T& step, T& moves, T& next_largest, T& code) {
  T relative = curvature / length;
  bool nan = relative != relative || largest != largest;
  next_largest = nan ? relative + largest : (relative > largest ? relative : largest);
  T total = curvature + weight + length;
  bool finite = total - total == T(0) && length > T(0);
  bool positive = weight > T(0) && relative > eps * next_largest;
  moves = outcome == T(0) && finite && positive ? T(1) : T(0);
  step = weight / curvature;
  code = finite ? (positive ? T(0) : T(2)) : T(3);
}
"""
APPLY = """
template <typename T>
void apply(T x, T residual, T direction, T product, T step, T moves, T& next_x, T& next_residual) {
  next_x = moves != T(0) ? x + step * direction : x;
  next_residual = moves != T(0) ? residual - step * product : residual;
}
"""
FINISH = """
template <typename T>
void finish(T norm, T goal, T outcome, T code, T iterations, T moves, T& next_iterations, T& next_outcome) {
  T reached = code == T(0) ? (norm <= goal ? T(1) : T(0)) : code;
  next_outcome = outcome == T(0) ? reached : outcome;
  next_iterations = iterations + moves;
}
"""


@cache
def kernels() -> tuple[Callable[..., Any], ...]:
    """Return the three kernels; they are compiled by their first calls."""
    create = torch.cuda.jiterator._create_multi_output_jit_fn
    return create(BEGIN, 4, eps=0.0), create(APPLY, 2), create(FINISH, 2)


def move(
    x: Tensor,
    residual: Tensor,
    largest_curvature: Tensor,
    iterations: Tensor,
    outcome: Tensor,
    direction: Tensor,
    weight: Tensor,
    product: Tensor,
    goal: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return what `npg.cg_attempt.move` returns; numbers of iterations and outcomes are floats."""
    begin, apply, finish = kernels()
    curvature, length = direction @ product, direction @ direction
    eps = torch.finfo(weight.dtype).eps
    step, moves, largest, code = begin(curvature, weight, length, largest_curvature, outcome, eps=eps)
    x, residual = apply(x, residual, direction, product, step, moves)
    norm = torch.linalg.vector_norm(residual)
    iterations, outcome = finish(norm, goal, outcome, code, iterations, moves)
    return x, residual, largest, iterations, outcome
