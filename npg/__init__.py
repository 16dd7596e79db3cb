"""Natural policy gradients on tensors: distributions, Fisher operators, solvers, trust regions.

Needs torch alone: no environments, no files, no logging.
"""

from npg.conjugate_gradient import Solution, Status, conjugate_gradient
from npg.distributions import (
    Bernoulli,
    Categorical,
    DiagGaussian,
    Distribution,
    MultiCategorical,
)
from npg.fisher import ExactFisher, KLHessian
from npg.line_search import LineSearch, backtrack
from npg.linear_operator import Damped, LinearOperator
from npg.objective import Evaluation, SurrogateObjective
from npg.parameters import FlatParameters
from npg.policy_step import PolicyStep, Rejection
from npg.reduction import Reduce
from npg.trust_region import (
    NaturalDirection,
    natural_direction,
    natural_step,
    trust_region_length,
    trust_region_step,
)

__all__ = [
    "Bernoulli",
    "Categorical",
    "Damped",
    "DiagGaussian",
    "Distribution",
    "Evaluation",
    "ExactFisher",
    "FlatParameters",
    "KLHessian",
    "LineSearch",
    "LinearOperator",
    "MultiCategorical",
    "NaturalDirection",
    "PolicyStep",
    "Reduce",
    "Rejection",
    "Solution",
    "Status",
    "SurrogateObjective",
    "backtrack",
    "conjugate_gradient",
    "natural_direction",
    "natural_step",
    "trust_region_length",
    "trust_region_step",
]
