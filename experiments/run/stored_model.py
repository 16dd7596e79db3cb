"""A trained policy and its normaliser, read back from a run folder as plain data.

A run folder may be untrusted, so that nothing here unpickles: of model.zip only the tensors of
policy.pth are read, and vecnormalize.npz takes the place of SB3's vecnormalize.pkl. Names of algorithms and
policies are looked up in tables, never imported.
"""

import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from agents.policy.names import with_classes
from experiments.algorithms import agent_class, policy_class
from experiments.run.allocation_limit import AllocationLimit
from experiments.run.atomic_file import UnsafeFileError, reading, replacing
from experiments.run.stored_zip import StoredZip, read_tensors
from experiments.settings.run_settings import RunSettings

SWITCHES = ("training", "norm_obs", "norm_reward")
NUMBERS = ("clip_obs", "clip_reward", "gamma", "epsilon")
UNFINISHED = "{} is missing: the run is unfinished; train it to its end, or name another run"
MOMENT = re.compile(r"(return|observation_\d+)_(mean|var|count)\.npy")
SHOWN = 3  # tensors that an error names
MOST = 2**24  # bytes of a normaliser


def load_policy(settings: RunSettings, path: Path, env: VecEnv) -> ActorCriticPolicy:
    """Return the policy that a run has trained, on the CPU; it predicts as SB3's own `load` does.

    Args:
        settings: of the run.
        path: of its model.zip.
        env: whose spaces the policy is for; under its VecNormalize, if the run has one.

    Raises:
        FileNotFoundError: the run has no model yet.
        ImportError: the algorithm is sb3-contrib's, which is not installed.
        ValueError: the file is corrupt, or not for these settings or this environment.
    """
    algorithm, name = agent_class(settings.algo), settings.policy
    try:
        build: Any = policy_class(algorithm, name)
        policy_kwargs = with_classes(settings.hyperparameters.get("policy_kwargs") or {})
    except ValueError as error:
        raise ValueError(f"config.yaml beside {path}: {error}") from None
    state, hyperparameters = read_state(path), settings.hyperparameters
    seen = algorithm._wrap_env(env)  # images channel first, as the algorithm takes them
    try:
        # Initial parameters, which are replaced.
        with torch.random.fork_rng(devices=[]), AllocationLimit(state.values()):
            policy: ActorCriticPolicy = build(
                seen.observation_space,
                seen.action_space,
                lambda _: 0.0,  # the learning rate of an unused optimizer
                use_sde=bool(hyperparameters.get("use_sde")),
                **policy_kwargs,
            )
    except Exception as error:  # wrong options can raise any exception in a network
        raise ValueError(
            f"config.yaml beside {path}: {name} with these policy_kwargs cannot be built for "
            f"{seen.observation_space} ({type(error).__name__}: {error})"
        ) from error
    check_state(state, policy.state_dict(), path, settings.env)
    policy.load_state_dict(state)
    policy.set_training_mode(False)
    return policy


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the policy's tensors from a model that SB3 has saved; its `data`, a pickle, stays unread.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no policy, or not tensors alone.
    """
    if not path.exists():
        raise FileNotFoundError(UNFINISHED.format(path))
    try:
        with reading(path) as file:
            stored = StoredZip(file, os.fstat(file.fileno()).st_size).read("policy.pth")
        state = read_tensors(stored)
    except UnsafeFileError:
        raise
    except Exception as error:  # damaged bytes can raise any exception, in zipfile and in torch
        raise ValueError(
            f"{path} is corrupt, or not a model that SB3 has saved: expected a zip file whose policy.pth "
            f"holds tensors alone, got {first_sentence(error)}. Copy it again, or train again"
        ) from None
    if not (isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())):
        raise ValueError(f"policy.pth of {path} must map names to tensors alone; train again")
    return state


def check_state(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path, env_id: str) -> None:
    """Raise ValueError unless a policy's own tensors can be replaced by those of a file."""
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name!r:.60} is unknown" for name in state if name not in own]
    for name, tensor in own.items():
        found, expected = (f"{(*t.shape,)} {t.dtype} {t.layout}" for t in (state.get(name, tensor), tensor))
        if found != expected:
            problems.append(f"{name} should be {expected}, is {found}")
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError(
            f"{path} does not fit the policy that config.yaml describes on {env_id}: "
            f"{'; '.join(problems[:SHOWN])}{more}. Evaluate with the version of the environment that the run "
            "was trained with; config.yaml lists the versions of all packages"
        )
    if broken := [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]:
        raise ValueError(
            f"{path} holds numbers that are not finite, in {', '.join(broken[:SHOWN])}: the run has "
            "diverged, or the file is damaged. Train again, or take a checkpoint from before"
        )


