"""The settings that a search varies, for each algorithm.

`npg tune` and RL Zoo use the same spaces. Those of our agents are declared in `agents.registry`. n_envs does
not vary: with a given number of states per update it hardly changes learning, and its cost depends on the
machine. critic_fit and the network do not vary, so that results remain comparable.
"""

from collections.abc import Mapping

from agents.registry import REGISTRY, ROLLOUT_SPACE, TRUST_REGION_SPACE, Interval, SearchSpace
from experiments.tuning.search_setting import Choice, Range, Setting

PEER_SPACES: Mapping[str, SearchSpace] = {
    "sb3:ppo": {
        **ROLLOUT_SPACE,
        "learning_rate": Interval(3e-5, 1e-2),
        "batch_size": (32, 64, 128, 256, 512),
        "n_epochs": Interval(1, 20, integer=True),
        "clip_range": Interval(0.05, 0.4),
    },
    "sb3:a2c": {
        **ROLLOUT_SPACE,
        "n_steps": (5, 8, 16, 32, 64, 128),
        "learning_rate": Interval(1e-4, 1e-2),
        "ent_coef": Interval(0.0, 0.02, log=False),
        "vf_coef": Interval(0.1, 1.0),
    },
    "contrib:trpo": {**TRUST_REGION_SPACE, "learning_rate": Interval(1e-4, 1e-2)},
}


def searched_settings(algo: str) -> tuple[Setting, ...]:
    """Return the settings that a search varies for an algorithm; empty if it has no search space."""
    space = REGISTRY[algo].search_space if algo in REGISTRY else PEER_SPACES.get(algo, {})
    return tuple(
        Range(name, values) if isinstance(values, Interval) else Choice(name, values)
        for name, values in space.items()
    )
