"""The configurations that a search may try: a base, and the settings that vary around it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from agents.hyperparameters import nearest
from experiments.algorithms import PEERS, names
from experiments.settings.run_settings import RUN_KEYS, RunSettings
from experiments.tuning.search_setting import Choice, Range, Setting
from experiments.tuning.spaces import searched_settings

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

UPDATES = 10  # least number of updates in a trial's budget; longer rollouts are not tried


@dataclass(frozen=True)
class SearchSpace:
    """A base configuration, and the settings that vary.

    The base is part of the space: a range that does not contain the base's value is extended to it. A setting
    whose base value has no coordinate, e.g. None, or 0 on a logarithmic scale, does not vary.

    Attributes:
        base: the configuration that a search starts from.
        settings: the settings that vary.
        kept: names of searchable settings that do not vary, since their base value has no coordinate.
    """

    base: RunSettings
    settings: tuple[Setting, ...]
    kept: tuple[str, ...]

    @classmethod
    def of(cls, algo: str, base: RunSettings) -> "SearchSpace":
        """Return the space of an algorithm around a configuration.

        Raises:
            ValueError: the algorithm has no search space, or a searched setting has no effect in the base.
        """
        searched = searched_settings(algo)
        if not searched:
            raise ValueError(f"there is no search space for {algo!r}{nearest(algo, names())}")
        if base.hyperparameters.get("step_size") is not None:
            raise ValueError(
                f"the search varies target_kl, but with step_size={base.hyperparameters['step_size']} it has "
                "no effect; remove step_size from the configuration"
            )
        settings, kept = [], []
        for setting in (*searched, *normalisation(algo, base)):
            value = read(base, setting.name)
            if setting.coordinate(value) is None:
                kept.append(setting.name)
            else:
                settings.append(trimmed(setting, base).including(value))
        return cls(base, tuple(settings), tuple(kept))

    @property
    def base_coordinates(self) -> dict[str, Any]:
        """The coordinates of the base."""
        return {s.axis: s.coordinate(read(self.base, s.name)) for s in self.settings}

    def suggest(self, trial: "BaseTrial") -> RunSettings:
        """Sample a configuration."""
        return self.configuration({s.axis: s.suggest(trial) for s in self.settings})

    def configuration(self, coordinates: Mapping[str, Any]) -> RunSettings:
        """Return the configuration at coordinates; at those of the base, exactly the base."""
        if coordinates == self.base_coordinates:
            return self.base
        values = {s.name: s.value(coordinates[s.axis], read(self.base, s.name)) for s in self.settings}
        return with_whole_minibatches(with_values(self.base, values))

    def described(self) -> dict[str, str]:
        """Return the axes and their ranges as text."""
        return {s.axis: str(s) for s in self.settings}


def normalisation(algo: str, base: RunSettings) -> Iterable[Setting]:
    """Return the setting that switches the observation normaliser, the policy's own or `VecNormalize`."""
    # Images are not normalised, and dictionaries only in part; a mapping says what is normalised.
    if base.policy != "MlpPolicy" or not isinstance(base.normalize, bool):
        return ()
    name = "normalize" if base.normalize or algo in PEERS else "policy_kwargs.normalize_observations"
    return (Choice(name, (False, True)),)


def trimmed(setting: Setting, base: RunSettings) -> Setting:
    """Return the setting without rollouts that leave fewer than `UPDATES` updates in the budget."""
    if setting.name != "n_steps" or isinstance(setting, Range):
        return setting
    longest = base.n_timesteps / (UPDATES * base.n_envs)
    return replace(setting, values=tuple(n for n in setting.values if n <= longest))


def read(configuration: RunSettings, name: str) -> Any:
    """Return the value of a setting."""
    if name in RUN_KEYS:
        return getattr(configuration, name)
    group, _, option = name.rpartition(".")
    if group:
        return (configuration.hyperparameters[group] or {}).get(option, False)
    return configuration.hyperparameters[name]


def with_values(configuration: RunSettings, values: Mapping[str, Any]) -> RunSettings:
    """Return a copy with changed settings."""
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
    """Return a copy with batch_size replaced by the nearest divisor, in ratio, of a rollout's states."""
    options = configuration.hyperparameters
    batch_size = options.get("batch_size")
    if batch_size is None or options.get("critic_fit") == "lbfgs":  # L-BFGS ignores batch_size
        return configuration
    states = options["n_steps"] * configuration.n_envs
    divisors = [n for n in range(1, states + 1) if states % n == 0]
    whole = min(divisors, key=lambda n: abs(math.log(n / batch_size)))
    return with_values(configuration, {"batch_size": whole})
