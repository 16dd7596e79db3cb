"""
Natural-gradient variational inference
======================================

Fit a Gaussian q to a posterior. F is the Fisher matrix of q itself, in its natural parameters. If the
posterior is Gaussian, one natural gradient step of length 1 *is* Bayes' rule. If not, as for the O-rings of
the Space Shuttle, every step brings q 4 to 5 times closer to the best one; the plain gradient stalls.

**Source**: M. Khan, H. Rue, *The Bayesian learning rule*, JMLR 24, 2023; flights from S. Dalal et al., JASA
84, 1989; posterior moments by 200 000 draws of numpyro's NUTS, made by ``data/oring_nuts.py``.

**Uses**: :class:`npg.KLHessian`, :func:`npg.conjugate_gradient`, :class:`npg.FlatParameters`.
"""

import os
from dataclasses import dataclass

import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.extras import needs
from npg import FlatParameters, KLHessian, conjugate_gradient
from npg.distributions import Distribution

with needs("gallery"):
    import matplotlib.pyplot as plt


@dataclass(frozen=True, eq=False)
class Gaussian(Distribution):
    """A Gaussian by its mean (1, D) and precision (1, D, D); its KL is all that ``KLHessian`` needs."""

    mean: Tensor
    precision: Tensor
    log_prob = entropy = fisher_product = fisher_root_product = sample = None  # not needed here

    def kl(self, new: "Gaussian") -> Tensor:
        """Return KL(self ‖ new), (1,)."""
        move, product = (new.mean - self.mean)[0], new.precision[0] @ self.precision[0].inverse()
        return 0.5 * (product.trace() - len(move) - product.logdet() + move @ new.precision[0] @ move)[None]

    def predictors(self, x: Tensor) -> Tensor:
        """Return xᵀw at the nodes, (N, nodes)."""
        return x @ self.mean.T + (x @ self.precision[0].inverse() * x).sum(1, keepdim=True).sqrt() * nodes


class Variational(nn.Linear):
    """q by its natural parameters: the weight is the precision, the bias is precision times mean."""

    def forward(self, _: Tensor) -> Gaussian:
        """Return q; it has no input."""
        precision = (self.weight + self.weight.T) / 2
        return Gaussian(torch.linalg.solve(precision, self.bias)[None], precision[None])


# %%
# Maximise the evidence lower bound E_q[log p(y | w)] − KL(q ‖ prior), starting at the prior N(0, 1). Under
# q, the predictor xᵀw is Gaussian, so the expectation is one integral per row, by 40 Gauss-Hermite nodes.
nodes, weights = map(torch.as_tensor, hermegauss(40))


def maximise(log_likelihood, x: Tensor, steps: int, natural: bool = True) -> tuple[Gaussian, Tensor]:
    """Step by the gradient or by F⁻¹ times it, halved until the bound rises; return q and the bounds."""
    module = Variational(x.shape[1], x.shape[1], dtype=x.dtype)
    nn.init.zeros_(module.bias), nn.init.eye_(module.weight)
    parameters, prior, bounds = FlatParameters(module), module(x).snapshot(), []

    def bound() -> Tensor:
        fit = (log_likelihood(module(x).predictors(x)) @ weights / weights.sum()).sum()
        return fit - module(x).kl(prior)[0]

    for _ in range(steps):
        bounds.append(bound())
        step = parameters.flatten(torch.autograd.grad(bounds[-1], parameters.tensors))
        if natural:
            step = conjugate_gradient(KLHessian(module, x), step, tolerance=1e-13).x
        parameters.add_(step)
        while not bound() > bounds[-1] and step.abs().max() > 1e-14:
            parameters.add_(-step.div_(2))
    return module(x).snapshot(), torch.stack(bounds).detach()


# %%
# One step is Bayes' rule: for linear regression with unit noise, the posterior precision is 1 + XᵀX.
x, y = torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(0)).double()
q, _ = maximise(lambda predictor: -0.5 * (y[:, :1] - predictor) ** 2, x, steps=1)
assert torch.allclose(q.precision[0], torch.eye(2) + x.T @ x, rtol=0, atol=1e-10)
assert torch.allclose(q.precision[0] @ q.mean[0], x.T @ y[:, 0], rtol=0, atol=1e-10)

# %%
# O-rings: P(damage) given the temperature (°F). The best q has precision 1 + E_q[Xᵀ diag(p(1 − p)) X]. Its
# mean, (−0.825, −1.193), is that of NUTS within error; its σ is up to 2 % smaller, since q cannot be skewed.
t = Tensor([66, 70, 69, 68, 67, 72, 73, 70, 57, 63, 70, 78, 67, 53, 67, 75, 70, 81, 76, 79, 75, 76, 58])
damaged = Tensor([0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1])
nuts_mean, nuts_error, nuts_std = Tensor([[-0.8262, -1.1935], [0.0013, 0.0015], [0.4582, 0.5173]])
x, sign = torch.stack([torch.ones(23), (t - t.mean()) / t.std(correction=0)], 1).double(), 2 * damaged - 1
(q, bounds), (_, plain) = (maximise(lambda f: F.logsigmoid(sign * f.T).T, x, 30, n) for n in (True, False))
curvature = F.sigmoid(q.predictors(x)) * F.sigmoid(-q.predictors(x)) @ weights / weights.sum()
assert torch.allclose(q.precision[0], torch.eye(2) + curvature * x.T @ x, rtol=1e-8)
assert ((q.mean[0] - nuts_mean).abs() < 4 * nuts_error).all()
assert (q.precision[0].inverse().diag().sqrt() / nuts_std - 1).abs().max() < 0.03

# %%
# Left: how far q is from the best one. Right: contours of the posterior and of q at 1, 2 and 3 σ.
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
gaps = bounds.max() - torch.stack([bounds, plain], 1) + 1e-15
left.semilogy(gaps, label=["natural gradient", "plain gradient"])
left.set(xlabel="steps", ylabel="evidence bound below its maximum (nats)", ylim=1e-14)
left.legend()
w = torch.cartesian_prod(*2 * [torch.linspace(-3.5, 0.8, 150).double()]).view(150, 150, 2)
posterior = F.logsigmoid(sign * (w @ x.T)).sum(-1) - 0.5 * w.square().sum(-1)
gaussian = -0.5 * ((w - q.mean) @ q.precision[0] * (w - q.mean)).sum(-1)
for values, colour in ((posterior, "black"), (gaussian, "tab:blue")):
    right.contour(*w.unbind(-1), values - values.max(), [-4.5, -2, -0.5], colors=colour, linestyles="solid")
right.plot(*nuts_mean, "+", color="black", markersize=10, label="mean by NUTS")
right.set(xlabel="intercept (log-odds at the mean, 70 °F)", ylabel="slope (log-odds per 7 °F)")
right.legend(title="posterior: black, q: blue", loc="lower left")
figure.savefig(os.environ.get("GALLERY_OUT", "natural_gradient_vi.png"), dpi=150)
