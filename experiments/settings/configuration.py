"""Resolve a command line and a file of configs/ to the settings of one run, and build its agent."""

import copy
import itertools
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents import REGISTRY
from agents.hyperparameters import check_critic_fit, check_names, check_ranges, defaults_of
from envs.user_modules import import_user_module
from experiments.algorithms import (
    PEERS,
    agent_class,
    configured_as,
    folder_name,
    own_modules,
    policy_class,
    with_schedule,
)
from experiments.settings import yaml_numbers
from experiments.settings.arguments import Arguments, owner_of
from experiments.settings.config_file import config_file
from experiments.settings.run_settings import RunSettings
from experiments.settings.yaml_numbers import whole

# Keys of a section that are not arguments of the agent; the names are RL Zoo's.
RUN_KEYS = ("n_timesteps", "policy", "n_envs", "normalize")
COMMAND_LINE = {"seed", "device"}  # arguments of the agent that are options of the command instead


def resolve(arguments: Arguments) -> RunSettings:
    """Return the settings of the one run that a command line describes.

    In increasing precedence, they come from: the defaults of the agent's constructor; the environment's
    section, or else `default`, of configs/<algo>.yaml or --config; --set; --steps and --n-envs.

    Raises:
        FileNotFoundError: the configuration file does not exist.
        ImportError: the algorithm's package is not installed.
        ValueError: the file, a name or a value is invalid.
    """
    (algo,), (env_id,) = arguments.algo, arguments.env
    path, chosen = arguments.config or default_config(algo), agent_class(algo)
    defaults = defaults_of(chosen)
    known = [*RUN_KEYS, *defaults]
    section = read_section(path, env_id)
    check_names(section, known, f"{path} ({env_id})")
    changes = dict(map(parse_override, itertools.chain.from_iterable(arguments.set)))
    for name in COMMAND_LINE & set(changes):
        raise ValueError(f"{name} is no setting of the agent; use the option --{name}")
    check_names(changes, known, chosen.__name__)
    values = {"normalize": False, "n_envs": 1, "policy": "MlpPolicy"} | defaults | section | changes
    if isinstance(section.get("policy_kwargs"), dict) and isinstance(changes.get("policy_kwargs"), dict):
        # --set changes single options of the policy; the section's others, e.g. its normalisers, are kept.
        values["policy_kwargs"] = section["policy_kwargs"] | changes["policy_kwargs"]
    given = {"n_timesteps": arguments.steps, "n_envs": arguments.n_envs}
    values |= {name: value for name, value in given.items() if value is not None}
    if "n_timesteps" not in values:
        raise ValueError(f"{path} ({env_id}) lacks n_timesteps; add it, or pass --steps")
    for module in own_modules(str(values["policy"])):
        import_user_module(module)
    policy_class(chosen, str(values["policy"]))
    if algo not in PEERS:  # so that a grid fails before its first run
        check_ranges(**{name: with_schedule(value) for name, value in values.items()})
        if "critic_fit" in values:
            check_critic_fit(chosen, values["critic_fit"])
    run: dict[str, Any] = {name: whole(values.pop(name)) for name in RUN_KEYS}
    return RunSettings(
        algo=algo,
        env=env_id,
        seed=arguments.seed,
        device=arguments.device,
        vec_env=arguments.vec_env,
        evaluation_episodes=arguments.episodes,
        geometry=arguments.geometry,
        checkpoint_every=arguments.checkpoint_every,
        eval_every=arguments.eval_every,
        track=arguments.track,
        worker_timeout=arguments.worker_timeout,
        **run,
        hyperparameters=values,
    )


def build(settings: RunSettings, env: VecEnv) -> OnPolicyAlgorithm:
    """Return the untrained agent that the settings describe.

    Raises:
        ImportError: the algorithm's package is not installed.
        ValueError: a name or a hyper-parameter is invalid. Classes of SB3 or users may raise others.
    """
    given = copy.deepcopy(dict(settings.hyperparameters))  # A2C changes its policy_kwargs
    options = {key: with_schedule(value) for key, value in given.items()}
    chosen = agent_class(settings.algo)
    policy = (
        settings.policy if settings.policy in chosen.policy_aliases else policy_class(chosen, settings.policy)
    )
    return chosen(policy, env, seed=settings.seed, device=settings.device, **options)


def default_config(name: str) -> Path:
    """Return the path of an algorithm's settings file, which is used unless --config names another."""
    name = configured_as(name)
    given = REGISTRY[name].config if name in REGISTRY else None
    if isinstance(given, Path) or (given and given.endswith((".yaml", ".yml"))):
        return Path(given)
    return config_file(f"{given or folder_name(name)}.yaml")


def read_section(path: Path, env_id: str) -> dict[str, Any]:
    """Return the environment's section of a configuration file, or else the section `default`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is invalid, or has neither section.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no configuration file {path}")
    try:
        sections = yaml_numbers.load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(sections, dict) or not all(isinstance(s, dict) for s in sections.values()):
        raise ValueError(f"{path} must map environment ids to settings, as the files in configs/ do")
    for name in (env_id, "default"):
        if name in sections:
            return dict(sections[name])
    raise ValueError(f"{path} has neither a section {env_id!r} nor one called 'default'")


def parse_override(text: str) -> tuple[str, Any]:
    """Return name and value of "name=value" or "algo.name=value".

    Raises:
        ValueError: the name or the value is missing, or the value is not YAML.
    """
    name, equals, value = text.removeprefix(f"{owner_of(text)}.").partition("=")
    if not (name and equals and value):
        raise ValueError(f"expected name=value after --set, got {text!r}")
    try:
        return name, yaml_numbers.load(value)
    except yaml.YAMLError:
        raise ValueError(f"cannot read the value in --set {text!r}") from None
