"""
K-FAC on a classifier
=====================

K-FAC and EKFAC replace the Fisher matrix of every layer by two small factors, which are inverted in closed
form. On the digits they need fewer epochs than Adam; on a network this small, Adam's epochs are cheaper. For
a single linear layer with Gaussian outputs nothing is approximated: one step solves least squares.

**Source**: J. Martens, R. Grosse, *Optimizing neural networks with Kronecker-factored approximate
curvature*, 2015; T. George et al., *Fast approximate natural gradient descent in a Kronecker-factored
eigenbasis*, 2018.

**Uses**: :class:`npg.KroneckerFisher`, :class:`npg.KroneckerStepper`,
:class:`npg.EigenvalueCorrectedFisher`, :func:`npg.trust_region_length`, :class:`npg.Categorical`.
"""

import os
import time

import torch
from torch import Tensor, nn

import npg
from experiments.extras import needs

with needs("gallery"):
    import matplotlib.pyplot as plt
    from sklearn.datasets import load_digits


class Model(nn.Sequential):
    """A network whose outputs are the means of Gaussians with σ = 1, or the logits of a choice."""

    def forward(self, x: Tensor) -> npg.DiagGaussian | npg.Categorical:
        """Return the distribution of y."""
        outputs = super().forward(x)
        if len(self) == 1:
            return npg.DiagGaussian(outputs, torch.zeros_like(outputs))
        return npg.Categorical(outputs)


def gradient(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of the mean log-likelihood, (P,)."""
    parameters = npg.FlatParameters(model)
    return parameters.flatten(torch.autograd.grad(model(x).log_prob(y).mean(), parameters.tensors))


# %%
# One undamped natural step from anywhere is the least-squares solution.
torch.manual_seed(0)
x, y = torch.randn(100, 8).double().split([5, 3], 1)
solution = torch.linalg.lstsq(torch.cat([x, torch.ones(100, 1)], 1), y).solution
for operator in (npg.KroneckerFisher, npg.EigenvalueCorrectedFisher):
    model = Model(nn.Linear(5, 3)).double()
    npg.FlatParameters(model).add_(operator(model, x).solve(gradient(model, x, y)))
    found = torch.cat([model[0].weight, model[0].bias[:, None]], 1).T
    assert torch.allclose(found, solution, rtol=0, atol=1e-12)

# %%
# The digits: 1200 images to train on in batches of 100, 597 to test on. A step has at most length 1, and ½
# dᵀFd ≤ 0.01 nats. EKFAC measures its matrix once per epoch.
digits, order = load_digits(), torch.randperm(1797)
images, labels = torch.tensor(digits.data / 16).float()[order], torch.tensor(digits.target)[order]
train_x, train_y, test_x, test_y = images[:1200], labels[:1200], images[1200:], labels[1200:]
epochs = 4 if "GALLERY_SMALL" in os.environ else 20


def train(method: str, learning_rate: float = 1.0) -> Tensor:
    """Return rows of CPU seconds, NLL on training and on test images: before every epoch, and at the end."""
    torch.manual_seed(1)
    model = Model(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    parameters, adam = npg.FlatParameters(model), torch.optim.Adam(model.parameters(), lr=learning_rate)
    stepper = npg.KroneckerStepper(npg.KroneckerFisher(model), damping=0.01, inverse_interval=5)
    rows, seconds, velocity = [], 0.0, 0.0
    for _ in range(epochs + 1):
        nlls = (-model(x).log_prob(y).mean().item() for x, y in ((train_x, train_y), (test_x, test_y)))
        rows.append([seconds, *nlls])
        start = time.process_time()
        if method == "EKFAC":
            inverse = npg.EigenvalueCorrectedFisher(model, train_x).inverse(0.01)
        for batch in torch.randperm(1200).split(100):
            step = gradient(model, train_x[batch], train_y[batch])
            if method == "Adam":
                for parameter, part in zip(parameters.tensors, parameters.unflatten(-step), strict=True):
                    parameter.grad = part
                adam.step()
            elif method == "K-FAC":
                stepper.observe(train_x[batch])
                step = stepper.displacement(step, step_size=1.0, target_kl=0.01)
                stepper.keep(step)
                parameters.add_(step)
            else:
                direction = inverse @ step
                length = min(1.0, npg.trust_region_length(float(step @ direction), target_kl=0.01))
                velocity = 0.9 * velocity + 0.1 * length * direction
                parameters.add_(velocity)
        seconds += time.process_time() - start
    return torch.tensor(rows)


runs = {f"Adam, learning rate {rate:g}": train("Adam", rate) for rate in (0.003, 0.01, 0.03)}
best = torch.stack(list(runs.values())).amin(0)
runs |= {method: train(method) for method in ("K-FAC", "EKFAC")}
assert max(runs["K-FAC"][4, 1], runs["EKFAC"][4, 1]) < 0.7 * best[4, 1]
assert runs["K-FAC"][-1, 1] < best[-1, 1]

# %%
# Solid: training images, dotted: test images. Left per epoch, right per second of CPU time. EKFAC is noisy
# at the end: it adds exactly λ, less than K-FAC's factored damping does, to a matrix that is up to an epoch
# old.
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
for (name, rows), colour in zip(runs.items(), ("0.8", "0.6", "0.3", "tab:blue", "tab:orange"), strict=True):
    left.semilogy(rows[:, 1], color=colour)
    left.semilogy(rows[:, 2], ":", color=colour)
    right.semilogy(rows[:, 0], rows[:, 1], color=colour, label=name)
left.set(xlabel="epoch", ylabel="negative log-likelihood (nats)")
right.set(xlabel="CPU time (s)")
right.legend()
figure.savefig(os.environ.get("GALLERY_OUT", "kfac_classifier.png"), dpi=150)
