"""The command line of `npg train` and train.py. Nothing here imports torch, so that --help is quick."""

import difflib
import itertools
import shlex
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import tyro

from experiments.settings.option_types import MaybeNumber, MaybeWhole, Whole, shown
from experiments.settings.tuning_seeds import check_reported
from experiments.terminal import show

AUTO = Path("auto")  # of --resume


@dataclass(frozen=True)
class Task:
    """Choose algorithms, environments and seeds. More than one of any of these makes a grid of runs."""

    algo: Annotated[tuple[str, ...], shown("ALGO [ALGO ...]")] = ("trpo",)
    """Train these algorithms: vpg, npg, trpo, acktr; or, as baselines, sb3:ppo, sb3:a2c, contrib:trpo."""
    env: Annotated[tuple[str, ...], shown("ENV [ENV ...]")] = ("CartPole-v1",)
    """Train on these Gymnasium environments. module:Name-v0 imports the module that registers the id."""
    import_: Annotated[tuple[str, ...], tyro.conf.arg(name="import", metavar="MODULE [MODULE ...]")] = ()
    """Import these modules first, e.g. one that registers an environment or an algorithm."""
    steps: Annotated[MaybeNumber, shown("N", "as configured; in a grid, the largest number")] = None
    """Train for this many environment steps, e.g. 1e6."""
    env_kwargs: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]], shown("NAME=VALUE [NAME=VALUE ...]")
    ] = ()
    """Give these arguments to every environment, e.g. size=7 continuous=true."""
    env_wrapper: Annotated[tuple[str, ...], shown("CLASS [CLASS ...]", "none")] = ()
    """Wrap every environment in these, e.g. my_envs.Wrapper or "{my_envs.Wrapper: {name: value}}"; the first
    one is the innermost."""
    seed: Annotated[Whole, shown("N")] = 0
    """Seed policy, environments and sampling with this number. With --seeds, this is the first seed."""
    seeds: Annotated[Whole, shown("N")] = 1
    """Train one run for each of this many consecutive seeds."""


@dataclass(frozen=True)
class Hyperparameters:
    """Change hyper-parameters, or search for better ones."""

    config: Annotated[Path | None, shown("FILE", "configs/<algo>.yaml")] = None
    """Read settings from this YAML file in RL Zoo's format."""
    set: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]], shown("NAME=VALUE [NAME=VALUE ...]")
    ] = ()
    """Change settings. In a grid, algo.name=value changes a setting of one algorithm."""
    n_envs: Annotated[MaybeWhole, shown("N", "as configured")] = None
    """Step this many environments in parallel."""
    tune: Annotated[MaybeWhole, shown("TRIALS", "no search")] = None
    """Search for hyper-parameters until the study has this many trials."""


@dataclass(frozen=True)
class Execution:
    """Choose where results are written, and how they are computed."""

    out: Annotated[Path, shown("FOLDER")] = Path("runs")
    """Write run folders into this folder."""
    jobs: Annotated[MaybeWhole, shown("N", "the number of cores")] = None
    """Train this many runs of a grid, or trials of a search, in parallel."""
    cluster: Annotated[str | None, shown("ADDRESS", "this machine's processes")] = None
    """Make each run of a grid, or trial of a search, a task of Ray. With ray, start Ray on this machine;
    otherwise, use the cluster at this address: auto on one of its nodes, or HOST:PORT."""
    gpu_share: Annotated[float, shown("SHARE")] = 1.0
    """With --cluster and --device cuda, reserve this share of a GPU for each run."""
    device: Annotated[str, shown("{auto,cpu,cuda}")] = "auto"
    """Compute on this device. With auto, use a GPU only if there is one and a timing test finds it faster."""
    vec_env: Annotated[str, shown("{auto,dummy,workers,subproc,envpool,tensor}")] = "auto"
    """Step environments in one process (dummy), one per core (workers), one each (subproc), with EnvPool, or
    as tensors on --device. With auto, a step is timed to choose dummy or workers; runs that share the cores
    use dummy."""
    worker_timeout: Annotated[float, shown("SECONDS")] = 60.0
    """With workers, replace a process if a reset or step takes longer than this; 0 for no limit."""
    rank_timeout: Annotated[float, shown("SECONDS")] = 600.0
    """With torchrun, stop all ranks if one lets the others wait for longer than this."""


