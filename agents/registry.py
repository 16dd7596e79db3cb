"""Declare each algorithm once: class, search space, label and plot style."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agents.acktr import ACKTR
from agents.base import PolicyGradientAgent
from agents.cpo import CPO
from agents.npg import NPG
from agents.policy.names import check_new
from agents.trpo import TRPO
from agents.vpg import VPG


@dataclass(frozen=True)
class Interval:
    """A range of numbers that a search may try.

    Attributes:
        low: smallest value; with `complement`, of 1 - setting.
        high: largest value; with `complement`, of 1 - setting.
        log: whether the scale is logarithmic.
        integer: whether the setting is an integer.
        complement: whether 1 - setting is sampled, which resolves values close to 1.
    """

    low: float
    high: float
    log: bool = True
    integer: bool = False
    complement: bool = False


SearchSpace = Mapping[str, Interval | tuple[Any, ...]]


@dataclass(frozen=True)
class Algorithm:
    """An algorithm's entry in the registry, used by the command line, searches and reports.

    Attributes:
        agent_class: the class; its attribute `resumable` names what a checkpoint stores.
        config: a name such as "npg" for configs/npg.yaml, or the path of a file in RL Zoo's format; None for
            the algorithm's own name.
        search_space: {setting: an `Interval`, or a tuple of values to choose from}.
        label: the algorithm's name in reports.
        colour: colour of its lines in reports, "#rrggbb"; None for a free colour and line style.
        dashes: matplotlib's line style, for reports.
    """

    agent_class: type[PolicyGradientAgent]
    label: str
    config: str | Path | None = None
    search_space: SearchSpace = field(default_factory=dict)
    colour: str | None = None
    dashes: Any = "-"


REGISTRY: dict[str, Algorithm] = {}
ALGORITHMS: dict[str, type[PolicyGradientAgent]] = {}  # the classes alone


def register_algorithm(
    name: str, agent_class: type[PolicyGradientAgent], *, label: str | None = None, **options: Any
) -> None:
    """Make an algorithm available under a name, e.g. as ``--algo name``.

    Args:
        name: e.g. "npg".
        agent_class: the class.
        label: the algorithm's name in reports; by default `name` in capitals.
        options: the other attributes of `Algorithm`.

    Raises:
        ValueError: the name is taken.
    """
    check_new(name, REGISTRY, "algorithm")
    REGISTRY[name] = Algorithm(agent_class, label or name.upper(), **options)
    ALGORITHMS[name] = agent_class


ROLLOUT_SPACE: SearchSpace = {
    "n_steps": (16, 32, 64, 128, 256, 512, 1024, 2048),
    "gamma": Interval(1e-4, 0.2, complement=True),
    "gae_lambda": Interval(0.7, 1.0, log=False),
}
# A setting that is 0 has no place on a logarithmic scale: without a bonus in the base, none is tried.
ENTROPY_SPACE: SearchSpace = {"ent_coef": Interval(1e-5, 0.1)}
CRITIC_SPACE: SearchSpace = {"n_critic_updates": Interval(1, 30, integer=True)}
TRUST_REGION_SPACE: SearchSpace = {
    **ROLLOUT_SPACE,
    "target_kl": Interval(1e-3, 0.1),
    "cg_damping": Interval(1e-3, 1.0),
    **CRITIC_SPACE,
}

# The colours of Okabe and Ito (2008), "Color universal design".
register_algorithm(
    "vpg",
    VPG,
    search_space={**ROLLOUT_SPACE, "learning_rate": Interval(1e-4, 3e-2), **ENTROPY_SPACE, **CRITIC_SPACE},
    colour="#000000",
    dashes=(0, (1, 1)),
)
NATURAL_SPACE: SearchSpace = {**TRUST_REGION_SPACE, **ENTROPY_SPACE}
register_algorithm("npg", NPG, search_space=NATURAL_SPACE, colour="#0072b2")
register_algorithm("trpo", TRPO, search_space=NATURAL_SPACE, colour="#d55e00", dashes=(0, (5, 1.5)))
register_algorithm(
    "acktr",
    ACKTR,
    search_space={
        **ROLLOUT_SPACE,
        "learning_rate": Interval(0.03, 2.0),
        "target_kl": Interval(1e-3, 0.3),
        "damping": Interval(1e-2, 1.0),
        "momentum": Interval(0.0, 0.95, log=False),
        **ENTROPY_SPACE,
    },
    colour="#009e73",
    dashes=(0, (5, 1.5, 1, 1.5)),
)
register_algorithm("cpo", CPO, search_space=NATURAL_SPACE, colour="#661100", dashes=(0, (3, 1, 1, 1, 1, 1)))
