"""
SGD noise and curvature
=======================

The gradients of single samples have a covariance Σ. If the model fits the data, Σ = F = H: the noise is
largest where the loss is sharpest, and escapes from a sharp minimum sooner than isotropic noise of the same
size. Tr(HΣ) tells by how much. For a network that has memorised its labels, Σ is not F.

**Source**: Z. Zhu et al., *The anisotropic noise in stochastic gradient descent*, ICML 2019; F. Kunstner et
al., *Limitations of the empirical Fisher approximation*, NeurIPS 2019.

**Uses**: :class:`npg.EmpiricalFisher`, :class:`npg.ExactFisher`, :class:`npg.LikelihoodHessian`.
"""

import os

import torch
from torch import Tensor, nn

from experiments.extras import needs
from npg import Bernoulli, DiagGaussian, EmpiricalFisher, ExactFisher, LikelihoodHessian

with needs("gallery"):
    import matplotlib.pyplot as plt

walkers, steps, epochs = (1000, 500, 500) if "GALLERY_SMALL" in os.environ else (5000, 3000, 2000)


class Regression(nn.Linear):
    """Linear regression with σ = 1."""

    def forward(self, x: Tensor) -> DiagGaussian:
        """Return the distribution of y."""
        return DiagGaussian(super().forward(x), torch.zeros(1).double())


class Classifier(nn.Sequential):
    """A network whose output is the log-odds of a label."""

    def forward(self, x: Tensor) -> Bernoulli:
        """Return the distribution of y."""
        return Bernoulli(super().forward(x))


# %%
# Linear regression with H = diag(1, 0.1, 0.01) and residuals of ±1: the Fisher matrix, the Hessian and the
# covariance of the gradient are equal. Tr(HΣ) is 2.46 times that of isotropic noise of the same trace.
sharpness = torch.tensor([1.0, 0.1, 0.01]).double()
x = (3 * sharpness).sqrt().diag().repeat(2, 1)
model = Regression(3, 1, bias=False).double()
y = model(x).mean.detach() + torch.tensor([1.0, 1, 1, -1, -1, -1]).double()[:, None]
noise, hessian = EmpiricalFisher(model, x, y).to_dense(), LikelihoodHessian(model, x, y).to_dense()
for matrix in (noise, hessian, ExactFisher(model, x).to_dense()):
    assert torch.allclose(matrix, sharpness.diag(), rtol=1e-12)
isotropic = torch.eye(3).double() * noise.trace() / 3
ratio = (hessian @ noise).trace() / (hessian @ isotropic).trace()
assert abs(ratio - 2.4594595) < 1e-7, ratio

# %%
# 5000 walkers start at the minimum and follow w ← w − η (Hw + noise). Their mean loss after one step is ½ η²
# Tr(HΣ). They escape through the sharp direction, over a ridge of 1 nat at w₁ = ±√2.
step_size, inside = 0.3, {}
for name, covariance in (("Σ = H", noise), ("isotropic", isotropic)):
    generator, root = torch.Generator().manual_seed(0), torch.linalg.cholesky(covariance)
    w, trapped, shares = torch.zeros(walkers, 3).double(), torch.ones(walkers, dtype=torch.bool), []
    for step in range(steps):
        w = w - step_size * (w @ hessian + torch.randn(walkers, 3, generator=generator).double() @ root.T)
        if step == 0:
            losses, expected = (w @ hessian * w).sum(1) / 2, step_size**2 / 2 * (hessian @ covariance).trace()
            assert (losses.mean() - expected).abs() < 4 * losses.std() / walkers**0.5
        trapped &= w[:, 0].abs() < 2**0.5
        shares.append(trapped.double().mean())
    inside[name] = torch.stack(shares)
assert inside["Σ = H"][-1] < inside["isotropic"][-1] - 0.05

# %%
# Classifiers. For logistic regression, on labels drawn from such a model, Tr Σ / Tr F stays at 1. For a
# network that memorises 40 random labels it falls to 0: Σ vanishes with the square of the errors, F only
# with the errors. On new labels it is far above 1.


def noise_over_fisher(model: Classifier, x: Tensor, y: Tensor) -> float:
    """Return Tr Σ / Tr F."""
    noise, fisher = EmpiricalFisher(model, x, y), ExactFisher(model, x)
    return float(noise.to_dense().trace() / fisher.to_dense().trace())


torch.manual_seed(0)
many, few, new = (torch.randn(n, 2).double() for n in (4000, 40, 400))
many_y = torch.bernoulli(torch.sigmoid(many @ torch.tensor([[1.5], [-1.5]]).double()))
few_y, new_y = (torch.randint(2, (n, 1)).double() for n in (40, 400))
network = Classifier(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1)).double()
curves, every = {}, 100
for model, sets in (
    (Classifier(nn.Linear(2, 1)).double(), {"logistic regression": (many, many_y)}),
    (network, {"network, its own 40 labels": (few, few_y), "network, new labels": (new, new_y)}),
):
    (x, y), *_ = sets.values()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for epoch in range(epochs + 1):
        for name, data in sets.items() if epoch % every == 0 else ():
            curves.setdefault(name, []).append(noise_over_fisher(model, *data))
        optimizer.zero_grad()
        (-model(x).log_prob(y).mean()).backward()
        optimizer.step()
fitted, memorised, unseen = (curve[-1] for curve in curves.values())
assert abs(fitted - 1) < 0.05 and memorised < 0.3 and unseen > 3

# %%
# Left: noise with Σ = H frees most walkers, isotropic noise none. Right: Σ = F needs a model that fits.
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for name, shares in inside.items():
    left.plot(range(1, steps + 1), 100 * shares, label=name)
for name, values in curves.items():
    right.semilogy(range(0, epochs + 1, every), values, label=name)
left.set(xlabel="step", ylabel="walkers still in the sharp minimum (%)", ylim=(0, 103))
right.set(xlabel="epoch", ylabel="Tr Σ / Tr F")
left.legend()
right.legend()
figure.savefig(os.environ.get("GALLERY_OUT", "sgd_noise.png"), dpi=150)
