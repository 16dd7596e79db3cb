"""Action distributions as immutable values, each with its Fisher matrix in closed form.

A distribution is described by its *coordinates*, the tensors that a network returns: mean and log standard
deviation, or logits. `fisher_product` multiplies by the Fisher matrix M in those coordinates. With the
network's Jacobian J this gives the Fisher matrix Jᵀ M J of the parameters, without differentiating a
log-probability twice (Martens 2020, "New insights and perspectives on the natural gradient method", section
8).

Shapes: N states, A action dimensions, K choices. Results are summed over action dimensions (the *joint*
distribution): one value per state, in nats.

To add a distribution:

1.  Write one file here with a frozen dataclass, a subclass of `Distribution`, whose fields are tensors
    with one row per state. (N, ...) may also be (T, N, ...): reduce over the last dimension only.
2.  Implement every abstract method. `coordinates` returns the fields, which hold the tensors as the network
    returned them; override it and `snapshot` if a field is not a tensor.
    `log_prob`, `entropy` and `kl` return (N,) in nats, joint over action dimensions; `kl` is KL(self ‖
    new), finite with a finite derivative even if an action has probability 0. `fisher_product` multiplies
    by E[∇log π ∇log πᵀ], with ∇ the gradient with respect to the coordinates, and `fisher_root_product` by
    a square root of it. `sample` draws from the given generator. Call `check_shape` in `log_prob` and
    `check_pair` in `kl`, so that nothing broadcasts.
3.  Add it to the imports below and in `npg/__init__.py`. A distribution outside this package needs
    neither.
4.  Add it to tests/npg/test_distributions.py, and its counterpart in `torch.distributions` to
    tests/oracles.py. The tests compare log-probability, entropy and KL with torch's, the metric with the
    Hessian of the KL and with E[∇log π ∇log πᵀ] summed over all actions, the root with the metric, and
    float32 with float64 at extreme coordinates.

SB3's own action distributions are mapped to these in `agents.policy`.
"""

from npg.distributions.bernoulli import Bernoulli
from npg.distributions.beta import Beta
from npg.distributions.categorical import Categorical
from npg.distributions.distribution import Coordinates, Distribution
from npg.distributions.full_gaussian import FullGaussian
from npg.distributions.gaussian import DiagGaussian
from npg.distributions.multi_categorical import MultiCategorical

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "Coordinates",
    "DiagGaussian",
    "Distribution",
    "FullGaussian",
    "MultiCategorical",
]
