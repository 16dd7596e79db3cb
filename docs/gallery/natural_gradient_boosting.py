"""
NGBoost: boosting with the natural gradient
===========================================

Predict a mean and a standard deviation σ for every patient or wine: one tree after the other is fitted to
the gradient of the log-likelihood with respect to the mean, and to log σ. NGBoost multiplies the gradient by
F⁻¹. Without F⁻¹ the predictions are worse, and they depend on the unit of the target.

**Source**: T. Duan et al., *NGBoost: natural gradient boosting for probabilistic prediction*, ICML 2020;
compared with the authors' package ``ngboost`` on two data sets of scikit-learn.

**Uses**: :class:`npg.DiagGaussian`, whose ``fisher_product`` is F of one row.
"""

import math
import os

import numpy as np
import torch

from experiments.extras import needs
from npg import DiagGaussian

with needs("gallery"):
    import matplotlib.pyplot as plt
    from ngboost import NGBRegressor
    from sklearn.base import clone
    from sklearn.datasets import load_diabetes, load_wine
    from sklearn.model_selection import train_test_split
    from sklearn.tree import DecisionTreeRegressor

iterations, splits = 150, 1 if "GALLERY_SMALL" in os.environ else 3
tree = DecisionTreeRegressor(max_depth=3, random_state=0)  # NGBoost's default, with a seed


# %%
# Every row has its own Gaussian with parameters (mean, log σ), and its own Fisher matrix, diag(1/σ², 2).
def distribution(parameters: np.ndarray | torch.Tensor) -> DiagGaussian:
    """Return one Gaussian per row of (mean, log σ)."""
    rows = torch.as_tensor(parameters)
    return DiagGaussian(rows[:, :1], rows[:, 1:])


def nll(parameters: np.ndarray, y: np.ndarray) -> float:
    """Return the mean negative log-likelihood, in nats."""
    return -distribution(parameters).log_prob(torch.as_tensor(y)[:, None]).mean().item()


def gradient(parameters: np.ndarray, y: np.ndarray, natural: bool) -> np.ndarray:
    """Return the gradient of every row's negative log-likelihood, or F⁻¹ times it, (N, 2)."""
    rows = torch.tensor(parameters, requires_grad=True)
    (g,) = torch.autograd.grad(-distribution(rows).log_prob(torch.as_tensor(y)[:, None]).sum(), rows)
    if natural:
        one = torch.ones(len(y), 1).double()
        g = g / torch.cat(distribution(parameters).fisher_product((one, one)), 1)
    return g.numpy()


# %%
# Each iteration fits a tree to both columns of the gradient, finds a length by doubling and halving, as
# NGBoost does, and goes a hundredth of that way.
def boost(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, natural: bool) -> list[float]:
    """Return the negative log-likelihood of the test rows after every iteration."""
    start = [y.mean(), math.log(y.std())]
    parameters, test = np.tile(start, (len(y), 1)), np.tile(start, (len(y_test), 1))
    curve = [nll(test, y_test)]
    for _ in range(iterations):
        trees = [clone(tree).fit(x, column) for column in gradient(parameters, y, natural).T]
        step, step_test = (np.stack([t.predict(rows) for t in trees], 1) for rows in (x, x_test))
        loss, scale = nll(parameters, y), 1.0
        while nll(parameters - scale * step, y) <= loss and scale <= 256:
            scale *= 2
        while not nll(parameters - scale * step, y) < loss:
            scale /= 2
        parameters = parameters - 0.01 * scale * step
        test = test - 0.01 * scale * step_test
        curve.append(nll(test, y_test))
    return curve


# %%
# Diabetes: progression of the disease after a year, 442 patients. Wine: alcohol, from 12 other measurements,
# 178 wines; here the plain gradient leads at first, and then overfits. In other units the NLL should change
# by log 10⁴ and no more. Where a row has one parameter, as in classification, F⁻¹ only reweights the rows:
# on scikit-learn's breast cancer data it is no better than the plain gradient.
wine = load_wine().data
problems = {"diabetes": load_diabetes(return_X_y=True), "wine": (wine[:, 1:], wine[:, 0])}
curves, references = {}, {}
for name, (x, y) in problems.items():
    for natural in (True, False):
        runs, theirs = [], []
        for seed in range(splits):
            x_fit, x_test, y_fit, y_test = train_test_split(x, y, test_size=0.3, random_state=seed)
            runs.append(boost(x_fit, y_fit, x_test, y_test, natural))
            model = NGBRegressor(Base=tree, n_estimators=iterations, natural_gradient=natural, verbose=False)
            theirs.append(-model.fit(x_fit, y_fit).pred_dist(x_test).logpdf(y_test).mean())
        curves[name, natural], references[name, natural] = np.mean(runs, 0), np.mean(theirs)
        assert abs(curves[name, natural][-1] - references[name, natural]) < 0.02
        change = boost(x_fit, 1e4 * y_fit, x_test, 1e4 * y_test, natural)[-1] - runs[-1][-1] - math.log(1e4)
        print(f"{name}, natural: {natural}: ours {np.mean(runs, 0)[-1]:.4f}, ngboost {np.mean(theirs):.4f}")
        print(f"  difference in other units {change:+.4f}")
        assert abs(change) < 0.02 or not natural
    assert curves[name, True][-1] < curves[name, False][-1] - 0.02

# %%
# A plain gradient with respect to the mean is in units of 1/target, and small if σ is large; that of log σ
# has no unit. No single length suits both.
figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for axes, name in zip(panels, problems, strict=True):
    for natural, label in ((True, "natural gradient"), (False, "plain gradient")):
        (line,) = axes.plot(curves[name, natural], label=label)
        axes.plot(
            iterations, references[name, natural], "o", color=line.get_color(), label=f"ngboost, {label}"
        )
    axes.set(title=name, xlabel="iterations", ylabel="NLL of test rows (nats)")
panels[0].legend()
figure.savefig(os.environ.get("GALLERY_OUT", "natural_gradient_boosting.png"), dpi=150)
