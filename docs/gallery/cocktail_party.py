"""
Natural-gradient ICA: the cocktail party
========================================

Three microphones record a voice, a guitar and a drum; W shall separate them. The speed of the plain gradient
depends on where they stand; that of Amari's rule, W ← W + η (I − φ(y)yᵀ) W for y = Wx, does not. Nor does
that of F⁻¹ times the gradient, with F the Fisher matrix of W.

**Source**: S. Amari, Neural Computation 10, 1998; J.-F. Cardoso, B. Laheld, IEEE Trans. Signal Proc., 1996.

**Uses**: :class:`npg.EmpiricalFisher`.
"""

import os
from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO

import torch
from torch import Tensor, exp, nn, pi, sin

from experiments.extras import needs
from npg import EmpiricalFisher
from npg.distributions import Distribution

with needs("gallery"):
    import matplotlib.pyplot as plt
    from picard import amari_distance, picard
    from scipy.io import wavfile
    from sklearn.decomposition import FastICA


def player(what: str, sounds: Tensor) -> object:
    """Return sounds (T, 3) such that a page or a notebook that shows the result can play them."""
    html = f"<p>{what}</p>"
    for sound in sounds.T:
        wavfile.write(wav := BytesIO(), 8000, (32000 * sound / sound.abs().max()).short().numpy())
        html += f'<audio controls src="data:audio/wav;base64,{b64encode(wav.getvalue()).decode()}"></audio>'
    return type("Player", (), {"_repr_html_": lambda self: html})()


@dataclass(frozen=True, eq=False)
class Recording(Distribution):
    """Samples x with a given log-density (N, 1), which is all that ``EmpiricalFisher`` needs."""

    log_density: Tensor
    entropy = kl = fisher_product = fisher_root_product = sample = None

    def log_prob(self, _: Tensor) -> Tensor:
        """Return the log-density, (N,)."""
        return self.log_density[:, 0]


class Separation(nn.Linear):
    """The model: the y = Wx are independent, with density 1/(π cosh y), so that φ = tanh."""

    def forward(self, x: Tensor) -> Recording:
        """Return the density of x."""
        return Recording(self.weight.slogdet()[1] - (pi * super().forward(x).cosh()).log().sum(1, True))


# %%
# The sources: syllables (a falling pitch, formants of vowels), plucked strings and bursts of noise.
generator, h = torch.Generator().manual_seed(0), 2 * pi * torch.arange(1, 30)[:, None]
vowel, notes = (17, 40, 23, 35), 220 * 2 ** (torch.tensor([0, 3, 7, 12, 10, 5]) / 12)
sounds = {
    0.21: lambda k, t: exp(-((h - vowel[k % 4]) ** 2) / 40 - (20 * t - 2) ** 2) * sin(h * (99 - 60 * t) * t),
    0.27: lambda k, t: exp(-6 * h[:8] ** 0.5 * t) * sin(h[:8] * notes[k % 6] * t) / h[:8],
    0.25: lambda k, t: exp(-t / 0.07) * torch.randn(1, len(t), generator=generator) * (1 + k % 2),
}
samples, columns = 8000 if "GALLERY_SMALL" in os.environ else 24000, []
for period, sound in sounds.items():
    t = torch.arange(int(period * 8000)).double() / 8000
    columns.append(torch.cat([sound(k, t).sum(0) for k in range(samples // len(t) + 1)])[:samples])
sources = torch.stack([(column - column.mean()) / column.std() for column in columns], 1)
u, v, start = torch.linalg.qr(torch.randn(3, 3, 3, generator=generator).double())[0]
mixings = {c: u @ torch.tensor([1, c**-0.5, 1 / c]).double().diag() @ v for c in (1000, 1)}
player("microphones 1 to 3", sources @ mixings[1000].T)

# %%
# Each rule starts from the same W A, A being the mixing matrix, with condition 1000 or 1. Since WA says how
# much of each source is heard in each signal, the natural rules separate both mixtures alike, to 12 digits.
curves, heard, separation = {}, {}, Separation(3, 3, bias=False).double()
for name, step_size in (("plain gradient", 0.5), ("Amari's rule", 0.5), ("F⁻¹ gradient", 0.3)):
    for condition, mixing in mixings.items():
        x, w, distances = sources @ mixing.T, start @ mixing.inverse(), []
        for _ in range(60):
            y, separation.weight.data = x @ w.T, w
            step = (torch.eye(3) - y.tanh().T @ y / samples) @ (w if name[0] == "A" else w.inverse().T)
            if name[0] == "F":
                fisher = EmpiricalFisher(separation, x, x).to_dense()
                step = torch.linalg.solve(fisher, step.flatten()).view(3, 3)
            distances.append(amari_distance(w.numpy(), mixing.numpy()))
            w = w + step_size * step
        curves[name, condition], heard[name, condition] = distances, w @ mixing
    gap = (heard[name, 1] - heard[name, 1000]).abs().max() / heard[name, 1].abs().max()
    assert gap > 0.1 if name[0] == "p" else gap < 1e-12, (name, gap)
scores = (separation.weight.detach().inverse().T - y.tanh()[:, :, None] * x[:, None]).flatten(1)
assert torch.allclose(fisher, scores.T @ scores / samples, rtol=1e-10, atol=1e-12)
x, a = (sources @ mixings[1000].T).numpy(), mixings[1000].numpy()
fast = FastICA(whiten="unit-variance", random_state=0, tol=1e-8, max_iter=1000).fit(x).components_
whitening, rotation, _ = picard(x.T, ortho=False, random_state=0, tol=1e-9, max_iter=500)
references = {"FastICA": amari_distance(fast, a), "picard": amari_distance(rotation @ whitening, a)}
ours = curves["Amari's rule", 1000][-1]
assert abs(ours / references["picard"] - 1) < 1e-3 and ours < 1.1 * references["FastICA"], (ours, references)
player("separated", sources @ heard["Amari's rule", 1000].T)

# %%
# On both mixtures, the natural rules separate as well as picard, which finds the same W, and FastICA.
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for (name, condition), distances in curves.items():
    style = {"linewidth": 6, "alpha": 0.3} if condition == 1 else {"linestyle": "--"}
    axes.semilogy(
        distances, color=f"C{'pAF'.index(name[0])}", label=f"{name}, condition {condition}", **style
    )
for name, distance in references.items():
    axes.axhline(distance, color="grey" if name == "picard" else "black", linestyle=":", label=name)
axes.set(xlabel="step", ylabel="Amari distance (0: separated)")
axes.legend(fontsize="small")
figure.savefig(os.environ.get("GALLERY_OUT", "cocktail_party.png"), dpi=150)
