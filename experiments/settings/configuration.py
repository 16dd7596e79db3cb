"""What one run does: an algorithm's hyper-parameters on one environment."""

import inspect
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents.hyperparameters import check_names, names_of, nearest

# Keys of a section that are the run's and not the agent's, by RL Zoo's names.
RUN_KEYS = ("n_timesteps", "policy", "n_envs", "normalize")
COMMAND_LINE = {"seed", "device"}  # options of train.py that are looked for among the settings


@dataclass(frozen=True)
class Configuration:
    """A fully resolved run.

    Attributes:
        n_timesteps: steps of all environments together.
        policy: SB3's name of the policy.
        n_envs: environments that run side by side.
        normalize: whether observations and rewards are normalised by running statistics.
        hyperparameters: every argument of the agent's constructor that is not plumbing.
    """

    n_timesteps: int
    policy: str
    n_envs: int
    normalize: bool
    hyperparameters: Mapping[str, Any]

    @classmethod
    def read(
        cls,
        path: Path,
        env_id: str,
        agent_class: type[OnPolicyAlgorithm],
        overrides: Iterable[str] = (),
    ) -> "Configuration":
        """Read the environment's section, or `default`, of a YAML file in RL Zoo's format.

        Args:
            path: of the file.
            env_id: names the section.
            agent_class: whose constructor gives the known names and the defaults.
            overrides: "name=value" each, the value in YAML.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file, a name or a value makes no sense.
        """
        section = read_section(path, env_id)
        defaults = {
            name: inspect.signature(agent_class).parameters[name].default for name in names_of(agent_class)
        }
        known = [*RUN_KEYS, *defaults]
        check_names(section, known, f"{path} ({env_id})")
        changes = dict(parse_override(text) for text in overrides)
        for name in COMMAND_LINE & set(changes):
            raise ValueError(f"{name} is no setting of the agent; use the option --{name}")
        check_names(changes, known, agent_class.__name__)
        values = {"normalize": False, "n_envs": 1, "policy": "MlpPolicy"} | defaults | section | changes
        if isinstance(section.get("policy_kwargs"), dict) and isinstance(changes.get("policy_kwargs"), dict):
            # One option of the policy is changed; the section's others, its normalisers, stay.
            values["policy_kwargs"] = section["policy_kwargs"] | changes["policy_kwargs"]
        if "n_timesteps" not in values:
            raise ValueError(f"{path} ({env_id}) lacks n_timesteps; add it, or pass --steps")
        for name in ("n_timesteps", "n_envs"):
            values[name] = positive_integer(name, values[name])
        if not isinstance(values["normalize"], bool):
            raise ValueError(f"normalize must be true or false, got {values['normalize']!r}")
        check_policy(values, agent_class)
        run: dict[str, Any] = {name: values.pop(name) for name in RUN_KEYS}
        return cls(**run, hyperparameters=values)

    def with_run(self, **changes: Any) -> "Configuration":
        """Return a copy with other run settings; None leaves one as it is.

        Raises:
            ValueError: a value is no positive integer.
        """
        given: dict[str, Any] = {
            name: positive_integer(name, value) for name, value in changes.items() if value is not None
        }
        return replace(self, **given)


def check_policy(values: Mapping[str, Any], agent_class: type[OnPolicyAlgorithm]) -> None:
    """Check the name and the options of the policy.

    Raises:
        ValueError: there is no such policy, or its options make no sense.
    """
    if values["policy"] not in agent_class.policy_aliases:
        known = agent_class.policy_aliases
        raise ValueError(f"unknown policy {values['policy']!r}{nearest(str(values['policy']), known)}")
    options = values["policy_kwargs"]
    if not isinstance(options, dict | None):
        raise ValueError(f"policy_kwargs must be a mapping such as {{net_arch: [64, 64]}}, got {options!r}")
    if values["normalize"] and options and options.get("normalize_observations"):
        raise ValueError(
            "normalize (VecNormalize) and policy_kwargs.normalize_observations (its own) are both on; "
            "add --set 'policy_kwargs={normalize_observations: false, normalize_returns: false}'"
        )


def read_section(path: Path, env_id: str) -> dict[str, Any]:
    """Return the environment's section of a configuration file, else the one called `default`."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no configuration file {path}")
    try:
        sections = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(sections, dict) or not all(isinstance(s, dict) for s in sections.values()):
        raise ValueError(f"{path} must map environment ids to settings, as the files in configs/ do")
    for name in (env_id, "default"):
        if name in sections:
            return dict(sections[name])
    raise ValueError(f"{path} has neither a section {env_id!r} nor one called 'default'")


def parse_override(text: str) -> tuple[str, Any]:
    """Return name and value of "name=value".

    Raises:
        ValueError: there is no name, no value, or the value is not YAML.
    """
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"expected name=value after --set, got {text!r}")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"cannot read the value in --set {text!r}") from None
    if isinstance(parsed, str):
        with suppress(ValueError):
            parsed = float(parsed)  # YAML 1.1 takes 1e-3 for a word
            parsed = int(parsed) if parsed.is_integer() else parsed
    return name, parsed


def positive_integer(name: str, value: Any) -> int:
    """Return a value such as 8 or 1e6 as an integer.

    Raises:
        ValueError: it is none, or below 1.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 1 and value == value // 1:
        return int(value)
    raise ValueError(f"{name} must be an integer ≥ 1, got {value!r}")