def save_normaliser(normaliser: VecNormalize, path: Path) -> None:
    """Write a VecNormalize's statistics and settings as arrays and JSON, without its environments.

    Args:
        normaliser: as it is now.
        path: of the .npz file, replaced at once or not at all.
    """
    settings: dict[str, Any] = {name: bool(getattr(normaliser, name)) for name in SWITCHES}
    settings |= {name: float(getattr(normaliser, name)) for name in NUMBERS}
    settings["norm_obs_keys"] = normaliser.norm_obs_keys
    arrays: dict[str, Any] = {"settings": np.array(json.dumps(settings))}
    for name, moments in all_moments(normaliser).items():
        arrays |= {f"{name}_{part}": np.float64(getattr(moments, part)) for part in ("mean", "var", "count")}
    with replacing(path) as file:
        np.savez(file, **arrays)


def load_normaliser(path: Path, venv: VecEnv) -> VecNormalize:
    """Return what `save_normaliser` has written, around other environments, as VecNormalize's own `load`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is corrupt, or not for these observations.
    """
    if not path.exists():
        raise FileNotFoundError(missing_normaliser(path))
    try:
        with reading(path, MOST) as file:
            archive = StoredZip(file, MOST)
            settings = json.loads(str(archive.read_array("settings")))
            check_settings(settings)
            names = [name.removesuffix(".npy") for name in archive.names if MOMENT.fullmatch(name)]
            arrays = {name: archive.read_array(name) for name in names}
    except UnsafeFileError:
        raise
    except Exception as error:  # as in `read_state`
        raise ValueError(
            f"{path} is corrupt, or not a normaliser that train.py has saved ({first_sentence(error)}). "
            "Copy it again, or train again"
        ) from None
    try:
        normaliser = VecNormalize(venv, **settings)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is not for {venv.observation_space}: {error}") from None
    for name, moments in all_moments(normaliser).items():
        for part in ("mean", "var", "count"):
            found, own = arrays.pop(f"{name}_{part}", None), np.float64(getattr(moments, part))
            if found is None or (found.shape, found.dtype) != (own.shape, own.dtype):
                problem = "is missing" if found is None else f"is {found.shape} {found.dtype}"
                raise ValueError(
                    f"{path} is not for {venv.observation_space}: {name}_{part} should be {own.shape} "
                    f"float64 and {problem}. Use the version of the environment that the run was trained with"
                )
            if not np.isfinite(found).all() or (part != "mean" and (found < 0).any()):
                raise ValueError(f"{path} is damaged: {name}_{part} holds numbers that no {part} can be")
            setattr(moments, part, float(found) if part == "count" else found)
    return normaliser


def all_moments(normaliser: VecNormalize) -> dict[str, RunningMeanStd]:
    """Return the running moments by their names in the file; observations' keys, any text, are numbered."""
    found = {"return": normaliser.ret_rms}
    if normaliser.norm_obs:
        several = isinstance(normaliser.observation_space, spaces.Dict)
        moments: Any = normaliser.obs_rms
        parts = [moments[key] for key in normaliser.norm_obs_keys or ()] if several else [moments]
        found |= {f"observation_{i}": part for i, part in enumerate(parts)}
    return found


def first_sentence(error: Exception) -> str:
    """Return what went wrong, without advice such as to trust the file."""
    sentences = re.split(r"\.?\s*\n|\.\s", str(error))
    return f"{type(error).__name__}: {sentences[0]:.200}"


def check_settings(settings: Any) -> None:
    """Raise ValueError unless these are the arguments of a VecNormalize."""
    if not isinstance(settings, dict) or set(settings) != {*SWITCHES, *NUMBERS, "norm_obs_keys"}:
        raise ValueError("expected the settings of a VecNormalize, got others")
    keys = settings["norm_obs_keys"]
    valid = keys is None or (isinstance(keys, list) and all(isinstance(key, str) for key in keys))
    valid = valid and all(isinstance(settings[name], bool) for name in SWITCHES)
    if not (valid and all(type(settings[name]) is float and settings[name] >= 0 for name in NUMBERS)):
        raise ValueError("a setting has an invalid value")


def missing_normaliser(path: Path) -> str:
    """Return what to do if a run has no vecnormalize.npz."""
    pickled = path.with_suffix(".pkl")
    if not pickled.is_file():
        return UNFINISHED.format(path)
    convert = (
        "import sys, pickle; from pathlib import Path; "
        "from experiments.run.stored_model import save_normaliser; "
        "save_normaliser(pickle.load(open(sys.argv[1], 'rb')), Path(sys.argv[2]))"
    )
    return (
        f"{path} is missing; {pickled.name} beside it is a pickle, which can run code and is not read here. "
        f'If you trust who made it: python -c "{convert}" '
        f"{shlex.quote(str(pickled))} {shlex.quote(str(path))}"
    )
