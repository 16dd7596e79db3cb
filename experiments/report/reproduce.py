"""Write the commands that make the runs of a comparison again.

Runs may be untrusted: a command is derived only from settings that can be checked without importing a module.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from agents import ALGORITHMS
from experiments.algorithms import PEERS
from experiments.report.pooling import Group
from experiments.report.run_record import RunRecord
from experiments.run.run_folder import RunFolder
from experiments.settings.arguments import Arguments
from experiments.settings.configuration import resolve
from experiments.settings.run_settings import RunSettings

NEUTRAL = {
    "device",
    "vec_env",
    "worker_timeout",
    "seed",
    "track",
}  # not compared: they do not change what is learned
OWN_RANDOM_NUMBERS = ("envpool", "tensor")  # the other kinds of environments give the same results


@dataclass(frozen=True)
class Commands:
    """How to make runs again.

    Attributes:
        lines: command lines.
        missing: the algorithms and tasks that no command reproduces, with the reason.
    """

    lines: tuple[str, ...]
    missing: tuple[str, ...]


def commands(groups: Sequence[Group]) -> Commands:
    """Return the commands that make all runs again, one for as many algorithms and tasks as possible."""
    merged: list[Arguments] = []
    missing = []
    for group in groups:
        try:
            found = arguments_of(group)
        except Exception as error:  # settings of an untrusted run can be anything
            missing.append(f"{group.algorithm} on {group.environment}: {error!s:.300}")
            continue
        for one in found:
            add(merged, one)
    # Algorithms first, so that tasks with the same algorithms can be merged.
    tasks: list[Arguments] = []
    for one in merged:
        same = [k for k, other in enumerate(tasks) if replace(other, env=one.env) == one]
        if same:
            tasks[same[0]] = replace(tasks[same[0]], env=(*tasks[same[0]].env, *one.env))
        else:
            tasks.append(one)
    return Commands(tuple(str(one) for one in tasks), tuple(missing))


def add(merged: list[Arguments], one: Arguments) -> None:
    """Add the arguments of one algorithm to those of others on the same task, if all else is equal."""
    for k, other in enumerate(merged):
        if replace(other, algo=one.algo, set=one.set) == one and one.algo[0] not in other.algo:
            merged[k] = replace(other, algo=(*other.algo, *one.algo), set=(*other.set, *one.set))
            return
    merged.append(one)


def arguments_of(group: Group) -> list[Arguments]:
    """Return the arguments that make a group's runs, for each range of consecutive seeds.

    Raises:
        ValueError: no arguments give these settings, or that cannot be checked without importing a module.
    """
    plain = arguments_for(RunSettings.from_document(yaml.safe_load(group.records[0].config)))
    folders = {folder_of_runs(record) for record in group.records}
    if len(folders) == 1 and (out := folders.pop()) is not None:
        plain = replace(plain, out=out)
    seeds = [record.seed for record in group.records]
    starts = [k for k, seed in enumerate(seeds) if seed - 1 not in seeds]
    ends = [*starts[1:], len(seeds)]
    return [replace(plain, seed=seeds[a], seeds=b - a) for a, b in zip(starts, ends, strict=True)]


def folder_of_runs(record: RunRecord) -> Path | None:
    """Return the value of --out that gives a run its folder; None if it was moved."""
    if len(record.path.parents) < 3:
        return None
    out = record.path.parents[2]
    made = RunFolder.of(out, record.environment, record.algorithm, record.seed).path
    return out if made == record.path else None


def arguments_for(recorded: RunSettings) -> Arguments:
    """Return the arguments of one run with these settings; those of --set name its algorithm.

    Raises:
        ValueError: no arguments give these settings, or that cannot be checked without importing a module.
    """
    for name in (recorded.algo, recorded.policy):
        if ":" in name and name not in PEERS:
            raise ValueError(f"{name} is a class of its user; repeat the settings of config.yaml")
    if recorded.algo not in (*ALGORITHMS, *PEERS):
        raise ValueError("not an algorithm of this version")
    plain = Arguments(
        algo=(recorded.algo,),
        env=(recorded.env,),
        seed=recorded.seed,
        steps=float(recorded.n_timesteps),
        episodes=recorded.evaluation_episodes,
        geometry=recorded.geometry,
        checkpoint_every=recorded.checkpoint_every,
        eval_every=recorded.eval_every,
        vec_env=recorded.vec_env if recorded.vec_env in OWN_RANDOM_NUMBERS else "auto",
        device="auto" if recorded.device == "cpu" else recorded.device,
    )
    changes = [f"{name}={as_yaml(value)}" for name, value in changed(resolve(plain), recorded).items()]
    if changes:
        own = replace(plain, set=(tuple(changes),))
        if left := changed(resolve(own), recorded):
            raise ValueError(f"--set cannot express its {', '.join(left)}; see its config.yaml")
        plain = replace(plain, set=(tuple(f"{recorded.algo}.{text}" for text in changes),))
    return plain


def as_yaml(value: Any) -> str:
    """Return a value as YAML in one line, as --set reads it."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def changed(found: RunSettings, recorded: RunSettings) -> dict[str, Any]:
    """Return {name: recorded value} of the settings that have another value in `found`."""
    ours, theirs = flat(found), flat(recorded)
    return {name: value for name, value in theirs.items() if name not in ours or ours[name] != value}


def flat(settings: RunSettings) -> Mapping[str, Any]:
    """Return all settings that affect what is learned, by the names of --set."""
    values = {name: value for name, value in vars(settings).items() if name not in NEUTRAL}
    return values | dict(values.pop("hyperparameters"))
