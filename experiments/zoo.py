"""Train, replay and tune our agents with RL Zoo.

    npg zoo train --algo npg --env CartPole-v1
    npg zoo enjoy --algo npg --env CartPole-v1 --no-render
    npg zoo train --algo npg --env CartPole-v1 -optimize --n-trials 20

The options are RL Zoo's own; `npg zoo train --help` lists them. For our agents,

- settings come from configs/<algo>.yaml; -conf names another file;
- enjoy reads the agent from logs/, where train writes it; -f names another folder;
- torch uses one thread; --num-threads changes it;
- a search varies the same settings as `npg tune`;
- trpo is our TRPO. `python -m rl_zoo3.train --algo trpo` trains sb3-contrib's.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from experiments.settings.arguments import Arguments
from experiments.settings.config_file import config_file

# Nothing else is imported here, so that --help is fast: modules that import torch are imported in functions.
if TYPE_CHECKING:
    from optuna import Trial

    from experiments.tuning.search_space import SearchSpace

VERBS = ("train", "enjoy")


def main(arguments: Sequence[str]) -> int:
    """Run RL Zoo with these arguments and return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__, end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb not in VERBS:
        from agents.hyperparameters import nearest

        print(f"error: unknown command {verb!r}{nearest(verb, VERBS)}", file=sys.stderr)
        return 2
    options = parse_options(verb, rest)
    try:
        register(options.env)
        run = getattr(import_module(f"rl_zoo3.{verb}"), verb)
    except ModuleNotFoundError as error:
        from envs.extras import install_command

        print(
            f"error: npg zoo needs RL Zoo, and the module {error.name} is not installed; "
            f"run {install_command('zoo')}",
            file=sys.stderr,
        )
        return 2
    # RL Zoo reads sys.argv. If an option is given twice, the last one counts, which is the user's.
    sys.argv = [f"npg zoo {verb}", *defaults(verb, options.algo), *rest]
    run()
    return 0


def parse_options(verb: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of RL Zoo that are used here: algo and env."""
    parser = argparse.ArgumentParser(prog=f"npg zoo {verb}", add_help=False)
    parser.add_argument("--algo")
    parser.add_argument("--env", default="default")
    return parser.parse_known_args(arguments)[0]


def defaults(verb: str, algo: str | None) -> list[str]:
    """Return default options, which precede the user's: some for our agents, none for RL Zoo's own."""
    from agents import ALGORITHMS

    if algo not in ALGORITHMS:
        return []
    place = ["-conf", str(config_file(f"{algo}.yaml"))] if verb == "train" else ["-f", "logs"]
    return [*place, "--num-threads", "1"]  # with networks this small, more threads only wait for each other


def register(env_id: str = "default") -> None:
    """Register our agents with RL Zoo, for training, replay and search.

    Args:
        env_id: environment whose settings a search starts with.

    Raises:
        ModuleNotFoundError: RL Zoo is not installed.
    """
    from rl_zoo3 import ALGOS
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

    from agents import ALGORITHMS
    from experiments.settings.configuration import resolve
    from experiments.tuning.search_space import SearchSpace

    for name, agent_class in ALGORITHMS.items():
        base = resolve(Arguments(algo=(name,), env=(env_id,)))
        space = SearchSpace.of(name, base)
        ALGOS[name] = agent_class
        HYPERPARAMS_SAMPLER[name] = partial(sample, space)
        HYPERPARAMS_CONVERTER[name] = partial(decode, space)


def sample(space: "SearchSpace", trial: "Trial", *_: object) -> dict[str, Any]:
    """Return a trial's hyperparameters; RL Zoo's other arguments are ignored."""
    space.suggest(trial)
    hyperparameters = decode(space, trial.params)
    trial.set_user_attr("gamma", hyperparameters["gamma"])  # otherwise, the report has 1 - gamma only
    return hyperparameters


def decode(space: "SearchSpace", coordinates: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters at the coordinates of a trial."""
    hyperparameters = space.configuration(coordinates).hyperparameters
    return {name: hyperparameters[name] for name in {s.name.partition(".")[0]: s for s in space.settings}}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
