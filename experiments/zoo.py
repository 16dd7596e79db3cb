"""Our agents in RL Zoo: its training, its replay and its hyper-parameter search.

    python -m experiments.zoo train --algo npg --env CartPole-v1
    python -m experiments.zoo enjoy --algo npg --env CartPole-v1 --no-render
    python -m experiments.zoo train --algo npg --env CartPole-v1 -optimize --n-trials 20

The arguments are RL Zoo's own; `python -m experiments.zoo train --help` lists them. For our agents three
defaults differ: settings come from configs/<algo>.yaml (-conf names another file), enjoy looks in logs, where
train writes (-f names another folder), and torch has one thread (--num-threads). trpo is our TRPO in place of
sb3-contrib's, which `python -m rl_zoo3.train --algo trpo` still trains.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from agents import ACKTR, ALGORITHMS
from agents.base import PolicyGradientAgent
from agents.hyperparameters import names_of, nearest
from experiments.settings.config_file import config_file

if TYPE_CHECKING:
    from optuna import Trial

VERBS = ("train", "enjoy")

# What a search varies, by argument of the constructor. The names and codes inside a trial are those that RL
# Zoo decodes: a search on a logarithmic scale has to see how far gamma is from 1.
SEARCH: Mapping[str, Callable[["Trial"], object]] = {
    "n_steps": lambda trial: trial.suggest_int("n_steps_pow", 5, 11),
    "batch_size": lambda trial: trial.suggest_int("batch_size_pow", 5, 9),
    "gamma": lambda trial: trial.suggest_float("one_minus_gamma", 1e-4, 0.03, log=True),
    "gae_lambda": lambda trial: trial.suggest_float("one_minus_gae_lambda", 1e-3, 0.2, log=True),
    "learning_rate": lambda trial: trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
    "critic_learning_rate": lambda trial: trial.suggest_float("critic_learning_rate", 1e-4, 1e-2, log=True),
    "n_critic_updates": lambda trial: trial.suggest_int("n_critic_updates", 5, 30),
    "target_kl": lambda trial: trial.suggest_float("target_kl", 1e-3, 0.1, log=True),
    "cg_max_steps": lambda trial: trial.suggest_int("cg_max_steps", 5, 30),
    "cg_damping": lambda trial: trial.suggest_float("cg_damping", 1e-3, 1.0, log=True),
    "policy_kwargs": lambda trial: (
        trial.suggest_categorical("net_arch", ["tiny", "small", "medium"]),
        trial.suggest_categorical("activation_fn", ["tanh", "relu"]),
        trial.suggest_categorical("normalize", [False, True]),
    ),
}

# Where a name means another size: ACKTR's rates multiply natural directions, not gradients.
SEARCH_OF: Mapping[type[PolicyGradientAgent], Mapping[str, Callable[["Trial"], object]]] = {
    ACKTR: {
        "learning_rate": lambda trial: trial.suggest_float("learning_rate", 0.03, 1.0, log=True),
        "critic_learning_rate": lambda trial: trial.suggest_float("critic_learning_rate", 0.1, 1.0, log=True),
        "n_critic_updates": lambda trial: trial.suggest_int("n_critic_updates", 1, 10),
        "target_kl": lambda trial: trial.suggest_float("target_kl", 0.01, 0.3, log=True),
        "damping": lambda trial: trial.suggest_float("damping", 1e-2, 1.0, log=True),
        "momentum": lambda trial: trial.suggest_categorical("momentum", [0.0, 0.5, 0.9]),
    }
}


def main(arguments: Sequence[str]) -> int:
    """Hand the arguments to RL Zoo and return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__, end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb not in VERBS:
        print(f"error: unknown command {verb!r}{nearest(verb, VERBS)}", file=sys.stderr)
        return 2
    try:
        register()
        run = getattr(importlib.import_module(f"rl_zoo3.{verb}"), verb)
    except ModuleNotFoundError as error:
        print(
            f"error: experiments.zoo needs RL Zoo, and the module {error.name} is not installed; "
            'run pip install -c constraints.txt -e ".[zoo]"',
            file=sys.stderr,
        )
        return 2
    # RL Zoo reads sys.argv. Of an option given twice it takes the last, so that the user's own wins.
    sys.argv = [f"python -m experiments.zoo {verb}", *defaults(verb, rest), *rest]
    run()
    return 0


def defaults(verb: str, arguments: Sequence[str]) -> list[str]:
    """Return the options that come before the user's: some for our agents, none for RL Zoo's own."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.zoo {verb}", add_help=False)
    parser.add_argument("--algo")
    algo = parser.parse_known_args(arguments)[0].algo
    if algo not in ALGORITHMS:
        return []
    place = ["-conf", str(config_file(f"{algo}.yaml"))] if verb == "train" else ["-f", "logs"]
    return [*place, "--num-threads", "1"]  # with networks this small, more threads only wait for each other


def register() -> None:
    """Make our agents known to RL Zoo, for training, replay and search.

    Raises:
        ModuleNotFoundError: RL Zoo is not installed.
    """
    from rl_zoo3 import ALGOS
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

    for name, agent_class in ALGORITHMS.items():
        ALGOS[name] = agent_class
        HYPERPARAMS_SAMPLER[name] = partial(sample, agent_class)
        HYPERPARAMS_CONVERTER[name] = decode


def sample(
    agent_class: type[PolicyGradientAgent],
    trial: "Trial",
    n_actions: int,
    n_envs: int,
    additional_args: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a trial's hyper-parameters.

    Args:
        agent_class: whose constructor says which of `SEARCH` and `SEARCH_OF` apply.
        trial: draws the values.
        n_actions: unused, as the next two: RL Zoo gives them to every sampler.
        n_envs: unused.
        additional_args: unused.
    """
    names = names_of(agent_class)
    for name, suggest in {**SEARCH, **SEARCH_OF.get(agent_class, {})}.items():
        if name in names:
            suggest(trial)
    hyperparameters = decode(trial.params)
    for name in ("n_steps", "batch_size", "gamma", "gae_lambda"):
        trial.set_user_attr(name, hyperparameters[name])  # beside their codes, in the report
    return hyperparameters


def decode(sampled_params: dict[str, Any]) -> dict[str, Any]:
    """Return the hyper-parameters that a trial's names and codes stand for."""
    from rl_zoo3.hyperparams_opt import convert_onpolicy_params

    hyperparameters: dict[str, Any] = convert_onpolicy_params(sampled_params)
    # A trial's policy_kwargs take the place of the configuration's, which say whether to normalise.
    normalize = hyperparameters.pop("normalize")
    hyperparameters["policy_kwargs"] |= {"normalize_observations": normalize, "normalize_returns": normalize}
    return hyperparameters


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
