"""
Parameter orthogonality
=======================

Two parameters are orthogonal if their entry of the Fisher matrix is 0. Then not knowing one does not make the
estimate of the other less precise, and a natural step in one does not move the other. Mean and log standard
deviation of a Gaussian are orthogonal; a rotation of them is not. Orthogonal initialisation of a network,
despite its name, leaves its layers as coupled as before.

**Source**: D. R. Cox, N. Reid, *Parameter orthogonality and approximate conditional inference*, JRSS B 49,
1987; for the initialisation, A. M. Saxe et al., `arXiv:1312.6120 <https://arxiv.org/abs/1312.6120>`_, 2014.

**Uses**: :class:`npg.ExactFisher`, :class:`npg.DiagonalFisher`, :func:`npg.block_coupling`,
:func:`npg.parameter_covariance`.
"""

# %%
# A Gaussian whose mean and log standard deviation are its two parameters, rotated by an angle.

import os

import numpy as np
import torch
from torch import Tensor, nn

from experiments.extras import needs
from npg import DiagGaussian, DiagonalFisher, ExactFisher, block_coupling, parameter_covariance

with needs("gallery"):
    import matplotlib.pyplot as plt
SMALL = os.environ.get("GALLERY_SMALL") == "1"


class Rotated(nn.Module):
    """N(μ, σ) for every state, with (μ, log σ) = R(angle) θ."""

    def __init__(self, std: float, angle: float):
        super().__init__()
        cos, sin = np.cos(angle), np.sin(angle)
        self.rotation = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
        self.theta = nn.Parameter(self.rotation.T[:, 1] * np.log(std))

    def forward(self, states: Tensor) -> DiagGaussian:
        mean, log_std = self.rotation @ self.theta
        return DiagGaussian(mean.expand(len(states), 1), log_std.expand(1))


# %%
# The coupling of the two parameters is their correlation ρ = F₁₂ / √(F₁₁F₂₂). In closed form F = Rᵀ
# diag(1/σ², 2) R. If the other parameter is unknown, the variance of an estimate is larger by 1 / (1 − ρ²).

angles, couplings, spectra = np.linspace(0, np.pi / 2, 5 if SMALL else 19), {}, {}
blocks = {"first": slice(0, 1), "second": slice(1, 2)}
for std in (0.1, 0.25, 0.5):
    fishers = [ExactFisher(Rotated(std, angle), torch.zeros(1, 1)) for angle in angles]
    pairs = [block_coupling(f, f.to_dense().diag(), blocks).matrix[0, 1].item() for f in fishers]
    a, b, cos, sin = 1 / std**2, 2, np.cos(angles), np.sin(angles)
    first, second = a * cos**2 + b * sin**2, a * sin**2 + b * cos**2  # F₁₁, F₂₂
    expected = abs(a - b) * cos * sin / np.sqrt(first * second)
    assert pairs[0] == 0 and np.allclose(pairs, expected)  # exactly 0
    assert np.allclose([parameter_covariance(f, n=1)[0, 0] for f in fishers], 1 / first / (1 - expected**2))
    couplings[std] = pairs, expected

# %%
# A policy network of five layers: PyTorch's default initialisation, with a gain of 1/√3, and normal and
# orthogonal weights, both with a gain of √2. Measure the coupling between layers, as a share of ‖F‖², in
# units of its diagonal, and the number of directions that matter, as (Σe)² / Σe² for the eigenvalues e of F.


class Policy(nn.Module):
    """A tanh network for the mean; one log standard deviation per action."""

    def __init__(self, initialise, width: int):
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(2).double())
        hidden = [part for _ in range(3) for part in (nn.Tanh(), nn.Linear(width, width))]
        self.net = nn.Sequential(nn.Linear(6, width), *hidden, nn.Tanh(), nn.Linear(width, 2)).double()
        for layer in self.net[::2]:
            initialise(layer.weight)

    def forward(self, states: Tensor) -> DiagGaussian:
        return DiagGaussian(self.net(states), self.log_std)


states = torch.randn(32 if SMALL else 256, 6, generator=torch.Generator().manual_seed(0)).double()
kinds = {"normal": nn.init.kaiming_normal_, "orthogonal": lambda w: nn.init.orthogonal_(w, 2**0.5)}
for name, initialise in ({"default": lambda _: None} | kinds).items():
    for seed in range(1 if SMALL else 3):
        torch.manual_seed(seed)
        policy = Policy(initialise, width=8 if SMALL else 24)
        fisher, diagonal = ExactFisher(policy, states), DiagonalFisher(policy, states).diagonal
        layers = block_coupling(fisher, diagonal, fisher.parameters.by_module(), probes=20)
        e, between = torch.linalg.eigvalsh(fisher.to_dense()).flip(0), layers.off_diagonal_mass.value
        directions = e.sum() ** 2 / e.square().sum()
        print(f"{name}, seed {seed}: {between:.0%} of ‖F‖² is between layers, {directions:.1f} directions")
        assert (layers.matrix[0, 1:] == 0).all()  # log standard deviations and mean, exactly
        assert 0.6 < between < 0.8 and (directions > 6) == (name in kinds)
        spectra[name] = e[:200].clamp_min(1e-9)

# %%
# Left: lines are the closed form, points what ``block_coupling`` finds. Middle: only the log standard
# deviations are orthogonal to the rest. Right: the number of directions that matter, about 5 or about 20,
# depends on the gain, not on orthogonality.

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
for std, (pairs, expected) in couplings.items():
    left.plot(np.degrees(angles), expected, color="grey")
    left.plot(np.degrees(angles), pairs, "o", label=f"σ = {std:g}")
left.set(title="Gaussian", xlabel="rotation of the parameters (degrees)", ylabel="coupling ρ")
left.legend()
middle.imshow(layers.matrix.numpy(), cmap="Blues", vmin=0, vmax=1.6)
for (row, column), value in np.ndenumerate(layers.matrix.numpy()):
    middle.text(column, row, f"{value:.2f}", ha="center", va="center")
middle.set(title="coupling (orthogonal)", xlabel="columns in the same order", xticks=[])
middle.set_yticks(range(6), ["log σ", "layer 1", "layer 2", "layer 3", "layer 4", "layer 5"])
for name, e in spectra.items():
    right.semilogy(e, label=name)
right.set(title="eigenvalues of F", xlabel="rank", ylabel="eigenvalue (nats)", ylim=1e-6)
right.legend()
figure.savefig(os.environ.get("GALLERY_OUT", "parameter_orthogonality.png"), dpi=150)
