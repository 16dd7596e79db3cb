"""Sample the posterior of O-ring failures with NUTS; natural_gradient_vi.py compares with its moments.

Run ``pip install -c constraints.txt numpyro``, then ``python docs/gallery/data/oring_nuts.py`` (1 minute). It
prints each coefficient's posterior mean and standard deviation, with the Monte Carlo standard errors of both:

    mean                -0.826243 -1.193474
    error of the mean    0.001279  0.001468
    σ                    0.458178  0.517329
    error of σ           0.001121  0.001312

Data: 23 flights of the Space Shuttle before the Challenger accident, temperature at launch (°F) and whether
an O-ring was damaged; S. Dalal, E. Fowlkes, B. Hoadley, "Risk analysis of the Space Shuttle", JASA 84, 1989.
"""

import jax
import numpy as np
import numpyro
from numpyro import distributions as dist
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS

TEMPERATURE = [66, 70, 69, 68, 67, 72, 73, 70, 57, 63, 70, 78, 67, 53, 67, 75, 70, 81, 76, 79, 75, 76, 58]
DAMAGED = [0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1]
CHAINS, DRAWS, WARMUP = 4, 50_000, 2_000

jax.config.update("jax_enable_x64", True)
temperature = np.array(TEMPERATURE, dtype=float)
x = np.stack([np.ones(23), (temperature - temperature.mean()) / temperature.std()], axis=1)


def model() -> None:
    """Logistic regression with a standard normal prior on both coefficients."""
    w = numpyro.sample("w", dist.Normal(np.zeros(2), 1.0).to_event(1))
    numpyro.sample("damaged", dist.Bernoulli(logits=x @ w), obs=np.array(DAMAGED))


mcmc = MCMC(
    NUTS(model, target_accept_prob=0.9),
    num_warmup=WARMUP,
    num_samples=DRAWS,
    num_chains=CHAINS,
    chain_method="sequential",
    progress_bar=False,
)
mcmc.run(jax.random.PRNGKey(0))
draws = np.asarray(mcmc.get_samples(group_by_chain=True)["w"])  # (chains, draws, 2)
mean, deviation = draws.mean((0, 1)), draws.std((0, 1))
squares = (draws - mean) ** 2
mean_error = deviation / np.sqrt(effective_sample_size(draws))
square_error = squares.std((0, 1)) / np.sqrt(effective_sample_size(squares))
rows = {
    "mean": mean,
    "error of the mean": mean_error,
    "σ": deviation,
    "error of σ": square_error / (2 * deviation),
}
for name, (intercept, slope) in rows.items():
    print(f"{name:18} {intercept:9.6f} {slope:9.6f}")
