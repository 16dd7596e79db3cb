"""Draw docs/geometry.png, and print the table of docs/fisher.md that goes with it.

    python benchmarks/geometry_figures.py                       # 2e5 steps of Hopper-v5, minutes
    python benchmarks/geometry_figures.py --steps 2e4 --folder runs/short

TRPO trains on Hopper-v5 with the shipped settings. `GeometryCallback` measures every fifth update. In every
tenth update, K-FAC's quadratic model along K-FAC's own step is measured too, and in three updates the
spectrum and the exact blocks. If the folder already has measurements, they are drawn without training. This
needs the `figures` and `mujoco` extras.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import tyro
from geometry_measurements import APPROXIMATIONS, DAMPINGS, MEASUREMENTS, ROOT, measure

import npg
from experiments.geometry import PREFIX

NAMES = ("log std", "layer 1", "layer 2", "mean")  # names of the policy's modules
GREY, BLUE, ORANGE = COLOURS = ("#8c8c8c", "#0072b2", "#d55e00")  # distinguishable for the colour-blind


def density(spectrum: npg.Spectrum, x: np.ndarray, blur: float = 0.12) -> np.ndarray:
    """Return the density of eigenvalues per decade, blurred as in `experiments.spectrum_figure.draw`."""
    counts = (spectrum.size * spectrum.weights / len(spectrum.values)).flatten().numpy()
    decades = spectrum.values.clamp(min=1e-9).log10().flatten().numpy()
    kernel = np.exp(-(((np.log10(x)[:, None] - decades) / blur) ** 2) / 2)
    return kernel @ counts / (blur * np.sqrt(2 * np.pi))


def main(steps: float = 2e5, seed: int = 0, folder: Path = Path("runs/geometry")) -> None:
    """Draw docs/geometry.png and print medians.

    Args:
        steps: number of training steps.
        seed: seed of the training.
        folder: folder of log, model and measurements.
    """
    if not (folder / MEASUREMENTS).exists():
        measure(int(steps), seed, folder)
    kl_models, spectra_by_step = torch.load(folder / MEASUREMENTS, weights_only=False)
    log = pd.read_csv(folder / "progress.csv").dropna(subset=PREFIX + "damping")
    places, last = log["time/total_timesteps"], list(spectra_by_step.values())[-1]
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    (spectra, sizes, gaps), (coupling, errors, shares) = axes

    x = np.logspace(-2.7, 2.5, 400)
    for colour, (step, measured) in zip(COLOURS, spectra_by_step.items(), strict=False):
        spectra.plot(x, density(measured["spectrum"], x), color=colour, label=f"{step / 1000:.0f}k steps")
    damping = log[PREFIX + "damping"].iloc[0]
    spectra.axvline(damping, color="k", ls=":", lw=1)
    spectra.text(damping * 1.15, 0.6, "damping", fontsize=9)
    spectra.set(xscale="log", yscale="log", ylim=(0.5, 2e3), xlabel="eigenvalue [nats]")
    spectra.set(ylabel="eigenvalues per decade", title="spectrum of F")

    for colour, name in zip(COLOURS, ("condition", "trace", "effective_dimension"), strict=True):
        sizes.plot(places, log[PREFIX + name], color=colour, label=name.replace("_", " "))
    sizes.set(yscale="log", title="size of F")
    gaps.plot(places, log[PREFIX + "empirical_gap"], color=BLUE, label="A = empirical Fisher")
    gaps.plot(places, log[PREFIX + "hessian_gap"], color=ORANGE, label="A = Hessian of -log π")
    gaps.set(ylim=0, title="gap ‖A - F‖ / ‖F‖, 1024 states")

    matrix = last["coupling"].matrix.numpy()
    coupling.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    coupling.set(xticks=range(4), yticks=range(4), xticklabels=NAMES, yticklabels=NAMES)
    for (i, j), value in np.ndenumerate(matrix):
        coupling.text(j, i, f"{value:.2f}", ha="center", va="center", color="w" if value > 0.5 else "k")
    coupling.set_title("coupling of blocks, after training")
    for place, (colour, kind) in enumerate(zip(COLOURS, APPROXIMATIONS, strict=True)):
        bars = errors.bar(np.arange(4) + 0.28 * (place - 1), last[kind], 0.26, color=colour, label=kind)
        errors.bar_label(bars, fmt="%.2f", fontsize=7)
    errors.set(xticks=range(4), xticklabels=NAMES, ylim=(0, 1.3), title="error of a block, after training")

    print("damping  undamped x'Kx / x'Fx   damped g'x / x'Fx   (medians, then first and last)")
    ratios = np.array(list(kl_models.values()))  # (updates, dampings, 2)
    for kind, (style, damped) in enumerate((("-", "undamped"), ("--", "damped"))):
        for i, (colour, value) in enumerate(zip(COLOURS, DAMPINGS, strict=True)):
            shares.plot(
                list(kl_models), ratios[:, i, kind], style, color=colour, label=f"λ = {value:g}, {damped}"
            )
    for value, ratio in zip(DAMPINGS, ratios.swapaxes(0, 1), strict=True):
        print(value, np.median(ratio, 0).round(2), ratio[0].round(2), ratio[-1].round(2))
    shares.axhline(1, color="k", ls=":", lw=1)
    shares.set(
        yscale="log", ylim=(0.07, 20), yticks=(0.1, 0.3, 1, 3), title="K-FAC's KL along its step / exact"
    )
    shares.yaxis.set_major_formatter("{x:g}")
    shares.yaxis.set_minor_formatter("")

    for ax in (sizes, gaps, shares):
        ax.set_xlabel("environment steps")
        ax.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x else "0")
    for ax in (spectra, sizes, gaps, errors, shares):
        ax.legend(frameon=False, fontsize=9, ncols=2 if ax is shares else 1)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(ROOT / "docs" / "geometry.png", dpi=110)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
