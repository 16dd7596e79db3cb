"""The exact Fisher matrix, by one derivative only."""

from npg.fisher.exact import ExactFisher


class FiniteDifferenceFisher(ExactFisher):
    """The exact matrix, with J v computed by a forward difference and Jᵀ u by one backward pass.

    For modules that cannot be differentiated twice; `ExactFisher` uses it for these by itself. Products have
    a relative error of about √eps of the dtype (1e-7 in float64, 1e-3 in float32) times the policy's
    curvature, and are symmetric and linear only up to that. Arguments and errors are those of `ExactFisher`.
    """

    exact = False
    copies_parameters = True
