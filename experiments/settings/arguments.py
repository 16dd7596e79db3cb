"""The command line of train.py."""

import itertools
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
import tyro

from agents.hyperparameters import nearest
from experiments.algorithms import NAMES
from experiments.settings.tuning_seeds import check_reported

SCRIPT = Path(__file__).parents[2] / "train.py"


@dataclass(frozen=True)
class Arguments:
    """Train agents on Gymnasium tasks."""

    algo: tuple[str, ...] = ("trpo",)
    """vpg, npg, trpo, acktr; to compare with: sb3:ppo, sb3:a2c, contrib:trpo. Several make a grid."""
    env: tuple[str, ...] = ("CartPole-v1",)
    """Gymnasium environments."""
    steps: float | None = None
    """Environment steps; the configuration's by default, in a grid the most of any algorithm's."""
    seed: int = 0
    """Of policy, environments and sampling; the first, with --seeds."""
    seeds: int = 1
    """How many seeds, counted from --seed."""
    jobs: int | None = None
    """Runs at a time, in a grid; the number of cores by default."""
    config: Path | None = None
    """A YAML file in RL Zoo's format, in place of configs/<algo>.yaml."""
    set: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Settings to change, name=value each, or algo.name=value; repeatable."""
    out: Path = Path("runs")
    """Where run folders are made."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    n_envs: int | None = None
    """Environments side by side; the configuration's by default."""
    vec_env: str = "auto"
    """How they run: dummy (in this process), workers (one process a core), subproc (one each), envpool, or
    auto, which times a step and takes the faster of the first two; dummy where runs share the cores."""
    episodes: int = 100
    """Of the final deterministic evaluation; 0 for none."""
    geometry: int = 0
    """Updates from one look at the Fisher matrix to the next, logged under npg/geometry; 0 for none."""
    checkpoint_every: int = 10
    """Updates from one checkpoint to the next."""
    tune: int | None = None
    """Trials of a search for settings, in all."""
    resume: Path | None = None
    """The folder of a run that goes on from its last checkpoint, with the settings that it has."""
    allow_changes: bool = False
    """Resume also where settings, versions or the device are others than the checkpoint's."""

    def single(self, algo: str, env: str, seed: int) -> "Arguments":
        """Return the arguments of one run, without settings of others."""
        own = tuple(tuple(text for text in group if owner_of(text) in (None, algo)) for group in self.set)
        own = tuple(group for group in own if group)
        return replace(self, algo=(algo,), env=(env,), seed=seed, seeds=1, jobs=None, set=own)

    def check(self) -> None:
        """Check what can be checked without building anything, so that a mistake costs no time.

        Raises:
            ValueError: an argument makes no sense.
        """
        for algo in self.algo:
            if algo not in NAMES:
                raise ValueError(f"unknown algorithm {algo!r}{nearest(algo, NAMES)}")
        if min(self.episodes, self.seed, self.geometry) < 0:
            raise ValueError(
                f"expected --episodes ≥ 0, --seed ≥ 0 and --geometry ≥ 0, "
                f"got {self.episodes}, {self.seed} and {self.geometry}"
            )
        least = {name: getattr(self, name) for name in ("seeds", "jobs", "checkpoint_every", "tune")}
        for name, value in least.items():
            if value is not None and value < 1:
                raise ValueError(f"expected --{name.replace('_', '-')} ≥ 1, got {value}")
        check_reported([self.seed + self.seeds - 1])
        for name in ("algo", "env"):
            given = getattr(self, name)
            if len(set(given)) < max(len(given), 1):
                raise ValueError(f"expected different names after --{name}, got {' '.join(given) or 'none'}")
        for text in itertools.chain.from_iterable(self.set):
            if owner_of(text) not in (None, *self.algo):
                raise ValueError(
                    f"--set {text} is for {owner_of(text)}, and --algo has {' '.join(self.algo)}"
                )
        if self.device not in ("auto", "cpu") and not self.device.startswith("cuda"):
            raise ValueError(f"--device must be cpu, cuda or auto, got {self.device!r}")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(
                f"--device {self.device} needs a CUDA device, and torch sees none; use --device cpu"
            )

    def command(self) -> list[str]:
        """Return the command line that says this."""
        words = [sys.executable, str(SCRIPT)]
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            option = f"--{field.name.replace('_', '-')}"
            if value is True:
                words.append(option)
                continue
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            groups = value if field.name == "set" else [value if isinstance(value, tuple) else (value,)]
            for group in groups:
                words += [option, *map(str, group)]
        return words


def owner_of(text: str) -> str | None:
    """Return the algorithm that algo.name=value is for; None for name=value, which is for all."""
    owner, dot, _ = text.partition(".")
    return owner if dot and owner in NAMES else None