@dataclass(frozen=True)
class Records:
    """Choose what is evaluated and recorded."""

    episodes: Annotated[Whole, shown("N")] = 100
    """Evaluate the trained agent on this many deterministic episodes; 0 for none."""
    eval_every: Annotated[Whole, shown("N")] = 0
    """Also evaluate every N updates, on 10 episodes, and keep the best policy (`--checkpoint best`); 0 for
    never."""
    track: Annotated[str, shown("{wandb,mlflow,trackio,module:make}", "no tracking")] = ""
    """Also send the log to this tracker, or to the `KVWriter` of SB3 that module.make(run) returns."""
    geometry: Annotated[Whole, shown("N")] = 0
    """Log the spectrum and condition number of the Fisher matrix every N updates; 0 for never."""
    checkpoint_every: Annotated[Whole, shown("N")] = 10
    """Save a checkpoint every N updates."""


@dataclass(frozen=True)
class Resume:
    """Resume a run from its newest checkpoint. With a folder, only --steps and --import may be added."""

    resume: Annotated[Path | None, shown("RUN", "start a new run")] = None
    """Resume the run in this folder. With auto, resume the run of this command if there is one to resume."""
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
        """Parse a command line; exit with code 2 and a message if it is invalid."""
        plain = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
        groups, unknown = tyro.cli(
            Grouped, args=words, prog=prog, description=description, config=plain, return_unknown_args=True
        )
        if unknown:
            show(f"error: {about_unknown(*unknown)}; {prog} --help lists all options", error=True)
            sys.exit(2)
        return cls(**{name: value for group in vars(groups).values() for name, value in vars(group).items()})

    def single(self, algo: str, env: str, seed: int) -> "Arguments":
        """Return the arguments of one run of a grid, without settings for other algorithms."""
        own = tuple(tuple(text for text in group if owner_of(text) in (None, algo)) for group in self.set)
        own = tuple(group for group in own if group)
        return replace(
            self,
            algo=(algo,),
            env=(env,),
            seed=seed,
            seeds=1,
            jobs=None,
            cluster=None,
            gpu_share=1.0,
            set=own,
        )

    def check(self) -> None:
        """Check the arguments that concern the whole command; `RunSettings` checks those of a run.

        Raises:
            ValueError: an argument is invalid.
        """
        for name in ("seeds", "jobs", "tune"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"expected --{name} ≥ 1, got {value}")
        if not 0 < self.gpu_share <= 1:
            raise ValueError(f"expected 0 < --gpu-share ≤ 1, got {self.gpu_share:g}")
        check_reported([self.seed + self.seeds - 1])
        for name in ("algo", "env"):
            given = getattr(self, name)
            if len(set(given)) < max(len(given), 1):
                raise ValueError(f"expected different names after --{name}, got {' '.join(given) or 'none'}")
        for text in itertools.chain.from_iterable(self.set):
            if "=" not in text:
                raise ValueError(f"expected name=value after --set, got {text!r}")
            if owner_of(text) not in (None, *self.algo):
                raise ValueError(
                    f"--set {text} is for {owner_of(text)}, and --algo has {' '.join(self.algo)}"
                )

    def words(self) -> list[str]:
        """Return the command-line options that are parsed as these arguments."""
        words = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            option = f"--{field.name.rstrip('_').replace('_', '-')}"
            if value is True:
                words.append(option)
                continue
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            groups = (
                value
                if field.name in ("set", "env_kwargs")
                else [value if isinstance(value, tuple) else (value,)]
            )
            for group in groups:
                words += [option, *map(str, group)]
        return words

    def command(self) -> list[str]:
        """Return the command that runs these arguments in a new process, with this Python."""
        # With -P, folders in the current directory cannot shadow our packages.
        return [sys.executable, "-P", "-m", "experiments.command", "train", *self.words()]

    def __str__(self) -> str:
        """Return the command line for a user to type, with npg or train.py, as this process was started."""
        program = ["npg", "train"] if Path(sys.argv[0]).stem == "npg" else ["python", "train.py"]
        return shlex.join([*program, *self.words()])


def owner_of(text: str) -> str | None:
    """Return algo of "algo.name=value"; None for "name=value", which is for all algorithms."""
    owner, dot, _ = text.partition("=")[0].rpartition(".")
    return owner if dot else None


def about_unknown(word: str, value: str = "VALUE", *more: str) -> str:
    """Return what is wrong with the first of the words that belong to no option, and what may be meant."""
    if not word.startswith("-"):
        return f"{word!r} belongs to no option; for an environment, write --env {word}"
    name, _, given = word.lstrip("-").partition("=")
    options = [field.name.rstrip("_").replace("_", "-") for field in fields(Arguments)]
    near = difflib.get_close_matches(name, options, n=1)
    hint = f"did you mean --{near[0]}? " if near else ""
    given = given or ("VALUE" if value.startswith("--") else value)
    setting = f"a setting of the algorithm is given as --set {name.replace('-', '_')}={given}"
    return f"there is no option {word.partition('=')[0]}; {hint}{setting}"
