"""What a search over an algorithm's settings may choose, as data."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agents.hyperparameters import nearest
from experiments.algorithms import NAMES, PEERS
from experiments.settings.configuration import RUN_KEYS
from experiments.settings.run_settings import RunSettings
from experiments.tuning.search_setting import Choice, Range, Setting, Suggests

UPDATES = 10  # that a budget must hold; with fewer a rollout's length is not worth a trial

GAMMA = Range("gamma", 1e-4, 0.2, complement=True)
GAE_LAMBDA = Range("gae_lambda", 0.7, 1.0, log=False)
ROLLOUT = (Choice("n_steps", (16, 32, 64, 128, 256, 512, 1024, 2048)), GAMMA, GAE_LAMBDA)
CRITIC = Range("n_critic_updates", 1, 30, integer=True)
TRUST_REGION = (Range("target_kl", 1e-3, 0.1), Range("cg_damping", 1e-3, 1.0), CRITIC)

# n_envs is not searched: at a given number of states an update it hardly changes what is learned, and the
# machine decides what it costs. critic_fit and the network are the base's: they decide what is compared.
SPACES: Mapping[str, tuple[Setting, ...]] = {
    "vpg": (*ROLLOUT, Range("learning_rate", 1e-4, 3e-2), CRITIC),
    "npg": (*ROLLOUT, *TRUST_REGION),
    "trpo": (*ROLLOUT, *TRUST_REGION),
    "acktr": (
        *ROLLOUT,
        Range("learning_rate", 0.03, 2.0),
        Range("target_kl", 1e-3, 0.3),
        Range("damping", 1e-2, 1.0),
        Range("momentum", 0.0, 0.95, log=False),
    ),
    "sb3:ppo": (
        *ROLLOUT,
        Range("learning_rate", 3e-5, 1e-2),
        Choice("batch_size", (32, 64, 128, 256, 512)),
        Range("n_epochs", 1, 20, integer=True),
        Range("clip_range", 0.05, 0.4),
    ),
    "sb3:a2c": (
        Choice("n_steps", (5, 8, 16, 32, 64, 128)),
        GAMMA,
        GAE_LAMBDA,
        Range("learning_rate", 1e-4, 1e-2),
        Range("ent_coef", 0.0, 0.02, log=False),
        Range("vf_coef", 0.1, 1.0),
    ),
    "contrib:trpo": (*ROLLOUT, *TRUST_REGION, Range("learning_rate", 1e-4, 1e-2)),
}


@dataclass(frozen=True)
class SearchSpace:
    """Every configuration that a search may try: a base, and the settings that vary.

    The base is one of them. A range that leaves its value out is extended to it; a setting whose value has
    no place on the axis, such as None or a 0 on a logarithmic one, is kept as it is.

    Attributes:
        base: the configuration that a search begins with.
        settings: what varies.
        kept: names of the algorithm's settings that stay as they are in the base.
    """

    base: RunSettings
    settings: tuple[Setting, ...]
    kept: tuple[str, ...]

    @classmethod
    def of(cls, algo: str, base: RunSettings) -> "SearchSpace":
        """Return an algorithm's space around a configuration.

        Raises:
            ValueError: the algorithm has no space, or the base makes a setting of it idle.
        """
        if algo not in SPACES:
            raise ValueError(f"there is no search space for {algo!r}{nearest(algo, NAMES)}")
        if base.hyperparameters.get("step_size") is not None:
            raise ValueError(
                f"target_kl is searched, and step_size={base.hyperparameters['step_size']} makes it idle; "
                "take step_size out of the configuration"
            )
        settings, kept = [], []
        for setting in (*SPACES[algo], *normalisation(algo, base)):
            value = read(base, setting.name)
            if setting.coordinate(value) is None:
                kept.append(setting.name)
            else:
                settings.append(trimmed(setting, base).including(value))
        return cls(base, tuple(settings), tuple(kept))

    @property
    def base_coordinates(self) -> dict[str, Any]:
        """Where the base lies."""
        return {s.axis: s.coordinate(read(self.base, s.name)) for s in self.settings}

    def suggest(self, trial: Suggests) -> RunSettings:
        """Draw a configuration."""
        return self.configuration({s.axis: s.suggest(trial) for s in self.settings})

    def configuration(self, coordinates: Mapping[str, Any]) -> RunSettings:
        """Return the configuration at coordinates; at the base's, exactly the base."""
        if coordinates == self.base_coordinates:
            return self.base
        values = {s.name: s.value(coordinates[s.axis], read(self.base, s.name)) for s in self.settings}
        return with_whole_minibatches(with_values(self.base, values))

    def described(self) -> dict[str, str]:
        """Return the axes and their extents, for people and for comparison with another space."""
        return {s.axis: str(s) for s in self.settings}


def normalisation(algo: str, base: RunSettings) -> Iterable[Setting]:
    """Return the switch of the observations' normaliser, the policy's own or `VecNormalize`."""
    if base.policy != "MlpPolicy":  # images have none, and of dictionaries VecNormalize takes boxes only
        return ()
    name = "normalize" if base.normalize or algo in PEERS else "policy_kwargs.normalize_observations"
    return (Choice(name, (False, True)),)


def trimmed(setting: Setting, base: RunSettings) -> Setting:
    """Return the setting without rollouts so long that the budget has no more than a few updates."""
    if setting.name != "n_steps" or isinstance(setting, Range):
        return setting
    longest = base.n_timesteps / (UPDATES * base.n_envs)
    return replace(setting, values=tuple(n for n in setting.values if n <= longest))


def read(configuration: RunSettings, name: str) -> Any:
    """Return a setting by its name."""
    if name in RUN_KEYS:
        return getattr(configuration, name)
    group, _, option = name.rpartition(".")
    if group:
        return (configuration.hyperparameters[group] or {}).get(option, False)
    return configuration.hyperparameters[name]


def with_values(configuration: RunSettings, values: Mapping[str, Any]) -> RunSettings:
    """Return a copy with other settings."""
    run = {name: value for name, value in values.items() if name in RUN_KEYS}
    hyperparameters = dict(configuration.hyperparameters)
    for name, value in values.items():
        group, _, option = name.rpartition(".")
        if group:
            hyperparameters[group] = {**(hyperparameters[group] or {}), option: value}
        elif name not in RUN_KEYS:
            hyperparameters[name] = value
    return replace(configuration, **run, hyperparameters=hyperparameters)


def with_whole_minibatches(configuration: RunSettings) -> RunSettings:
    """Return a copy whose batch_size divides a rollout's states: the divisor nearest in ratio."""
    options = configuration.hyperparameters
    batch_size = options.get("batch_size")
    if batch_size is None or options.get("critic_fit") == "lbfgs":  # which reads no batch_size
        return configuration
    states = options["n_steps"] * configuration.n_envs
    divisors = [n for n in range(1, states + 1) if states % n == 0]
    whole = min(divisors, key=lambda n: abs(math.log(n / batch_size)))
    return with_values(configuration, {"batch_size": whole})
