"""Draw the spectrum of a Fisher matrix."""

import importlib
import math
from typing import Any

import torch

from npg.geometry.spectrum import Estimate, Spectrum

BLUR = 0.12  # standard deviation of a Ritz value's peak, in decades
LEAST_DENSITY = 0.1  # lower end of the density's axis, in eigenvalues per decade
TINY = 1e-9  # replaces a density of 0 before its logarithm


def draw(found: Spectrum, damping: float, dimension: Estimate) -> Any:
    """Return a matplotlib figure of the density of eigenvalues and of the damping, on logarithmic axes.

    Every Ritz value is drawn as a Gaussian (Ghorbani, Krishnan & Xiao 2019, "An investigation into neural net
    optimization via Hessian eigenvalue density") with a standard deviation of `BLUR` decades. Eigenvalues
    that Lanczos does not resolve, mostly those near 0, share one peak; the title counts those that are 0 up
    to rounding.

    Raises:
        ImportError: matplotlib is missing.
    """
    # Not pyplot, which keeps every figure in memory and selects a GUI backend.
    figure = importlib.import_module("matplotlib.figure").Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    counts = (found.size * found.weights / len(found.values)).flatten()
    values = found.values.flatten()
    positive = values > found.largest * torch.finfo(torch.float32).eps
    zeros = float(counts[~positive].sum())
    counts, decades = counts[positive], values[positive].log10()
    ends = torch.cat([decades, torch.tensor([math.log10(damping)])])
    grid = torch.linspace(float(ends.min()) - 4 * BLUR, float(ends.max()) + 4 * BLUR, 500)
    kernel = torch.distributions.Normal(0.0, BLUR).log_prob(grid.unsqueeze(1) - decades).exp()
    density = (kernel * counts).sum(1).clamp(min=TINY).numpy()
    x = (10**grid).numpy()
    axes.fill_between(x, density, LEAST_DENSITY, where=density > LEAST_DENSITY, color="#9db8dc", linewidth=0)
    axes.plot(x, density, color="#2f5597", linewidth=1.5)
    axes.axvline(damping, color="#c0392b", linestyle="--")
    highest = 10 * max(1.0, density.max())
    axes.set(xscale="log", yscale="log", xlim=(x[0], x[-1]), ylim=(LEAST_DENSITY, highest))
    axes.annotate(
        f"damping {damping:.3g}",
        (damping, 1),
        xycoords=("data", "axes fraction"),
        xytext=(5, -6),
        textcoords="offset points",
        verticalalignment="top",
        color="#c0392b",
    )
    axes.set(xlabel="eigenvalue of the Fisher matrix [nats]", ylabel="eigenvalues per decade")
    error = f" ± {dimension.standard_error:.1f}" if math.isfinite(dimension.standard_error) else ""
    axes.set_title(
        f"{found.size} parameters, effective dimension {dimension.value:.1f}{error}"
        + (f", {zeros:.0f} eigenvalues at 0" if zeros >= 0.5 else "")
    )
    axes.grid(alpha=0.25)
    return figure
