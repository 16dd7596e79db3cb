"""Natural policy gradients on tensors: distributions, Fisher operators, solvers, trust regions.

It depends only on torch, and contains no environments, files or logging.
"""

from npg.captured import Captured
from npg.captured_step import CapturedStep
from npg.conjugate_gradient import Solution, Status, conjugate_gradient
from npg.constrained_direction import ConstrainedDirection, constrained_direction
from npg.constrained_objective import ConstrainedObjective
from npg.constrained_problem import Case
from npg.constrained_step import ConstrainedStep, constrained_step
from npg.damping import LevenbergMarquardt
from npg.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    DiagGaussian,
    Distribution,
    FullGaussian,
    MultiCategorical,
)
from npg.fisher.block_diagonal import BlockDiagonalFisher
from npg.fisher.diagonal import DiagonalFisher
from npg.fisher.ekfac import EigenvalueCorrectedFisher
from npg.fisher.exact import ExactFisher
from npg.fisher.finite_difference import FiniteDifferenceFisher
from npg.fisher.hessian import KLHessian, LikelihoodHessian
from npg.fisher.kfac import KroneckerFisher
from npg.fisher.kronecker_step import KroneckerStepper
from npg.fisher.score import EmpiricalFisher, SampledFisher
from npg.fisher.shrunk import ShrunkFisher
from npg.geometry.diagnostics import (
    Coupling,
    block_coupling,
    parameter_covariance,
    relative_gap,
    standard_error,
)
from npg.geometry.spectrum import Estimate, Spectrum, Tridiagonal, lanczos, spectrum
from npg.line_search import LineSearch, backtrack
from npg.linear_operator import (
    Damped,
    InvertibleOperator,
    InvertibleScaled,
    LinearOperator,
    Scaled,
    SingularMatrixError,
    Sum,
)
from npg.natural_direction import NaturalDirection, natural_direction
from npg.objective import Evaluation, SurrogateObjective
from npg.parameters import FlatParameters
from npg.policy_step import PolicyStep, Rejection
from npg.reduction import Reduce
from npg.trust_region import natural_step, trust_region_length, trust_region_step

__all__ = [
    "Bernoulli",
    "Beta",
    "BlockDiagonalFisher",
    "Captured",
    "CapturedStep",
    "Case",
    "Categorical",
    "ConstrainedDirection",
    "ConstrainedObjective",
    "ConstrainedStep",
    "Coupling",
    "Damped",
    "DiagGaussian",
    "DiagonalFisher",
    "Distribution",
    "EigenvalueCorrectedFisher",
    "EmpiricalFisher",
    "Estimate",
    "Evaluation",
    "ExactFisher",
    "FiniteDifferenceFisher",
    "FlatParameters",
    "FullGaussian",
    "InvertibleOperator",
    "InvertibleScaled",
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
    "Scaled",
    "ShrunkFisher",
    "SingularMatrixError",
    "Solution",
    "Spectrum",
    "Status",
    "Sum",
    "SurrogateObjective",
    "Tridiagonal",
    "backtrack",
    "block_coupling",
    "conjugate_gradient",
    "constrained_direction",
    "constrained_step",
    "lanczos",
    "natural_direction",
    "natural_step",
    "parameter_covariance",
    "relative_gap",
    "spectrum",
    "standard_error",
    "trust_region_length",
    "trust_region_step",
]
