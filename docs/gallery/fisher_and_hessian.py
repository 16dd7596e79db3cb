"""
Fisher matrix and Hessian
=========================

The Fisher matrix is defined as the covariance of the score, E[ssᵀ], or as the expected curvature of the
likelihood, −E[∇² log p]. The two are equal for data from the model itself. For n recorded samples, both
averages approach it with an error of 1/√n. On few data they differ, and so do Newton's step, which uses the
Hessian, and the natural step, which uses the Fisher matrix.

**Source**: J. Martens, *New insights and perspectives on the natural gradient method*, JMLR 21, 2020.

**Uses**: :class:`npg.ExactFisher`, :class:`npg.LikelihoodHessian`, :class:`npg.EmpiricalFisher`,
:func:`npg.relative_gap`.
"""

# %%
# A small network with three classes.

import os

import numpy as np
import torch
from torch import Tensor, nn

from experiments.extras import needs
from npg import Categorical, DiagGaussian, EmpiricalFisher, ExactFisher, LikelihoodHessian, relative_gap

with needs("gallery"):
    import matplotlib.pyplot as plt

SMALL = os.environ.get("GALLERY_SMALL") == "1"


class Classifier(nn.Module):
    """Logits of three classes; 15 parameters."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 3)).double()

    def forward(self, inputs: Tensor) -> Categorical:
        return Categorical(self.net(inputs))


torch.manual_seed(0)
model = Classifier()

# %%
# The identity. With three classes the expectation is a sum over them, weighted by the model's probabilities.
# Both sums are the Fisher matrix to the last digits.

row = torch.randn(1, 2).double()
fisher, covariance, curvature = ExactFisher(model, row).to_dense(), 0, 0
for label, probability in enumerate(model(row).logits.softmax(-1)[0].tolist()):
    covariance += probability * EmpiricalFisher(model, row, torch.tensor([label])).to_dense()
    curvature += probability * LikelihoodHessian(model, row, torch.tensor([label])).to_dense()
print(
    f"errors: {(covariance - fisher).norm():.0e} (covariance), {(curvature - fisher).norm():.0e} (curvature)"
)
assert max((covariance - fisher).norm(), (curvature - fisher).norm()) < 1e-14

# %%
# With labels drawn from the model, the two averages over n samples approach F. Fit the exponent of n:

repetitions, sizes = (4, np.array([100, 1600])) if SMALL else (20, np.logspace(2, 4, 7).astype(int))
gaps = np.zeros((2, len(sizes)))  # mean squares
for column, n in enumerate(np.repeat(sizes, repetitions)):
    inputs = torch.randn(n, 2).double()
    data = model, inputs, model(inputs).sample()
    for row, operator in enumerate((LikelihoodHessian(*data), EmpiricalFisher(*data))):
        gap = relative_gap(operator, ExactFisher(model, inputs)).value
        gaps[row, column // repetitions] += gap**2 / repetitions
exponents = [np.polyfit(np.log(sizes), np.log(gap), 1)[0] / 2 for gap in gaps]
print(f"error ~ n^{exponents[0]:.3f} (Hessian), n^{exponents[1]:.3f} (covariance of the score)")
assert np.abs(np.array(exponents) + 0.5).max() < (0.1 if SMALL else 0.03)

# %%
# Newton's step is H⁻¹g and the natural step F⁻¹g, with the same gradient g. Fit a Gaussian to six numbers,
# starting with a mean and a standard deviation that are too large. F is positive definite, so the natural
# step goes uphill (gᵀd > 0); it even finds the best mean, the average, at once. H has a negative eigenvalue
# here, and Newton's step goes downhill.


class Gaussian(nn.Module):
    """A mean and a log standard deviation, the same for every row of the input."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([2.0, 0.7]).double())

    def forward(self, rows: Tensor) -> DiagGaussian:
        return DiagGaussian(self.theta[:1].expand(len(rows), 1), self.theta[1:])


six = torch.tensor([-1.3, -0.6, -0.2, 0.1, 0.8, 1.6]).double()[:, None]
start = Gaussian()
(gradient,) = torch.autograd.grad(start(six).log_prob(six).mean(), start.theta)
newton = torch.linalg.solve(LikelihoodHessian(start, six, six).to_dense(), gradient)
natural = torch.linalg.solve(ExactFisher(start, six).to_dense(), gradient)
print(f"gᵀd: {gradient @ newton:.2f} for Newton's step, {gradient @ natural:.2f} for the natural step")
assert gradient @ natural > 0 > gradient @ newton and abs(start.theta[0] + natural[0] - six.mean()) < 1e-12

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for gap, label in zip(gaps, ("Hessian", "covariance of the score"), strict=True):
    left.loglog(sizes, np.sqrt(gap), "o", label=label)
left.loglog(sizes, np.sqrt(gaps[0, 0] * sizes[0] / sizes), "k--", label="$1/\\sqrt{n}$")
left.set(title="classifier", xlabel="number of samples n", ylabel="relative distance to the Fisher matrix")
left.legend()
means, log_stds = np.meshgrid(np.linspace(-1, 5, 80), np.linspace(-0.7, 2.1, 80))
squares = six.var(correction=0).item() + (means - six.mean().item()) ** 2
height = -log_stds - 0.5 * squares * np.exp(-2 * log_stds)  # and a constant
right.contourf(means, log_stds, height, np.linspace(-3, height.max(), 14), cmap="Greys_r", extend="min")
for step, label in ((newton, "Newton's step"), (natural, "natural step")):
    path = torch.stack([start.theta.detach(), start.theta.detach() + step])
    right.plot(*path.T, "o-", markevery=[1], label=label)
right.plot(*start.theta.detach(), "ko", label="start")
right.plot(six.mean(), six.std(correction=0).log(), "k*", markersize=12, label="best fit")
right.set(title="mean log-likelihood (brighter: higher)", xlabel="mean", ylabel="log σ")
right.legend()
figure.savefig(os.environ.get("GALLERY_OUT", "fisher_and_hessian.png"), dpi=150)
