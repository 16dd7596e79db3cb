"""The command line of `npg train` and train.py. Nothing here imports torch, so that --help is quick."""

import itertools
import shlex
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import tyro

from experiments.settings.tuning_seeds import check_reported


@dataclass(frozen=True)
class Task:
    """Choose the algorithms and the tasks. Several of either, or several seeds, make a grid of runs."""

    algo: tuple[str, ...] = ("trpo",)
    """Train these algorithms: vpg, npg, trpo, acktr; to compare with: sb3:ppo, sb3:a2c, contrib:trpo."""
    env: tuple[str, ...] = ("CartPole-v1",)
    """Train on these Gymnasium environments."""
    steps: float | None = None
    """Train for this many environment steps. The default is the configuration's; in a grid, the most of any
    algorithm's."""
    seed: int = 0
    """Seed policy, environments and sampling with this number; with --seeds, it is the first one."""
    seeds: int = 1
    """Make a run for each of this many seeds, counted from --seed."""


@dataclass(frozen=True)
class Hyperparameters:
    """Choose other hyper-parameters than those of configs/<algo>.yaml, or search for some."""

    config: Path | None = None
    """Read this YAML file in RL Zoo's format in place of configs/<algo>.yaml."""
    set: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    """Change settings: name=value each, or algo.name=value for one algorithm of a grid. Repeatable."""
    n_envs: int | None = None
    """Step this many environments side by side. The default is the configuration's."""
    tune: int | None = None
    """Search for hyper-parameters until the study has this many trials."""


@dataclass(frozen=True)
class Execution:
    """Choose where a run is written, and how it is computed."""

    out: Path = Path("runs")
    """Write run folders into this folder."""
    jobs: int | None = None
    """Make this many runs of a grid at a time. The default is the number of cores."""
    device: str = "auto"
    """Compute on cpu, on cuda, or on what is available with auto."""
    vec_env: str = "auto"
    """Step the environments by dummy (in this process), workers (one process per core), subproc (one process
    each) or envpool. With auto, a step is timed and the faster of the first two taken; where runs share the
    cores, dummy."""
    worker_timeout: float = 60.0
    """With workers, replace a process in which one reset or step of one environment takes longer than this
    many seconds; 0 for no limit."""


@dataclass(frozen=True)
class Records:
    """Choose what a run evaluates and records."""

    episodes: int = 100
    """Evaluate the trained agent on this many deterministic episodes; 0 for none."""
    geometry: int = 0
    """Log spectrum and condition of the Fisher matrix under npg/geometry every so many updates; 0 for
    never."""
    checkpoint_every: int = 10
    """Save a checkpoint every so many updates."""


@dataclass(frozen=True)
class Resume:
    """Resume a run from its newest checkpoint. All settings come from the run; only --steps may be added."""

    resume: Path | None = None
    """Resume the run in this folder."""
    allow_changes: bool = False
    """Resume even if settings, versions or the device differ from the checkpoint's."""


@dataclass(frozen=True)
class Grouped:
    """The groups of options, as --help shows them."""

    task: Task
    hyperparameters: Hyperparameters
    execution: Execution
    records: Records
    resuming: Resume


@dataclass(frozen=True)
class Arguments(Resume, Records, Execution, Hyperparameters, Task):
    """Train agents on Gymnasium tasks."""

    @classmethod
    def parse(
        cls, words: list[str] | None = None, *, prog: str = "npg train", description: str = ""
    ) -> "Arguments":
        """Read a command line; exit with code 2 and a message if it is invalid."""
        plain = (tyro.conf.OmitArgPrefixes,)
        groups = tyro.cli(Grouped, args=words, prog=prog, description=description, config=plain)
        return cls(**{name: value for group in vars(groups).values() for name, value in vars(group).items()})

    def single(self, algo: str, env: str, seed: int) -> "Arguments":
        """Return the arguments of one run, without settings of others."""
        own = tuple(tuple(text for text in group if owner_of(text) in (None, algo)) for group in self.set)
        own = tuple(group for group in own if group)
        return replace(self, algo=(algo,), env=(env,), seed=seed, seeds=1, jobs=None, set=own)

    def check(self) -> None:
        """Check what concerns the command alone; `RunSettings` checks what concerns a run.

        Raises:
            ValueError: an argument is invalid.
        """
        for name in ("seeds", "jobs", "tune"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"expected --{name} ≥ 1, got {value}")
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

    def words(self) -> list[str]:
        """Return the command-line options that give these arguments."""
        words = []
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

    def command(self) -> list[str]:
        """Return the command of a process with these arguments, and this one's Python and packages."""
        # -P, or folders of the current directory would shadow our packages.
        return [sys.executable, "-P", "-m", "experiments.command", "train", *self.words()]

    def __str__(self) -> str:
        """Return the command line for a user to type, in the form in which this process was started."""
        program = ["npg", "train"] if Path(sys.argv[0]).stem == "npg" else ["python", "train.py"]
        return shlex.join([*program, *self.words()])


def owner_of(text: str) -> str | None:
    """Return the algorithm that algo.name=value is for; None for name=value, which is for all."""
    owner, dot, _ = text.partition("=")[0].rpartition(".")
    return owner if dot else None
