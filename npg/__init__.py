"""Natural policy gradients on tensors: distributions, Fisher operators, solvers, trust regions.

Needs torch alone: no environments, no files, no logging.
"""

from npg.conjugate_gradient import Solution, Status, conjugate_gradient
from npg.damping import LevenbergMarquardt
from npg.diagonal import BlockDiagonalFisher, DiagonalFisher
from npg.distributions import (
    Bernoulli,
    Categorical,
    DiagGaussian,
    Distribution,
    MultiCategorical,
)
from npg.ekfac import EigenvalueCorrectedFisher
from npg.fisher import EmpiricalFisher, ExactFisher, FiniteDifferenceFisher, SampledFisher
from npg.hessian import KLHessian, LikelihoodHessian
from npg.kfac import KroneckerFisher
from npg.kronecker_step import KroneckerStepper
from npg.line_search import LineSearch, backtrack
from npg.linear_operator import Damped, InvertibleOperator, LinearOperator, SingularMatrixError
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
    "BlockDiagonalFisher",
    "Categorical",
    "Damped",
    "DiagGaussian",
    "DiagonalFisher",
    "Distribution",
    "EigenvalueCorrectedFisher",
    "EmpiricalFisher",
    "Evaluation",
    "ExactFisher",
    "FiniteDifferenceFisher",
    "FlatParameters",
    "InvertibleOperator",
    "KLHessian",
    "KroneckerFisher",
    "KroneckerStepper",
    "LevenbergMarquardt",
    "LikelihoodHessian",
    "LineSearch",
    "LinearOperator",
    "MultiCategorical",
    "NaturalDirection",
    "PolicyStep",
    "Reduce",
    "Rejection",
    "SampledFisher",
    "SingularMatrixError",
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
