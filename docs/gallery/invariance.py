"""
Invariance: the natural gradient does not depend on the parametrisation
=======================================================================

Write the same policy in other parameters, e.g. one weight in metres and the other in millimetres, and the
plain gradient leads elsewhere. The natural gradient follows the same curve of policies: F changes with the
parameters in just the way that cancels. For finite steps this holds up to an error of the order of the step.

**Source**: S. Amari, *Natural gradient works efficiently in learning*, Neural Computation 10, 1998; the
closed form for softmax policies, S. Kakade, *A natural policy gradient*, NIPS 2001.

**Uses**: :class:`npg.ExactFisher`, :class:`npg.SurrogateObjective`, :func:`npg.natural_step`,
:class:`npg.Categorical`.
"""

# %%
# A policy over three actions, as logits (θ₁, θ₂, 0), and the same policies in other parameters.

import math
import os
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from experiments.extras import needs
from npg import Categorical, ExactFisher, FlatParameters, SurrogateObjective, conjugate_gradient, natural_step

with needs("gallery"):
    import matplotlib.pyplot as plt

SMALL = os.environ.get("GALLERY_SMALL") == "1"


class Policy(nn.Module):
    """Logits (θ₁, θ₂, 0); if stretched, (3 sinh θ₁, θ₂ / 3 + sinh θ₁, 0). Both start with the same logits."""

    def __init__(self, stretched: bool, first: float = -1.0, second: float = 1.0):
        super().__init__()
        self.stretched = stretched
        start = [math.asinh(first / 3), 3 * second - first] if stretched else [first, second]
        self.theta = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, states: Tensor) -> Categorical:
        first, second = self.theta
        if self.stretched:
            first, second = 3 * first.sinh(), second / 3 + first.sinh()
        return Categorical(torch.stack([first, second, torch.zeros_like(first)]).expand(len(states), 3))


# %%
# Each action has a known return, so the gradient of the expected return is exact: the batch has every action
# once, weighted by its probability. A flow is followed by small steps until the time is over.

returns = torch.tensor([1.0, 0.6, 0.0]).double()
states, actions = torch.zeros(3, 1), torch.arange(3)
solver = partial(conjugate_gradient, tolerance=1e-13)


def flow(stretched: bool, natural: bool, step_size: float, time: float) -> np.ndarray:
    """Return the probabilities along a flow, one row per step."""
    policy = Policy(stretched)
    rows = []
    for _ in range(round(time / step_size) + 1):
        p = policy(states[:1]).logits.detach().softmax(-1)[0]
        rows.append(p.numpy())
        objective = SurrogateObjective(policy, states, actions, 3 * p * (returns - p @ returns))
        if natural:
            fisher = ExactFisher(policy, states[:1])
            step = natural_step(objective, fisher, step_size=step_size, damping=0.0, solver=solver)
            displacement = step.displacement
        else:
            displacement = step_size * objective.gradient()
        FlatParameters(policy).add_(displacement)
    return np.array(rows)


# %%
# The natural flow has a closed form: at time t, the probabilities are proportional to p₀ exp(t · return). In
# logits, finite steps are exact, too; in the other parameters their error is proportional to the step size.

p0 = Policy(False)(states[:1]).logits.detach().softmax(-1).numpy()
sizes = (0.8, 0.4) if SMALL else (0.4, 0.2, 0.1, 0.05)
errors, distances = [], []
for size in sizes:
    exact = p0 * np.exp(np.arange(0, 8 + size / 2, size)[:, None] * returns.numpy())
    exact /= exact.sum(axis=1, keepdims=True)
    natural = [flow(stretched, True, size, time=8) for stretched in (False, True)]
    plain = [flow(stretched, False, size, time=60) for stretched in (False, True)]
    assert np.abs(natural[0] - exact).max() < 1e-12
    errors.append(np.abs(natural[1] - exact).max())
    between = np.linalg.norm(plain[0][:, None] - plain[1], axis=2)
    distances.append(between.min(axis=1).max())  # from a point of one curve to the nearest of the other
    print(f"step size {size}: natural curves {errors[-1]:.4f} apart, plain curves {distances[-1]:.3f}")
assert all(1.9 < large / small < 2.1 for large, small in pairwise(errors)) and min(distances) > 0.1

# %%
# Left: each point of the triangle is a policy, each corner an action. The two natural curves are one. The
# plain gradient first moves towards the second-best action, in logits much more than in the other parameters.
# Right: the distance of the natural curves vanishes with the step size, that of the plain ones does not.

corners = np.array([[1, 0], [0.5, 0.87], [0, 0]])
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
left.fill(*corners.T, facecolor="whitesmoke", edgecolor="black")
for corner, name in zip(corners, ("return 1", "return 0.6", "return 0"), strict=True):
    left.annotate(name, corner, xytext=(6, 3), textcoords="offset points")
for curves, colour, label in ((natural, "tab:green", "natural"), (plain, "tab:red", "plain")):
    for curve, style, name in zip(curves, ("-", "--"), ("logits", "other parameters"), strict=True):
        left.plot(*(curve @ corners).T, style, color=colour, label=f"{label}, {name}")
left.legend(loc="upper left")
left.axis((-0.7, 1.2, -0.1, 1))
left.axis("off")
right.plot(sizes, errors, "o-", color="tab:green", label="natural")
right.plot(sizes, distances, "o-", color="tab:red", label="plain")
right.set(xlabel="step size", ylabel="distance of the curves (probability)", xlim=0, ylim=0)
right.legend()
figure.savefig(os.environ.get("GALLERY_OUT", "invariance.png"), dpi=150)
