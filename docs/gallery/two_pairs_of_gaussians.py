"""
Two pairs of Gaussians
======================

Move the mean of a Gaussian by 1. If its standard deviation is 0.5, the old and the new distribution share a
third of their mass, and their KL divergence is 2 nats. If it is 5, they share 92 %, and the KL is 0.02 nats,
a hundredth. To a plain gradient step the two moves have the same length; a natural gradient step measures
them in KL.

**Source**: closed form, KL(N(0, σ) ‖ N(1, σ)) = 1/(2σ²) nats; for the metric, S. Amari, *Natural gradient
works efficiently in learning*, Neural Computation 10, 1998.

**Uses**: :class:`npg.DiagGaussian`, :class:`npg.ExactFisher`.
"""

# %%
# The model has two parameters, mean and log standard deviation, and ignores its input.

import math
import os

import torch
from torch import Tensor, nn

from experiments.extras import needs
from npg import DiagGaussian, ExactFisher

with needs("gallery"):
    import matplotlib.pyplot as plt


class Gaussian(nn.Module):
    """N(mean, std)."""

    def __init__(self, mean: float, std: float):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([mean], dtype=torch.float64))
        self.log_std = nn.Parameter(torch.tensor([math.log(std)], dtype=torch.float64))

    def forward(self, states: Tensor) -> DiagGaussian:
        """Return one distribution per state, all the same."""
        return DiagGaussian(self.mean.expand(len(states), 1), self.log_std)


one_state = torch.zeros(1, 1)

# %%
# The KL of the move, and ½ dᵀFd, which the Fisher matrix of the first Gaussian predicts. For a move of the
# mean both are exactly 1/(2σ²).

move = torch.tensor([1.0, 0.0], dtype=torch.float64)
expected = {0.5: 2.0, 1.0: 0.5, 5.0: 0.02}
for std, nats in expected.items():
    before, after = Gaussian(0, std), Gaussian(1, std)
    kl = before(one_state).kl(after(one_state)).item()
    fisher = ExactFisher(before, one_state)
    predicted = (0.5 * move @ (fisher @ move)).item()
    print(f"σ = {std}: KL {kl:.6f} nats, ½ dᵀFd {predicted:.6f}")
    assert math.isclose(kl, nats, rel_tol=1e-12) and math.isclose(predicted, nats, rel_tol=1e-12)


# %%
# F at a point defines an ellipse around it: the moves that cost the same KL, here δ = 0.05 nats. With F =
# LLᵀ, they are d = √(2δ) L⁻ᵀu for unit vectors u. The true KL on the ellipse differs from δ by terms of third
# order in d, so for a d that is ten times shorter, the relative error is a tenth.


def ellipse(mean: float, std: float, target_kl: float, points: int = 60) -> tuple[Tensor, Tensor]:
    """Return mean and log standard deviation of points with ½ dᵀFd = δ, and their true KL."""
    start = Gaussian(mean, std)
    angle = torch.linspace(0, 2 * math.pi, points, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()])
    root = torch.linalg.cholesky(ExactFisher(start, one_state).to_dense())
    step = math.sqrt(2 * target_kl) * torch.linalg.solve_triangular(root.mT, circle, upper=True)
    old = start(torch.zeros(points, 1)).snapshot()
    new = DiagGaussian(old.mean + step[0, :, None], old.log_std + step[1, :, None])
    return torch.cat([new.mean, new.log_std], dim=1).T, old.kl(new)


delta = 0.05
_, kl = ellipse(0.0, 1.0, delta)
_, kl_shorter = ellipse(0.0, 1.0, delta / 100)
error, error_shorter = (kl / delta - 1).abs().max().item(), (kl_shorter / delta * 100 - 1).abs().max().item()
print(f"true KL on the ellipse: within {error:.1%} of δ = {delta}, {error_shorter:.1%} of δ = {delta / 100}")
assert error < 0.3 and 8 < error / error_shorter < 12

# %%
# Left and middle: the same move of the mean. Right: Gaussians as points; on each ellipse the KL from its
# centre is the same. For this price a narrow Gaussian (bottom) can move its mean only a little, and a wide
# one (top) far. On the logarithmic axis all ellipses have the same height: a relative change of σ costs the
# same at every σ.

figure, (narrow, wide, plane) = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
for axes, std, reach in ((narrow, 0.5, 3.0), (wide, 5.0, 15.0)):
    x = torch.linspace(-reach, reach + 1, 400).double()
    for mean, colour in ((0.0, "tab:blue"), (1.0, "tab:orange")):
        density = torch.distributions.Normal(mean, std).log_prob(x).exp()
        axes.plot(x, density, color=colour, label=f"mean {mean:g}")
        axes.fill_between(x, density, color=colour, alpha=0.2)
    axes.set(title=f"σ = {std:g}: KL = {expected[std]:g} nats", xlabel="x", ylabel="density", ylim=0)
    axes.legend()
for std in (0.5, 1.0, 2.0, 4.0):
    for mean in (-6.0, -2.0, 2.0, 6.0):
        ends, _ = ellipse(mean, std, delta)
        plane.plot(ends[0], ends[1].exp(), color="tab:green")
        plane.plot(mean, std, ".", color="black")
plane.set(title=f"moves that cost {delta} nats", xlabel="mean", ylabel="σ (logarithmic)", yscale="log")
plane.set_yticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"], minor=False)
plane.minorticks_off()
figure.savefig(os.environ.get("GALLERY_OUT", "two_pairs_of_gaussians.png"), dpi=150)
