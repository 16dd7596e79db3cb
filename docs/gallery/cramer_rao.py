"""
Cramér–Rao: how precise can an estimate be?
===========================================

No unbiased estimate from n samples has a covariance smaller than F⁻¹/n, and maximum likelihood reaches this
bound as n grows. This is where the standard errors in the output of a statistics package come from. Here,
2000 simulated data sets show how close a logistic regression comes to the bound.

**Source**: H. Cramér, *Mathematical methods of statistics*, 1946, chapters 32 and 33.

**Uses**: :class:`npg.ExactFisher`, :class:`npg.Bernoulli`, :func:`npg.parameter_covariance`,
:func:`npg.standard_error`.
"""

# %%
# A logistic regression with an intercept and two correlated features.

import os

import numpy as np
import torch
from torch import Tensor, nn

from experiments.extras import needs
from npg import Bernoulli, ExactFisher, parameter_covariance, standard_error

with needs("gallery"):
    import matplotlib.pyplot as plt
    import statsmodels.api as sm

SMALL = os.environ.get("GALLERY_SMALL") == "1"


class Logistic(nn.Module):
    """The probability of a 1 for each row of features."""

    def __init__(self, weight: np.ndarray):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, features: Tensor) -> Bernoulli:
        return Bernoulli((features @ self.weight)[:, None])


truth = np.array([-0.5, 1.0, -0.7])
random = np.random.default_rng(0)


def design(n: int) -> np.ndarray:
    """Return n rows of features."""
    first, second = random.normal(size=(2, n))
    return np.column_stack([np.ones(n), first, 0.6 * first + 0.8 * second])


# %%
# Standard errors from one data set, against statsmodels'.

X = design(500)
answers = (random.random(500) < 1 / (1 + np.exp(-X @ truth))).astype(float)
reference = sm.Logit(answers, X).fit(disp=0, tol=1e-12)
fisher = ExactFisher(Logistic(reference.params), torch.tensor(X))
errors = np.array([standard_error(fisher, unit, n=500, tolerance=1e-10) for unit in torch.eye(3).double()])
print(f"standard errors {errors.round(4)}, of statsmodels {reference.bse.round(4)}")
assert np.allclose(errors, reference.bse, rtol=1e-6, atol=0)

# %%
# The bound against simulation: draw the answers many times for the same features, and fit each set. IRLS,
# written with NumPy for all data sets at once, is independent of ``npg``.


def estimates(X: np.ndarray, data_sets: int) -> np.ndarray:
    """Return the maximum-likelihood weights of simulated data sets, one row each."""
    answers = random.random((data_sets, len(X))) < 1 / (1 + np.exp(-X @ truth))
    weights = np.zeros((data_sets, 3))
    for _ in range(12):
        p = 1 / (1 + np.exp(-weights @ X.T))
        information = np.einsum("sn,ni,nj->sij", p * (1 - p), X, X, optimize=True)
        weights += np.linalg.solve(information, ((answers - p) @ X)[..., None])[..., 0]
    return weights


data_sets = 300 if SMALL else 2000
sizes = (100, 1000) if SMALL else (100, 200, 400, 800, 1600)
ratios = []
for n in sizes:
    X = design(n)
    bound = parameter_covariance(ExactFisher(Logistic(truth), torch.tensor(X)), n).numpy()
    fits = estimates(X, data_sets)
    ratios.append(fits.std(axis=0) / np.sqrt(np.diag(bound)))
    print(f"n = {n}: standard deviations are {ratios[-1].round(3)} times the bound")
difference = np.linalg.norm(np.cov(fits.T) - bound) / np.linalg.norm(bound)
distances = np.einsum("si,ij,sj->s", fits - truth, np.linalg.inv(bound), fits - truth)
inside = np.mean(distances < 7.815)  # 95 % quantile of χ² with three degrees of freedom
print(f"n = {n}: covariance {difference:.1%} from the bound; {inside:.1%} of the fits in the 95 % ellipsoid")
assert difference < 4 / np.sqrt(data_sets) and abs(inside - 0.95) < 4 * np.sqrt(0.95 * 0.05 / data_sets)

# %%
# Left: the fits to the largest data sets, and the ellipse that should contain 95 % of them. Its axes follow
# from F alone. The features are correlated, and so are the estimates. Right: few data give less precise
# estimates than the bound allows.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
angle = np.linspace(0, 2 * np.pi, 100)
ellipse = truth[1:, None] + np.sqrt(5.991) * np.linalg.cholesky(bound[1:, 1:]) @ [
    np.cos(angle),
    np.sin(angle),
]
left.plot(fits[:, 1], fits[:, 2], ".", markersize=2, label=f"{data_sets} fits")
left.plot(*ellipse, color="tab:orange", linewidth=2, label="95 % ellipse from $F$")
left.plot(*truth[1:], "k+", markersize=12, label="true weights")
left.set(title=f"{n} samples each", xlabel="first weight", ylabel="second weight")
left.legend()
right.semilogx(sizes, ratios, "o-", label=["intercept", "first weight", "second weight"])
right.axhline(1, color="black", linestyle="--", label="Cramér–Rao bound")
right.set(xlabel="number of samples n", ylabel="standard deviation / bound")
right.legend()
figure.savefig(os.environ.get("GALLERY_OUT", "cramer_rao.png"), dpi=150)
