"""npg: train, evaluate and compare natural policy gradient agents.

    npg train      train an agent, resume a run, or train a grid of agents to compare
    npg check-env  find mistakes in an environment of your own
    npg evaluate   evaluate a trained agent, or record a video of it
    npg report     compare runs: statistics, figures and an HTML page
    npg tune       search for hyper-parameters
    npg export     write a trained policy as an ONNX file
    npg share      write a trained policy into a folder for others, or upload it to Hugging Face's hub
    npg zoo        train, replay and tune the agents with RL Zoo

`npg COMMAND --help` explains a command and its options, `npg --version` prints the version. To get started,
run: npg train
"""

import difflib
import inspect
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any

import tyro

from experiments.options import CheckEnv, Evaluate, Export, Report, Share
from experiments.settings.arguments import Arguments
from experiments.terminal import accept_any_text, show

TRIALS = 50
# The class of a command's options, and the module with its `main`, which may import torch.
OPTIONS: dict[str, tuple[Any, str]] = {
    "check-env": (CheckEnv, "experiments.check_env"),
    "evaluate": (Evaluate, "experiments.evaluate"),
    "report": (Report, "experiments.report.command"),
    "export": (Export, "experiments.export"),
    "share": (Share, "experiments.share"),
}
COMMANDS = ("train", "evaluate", "report", "tune", "export", "share", "check-env", "zoo")
TRAIN = """Train agents on Gymnasium environments: one run, or a grid of runs to compare.

    npg train                                              # TRPO on CartPole-v1, until it is solved
    npg train --algo npg --env Hopper-v5 --steps 1e6 --seed 3
    npg train --algo trpo --env Hopper-v5 --set target_kl=0.02 cg_damping=0.05
    npg train --algo npg vpg trpo sb3:ppo --env CartPole-v1 Acrobot-v1 --seeds 5 --jobs 2
    npg train --resume runs/Hopper-v5/npg/seed-3

Settings come from the environment's section of configs/<algo>.yaml, or else from the section `default`.
Any of them can be changed by --set: an argument of the agent's constructor, n_envs, or normalize. Of a
dictionary, only the given keys change: --set 'policy_kwargs={...}'.

A run writes the folder runs/<env>/<algo>/seed-<n>/ with config.yaml (all settings and versions),
progress.csv, TensorBoard events, checkpoints/, model.zip, and evaluation.json, which `npg evaluate`
reproduces. Ctrl-C and SIGTERM stop a run after the current update; --resume continues it, bit for bit on a
CPU. To resume a grid, repeat its command. When a grid is finished, it writes a report.
"""
TUNE = """Search for hyper-parameters of one algorithm on one environment, with Optuna.

    npg tune 50 --algo npg --env Pendulum-v1               # until the study has 50 trials
    npg tune 50 --algo npg --env Hopper-v5 --steps 1e5     # shorter trials

The number of trials comes first; it is 50 by default. All other options are those of npg train. Trials use
seeds that no reported run may have. The results are in runs/<env>/<algo>/tuning/: best.yaml, to be used with
npg train --config, trials.csv and history.png. Repeat the command to resume a search.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        words: the command line after the program's name; `sys.argv` by default.
    """
    accept_any_text()
    name, *rest = (sys.argv[1:] if words is None else words) or ("--help",)
    if name == "help" and rest:
        name, rest = rest[0], ["--help"]
    if name in ("-h", "--help", "help"):
        print(__doc__, end="")
        return 0
    if name in ("-V", "--version", "version"):
        print(f"npg-toolkit {version('npg-toolkit')}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(COMMANDS)}"
        show(f"error: npg has no command {name!r}; {hint}", error=True)
        return 2
    if name == "zoo":
        return int(import_module("experiments.zoo").main(rest))
    if name in OPTIONS:
        options, module = OPTIONS[name]
        parsed = tyro.cli(
            options,
            args=rest,
            prog=f"npg {name}",
            description=inspect.getdoc(options),
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        return int(import_module(module).main(parsed))
    if name == "tune":
        rest = ["--tune", *(rest if rest and not rest[0].startswith("-") else [str(TRIALS), *rest])]
    description = TUNE if name == "tune" else TRAIN
    arguments = Arguments.parse(rest, prog=f"npg {name}", description=description)
    return int(import_module("experiments.train").main(arguments))  # not before --help: it imports torch


if __name__ == "__main__":
    sys.exit(main())
