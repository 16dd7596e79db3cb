"""Resolve a command line and a file of configs/ to the settings of one run, and build its agent."""

import copy
import itertools
from pathlib import Path
from typing import Any

import yaml
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents import REGISTRY
from agents.hyperparameters import check_names, check_ranges, defaults_of
from envs.atari import WRAPPER, is_atari
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
from experiments.settings.class_list import modules_of
from experiments.settings.config_file import config_file
from experiments.settings.expression import read_expression
from experiments.settings.run_settings import CLASSES, RUN_KEYS, UNUSED, RunSettings
from experiments.settings.wrapping import check_names as check_wrappers
from experiments.settings.yaml_numbers import whole

ATARI = {"policy": "CnnPolicy", "env_wrapper": WRAPPER, "frame_stack": 4}  # of a game, if not set
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
    changes = changes_of(arguments)
    check_names(changes, known, chosen.__name__)
    section, changes = (
        {name: without_python(name, value) for name, value in each.items()} for each in (section, changes)
    )
    usual: dict[str, Any] = {"normalize": False, "n_envs": 1, "policy": "MlpPolicy"}
    usual |= ATARI if is_atari(env_id) else {}
    values = usual | defaults | section | changes
    for name in ("policy_kwargs", "env_kwargs"):
        if isinstance(section.get(name), dict) and isinstance(changes.get(name), dict):
            # The command line changes single options; the section's others, e.g. normalisers, are kept.
            values[name] = section[name] | changes[name]
    if is_atari(env_id) and "NoFrameskip" not in env_id and WRAPPER in str(values["env_wrapper"]):
        values["env_kwargs"] = {"frameskip": 1} | (values.get("env_kwargs") or {})  # the wrapper skips frames
    given = {"n_timesteps": arguments.steps, "n_envs": arguments.n_envs}
    values |= {name: value for name, value in given.items() if value is not None}
    values = {name: value for name, value in values.items() if value is not None or name not in UNUSED}
    if "n_timesteps" not in values:
        raise ValueError(f"{path} ({env_id}) lacks n_timesteps; add it, or pass --steps")
    for module in own_modules(str(values["policy"])):
        import_user_module(module)
    policy_class(chosen, str(values["policy"]))
    if algo not in PEERS:  # so that a grid fails before its first run
        check_ranges(**{name: with_schedule(value) for name, value in values.items()})
    run: dict[str, Any] = {name: whole(values.pop(name)) for name in RUN_KEYS if name in values}
    settings = RunSettings(
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
    classes = modules_of(*(getattr(settings, name) for name in CLASSES))
    # The command line or --config names them; the environment's own is imported when it is looked up.
    for module in sorted(settings.modules - (own_modules(env_id) - classes)):
        try:
            import_user_module(module)
        except ModuleNotFoundError as error:
            owners = [name for name in CLASSES if module in modules_of(getattr(settings, name))]
            raise ValueError(
                f"{owners[0] if owners else 'policy'} is in {module}, which cannot be imported ({error}); "
                "install its package, or choose another"
            ) from error
    check_wrappers(settings)
    return settings


def changes_of(arguments: Arguments) -> dict[str, Any]:
    """Return the settings that the options --set, --env-kwargs and --env-wrapper give.

    Raises:
        ValueError: an option is not written as name=value, or its value is not YAML.
    """
    changes = dict(map(parse_override, itertools.chain.from_iterable(arguments.set)))
    for name in COMMAND_LINE & set(changes):
        raise ValueError(f"{name} is no setting of the agent; use the option --{name}")
    if arguments.env_kwargs:
        words = itertools.chain.from_iterable(arguments.env_kwargs)
        kwargs = dict(parse_override(word, "--env-kwargs") for word in words)
        changes["env_kwargs"] = (changes.get("env_kwargs") or {}) | kwargs
    if arguments.env_wrapper:
        parts = (parse_value(text, "--env-wrapper") for text in arguments.env_wrapper)
        changes["env_wrapper"] = [
            each for part in parts for each in (part if isinstance(part, list) else [part])
        ]
    return changes


def without_python(name: str, value: Any) -> Any:
    """Return the value of a setting; one that RL Zoo writes as Python, as the mapping that it is.

    Raises:
        ValueError: see `read_expression`.
    """
    python = isinstance(value, str) and (name.endswith("_kwargs") or name == "normalize")
    return read_expression(value, name) if python else value


def build(settings: RunSettings, env: VecEnv) -> OnPolicyAlgorithm:
    """Return the untrained agent that the settings describe.

    Raises:
        ImportError: the algorithm's package is not installed.
        ValueError: a name or a hyper-parameter is invalid. Classes of SB3 or users may raise others.
    """
    given = copy.deepcopy(dict(settings.hyperparameters))  # A2C changes its policy_kwargs
    options = {key: with_schedule(value) for key, value in given.items()}
    if isinstance(env.observation_space, spaces.Dict) and settings.policy in ("MlpPolicy", "CnnPolicy"):
        raise ValueError(f"observations of {settings.env} are a Dict; add --set policy=MultiInputPolicy")
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
    """Return the environment's section of a configuration file, or else `atari` for a game, or `default`.

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
    for name in (env_id, *(["atari"] if is_atari(env_id) else []), "default"):
        if name in sections:
            return dict(sections[name])
    raise ValueError(f"{path} has neither a section {env_id!r} nor one called 'default'")


def parse_override(text: str, option: str = "--set") -> tuple[str, Any]:
    """Return name and value of "name=value" or, for --set, "algo.name=value".

    Raises:
        ValueError: the name or the value is missing, or the value is not YAML.
    """
    owner = owner_of(text) if option == "--set" else None
    name, equals, value = text.removeprefix(f"{owner}.").partition("=")
    if not (name and equals and value):
        raise ValueError(f"expected name=value after {option}, got {text!r}")
    return name, parse_value(value, option)


def parse_value(text: str, option: str) -> Any:
    """Return the value of an option, which is written as YAML.

    Raises:
        ValueError: it is not YAML.
    """
    try:
        return yaml_numbers.load(text)
    except yaml.YAMLError:
        raise ValueError(f"cannot read the value {text!r} after {option}") from None
