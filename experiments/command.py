"""The command `npg`.

    npg train      train agents: one run, a grid of runs, or a run to resume
    npg evaluate   evaluate the agent of a run folder, or record a video
    npg report     compare runs: statistics, figures and one page
    npg tune       search for hyper-parameters: npg tune 50 is npg train --tune 50
    npg export     write a trained policy as an ONNX file
    npg zoo        train, replay and tune our agents in RL Zoo

`npg COMMAND --help` lists the options of a command.
"""

import difflib
import inspect
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import tyro

from experiments.options import Evaluate, Export, Report
from experiments.settings.arguments import Arguments

TRIALS = 50
# A command's options, and the module with its `main`, which may import torch.
OPTIONS: dict[str, tuple[Any, str]] = {
    "evaluate": (Evaluate, "experiments.evaluate"),
    "report": (Report, "experiments.report.command"),
    "export": (Export, "experiments.export"),
}
COMMANDS = ("train", "evaluate", "report", "tune", "export", "zoo")
TRAIN = """Train agents on Gymnasium tasks: one run, a grid of runs to compare, or a search for settings.

    npg train                                              # TRPO on CartPole-v1, to solved
    npg train --algo npg --env Hopper-v5 --steps 1e6 --seed 3
    npg train --algo trpo --env Hopper-v5 --set target_kl=0.02 cg_damping=0.05
    npg train --algo npg vpg trpo sb3:ppo --env CartPole-v1 Acrobot-v1 --seeds 5 --jobs 2
    npg train --resume runs/Hopper-v5/npg/seed-3
    npg train --algo npg --env Pendulum-v1 --tune 50

Settings come from configs/<algo>.yaml: the environment's section, or `default`. --config names another
file. --set changes single settings: any argument of the agent's constructor, n_envs or normalize; of
policy_kwargs, only the given keys. In a grid, npg.target_kl=0.02 is for NPG alone.

A run writes runs/<env>/<algo>/seed-<n>/: config.yaml (all settings, and the versions that produced the run),
progress.csv and TensorBoard events, checkpoints/, model.zip, vecnormalize.pkl if VecNormalize is used, and
evaluation.json, which `npg evaluate` reproduces. Ctrl-C and SIGTERM end a run after the current update with
a checkpoint, from which --resume continues bit for bit; it does so after a crash as well. A grid skips
finished runs and resumes unfinished ones, so that the same command continues after an interrupt, and ends
with a report. --tune searches for settings with Optuna, on seeds that no run may have, and writes
tuning/best.yaml, which --config reads; the same command continues a search.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        words: the command line after the program's name; `sys.argv` by default.
    """
    name, *rest = (sys.argv[1:] if words is None else words) or ("--help",)
    if name in ("-h", "--help"):
        print(__doc__, end="")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(COMMANDS)}"
        print(f"error: npg has no command {name!r}; {hint}", file=sys.stderr)
        return 2
    if name == "zoo":
        return int(import_module("experiments.zoo").main(rest))
    if name in OPTIONS:
        options, module = OPTIONS[name]
        parsed = tyro.cli(options, args=rest, prog=f"npg {name}", description=inspect.getdoc(options))
        return int(import_module(module).main(parsed))
    if name == "tune":
        rest = ["--tune", *(rest if rest and rest[0].isdigit() else [str(TRIALS), *rest])]
    arguments = Arguments.parse(rest, prog=f"npg {name}", description=TRAIN)
    return int(import_module("experiments.train").main(arguments))  # not before --help: it imports torch


if __name__ == "__main__":
    sys.exit(main())
