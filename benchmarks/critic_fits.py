"""Measure how well fits of the critic generalise to states that they have not seen.

    python benchmarks/critic_fits.py                                   # four MuJoCo tasks, about ten minutes
    python benchmarks/critic_fits.py --env Swimmer-v5 --seeds 1 2 3

TRPO is trained with its shipped settings. Then the same policy collects five more rollouts: copies of the
critic are fitted to the first, and tested on the other four. An error is a mean squared error relative to
that before the fit, so 1 means no progress. A test error that is larger than that of a shorter fit indicates
overfitting; one that still falls indicates underfitting. Times are measured with one thread.
"""

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
import tyro
from stable_baselines3.common.callbacks import BaseCallback
from torch.nn import functional as F

from agents import Batch
from agents.critic import CRITICS
from envs import make_vec_env
from experiments.settings.arguments import Arguments as Train
from experiments.settings.configuration import build, resolve
from experiments.text_table import aligned

# {name of a fit: the numbers of passes to try}
PASSES = {"lbfgs": (3, 5, 10, 20, 40), "minibatch": (5, 10, 20)}
TEST_ROLLOUTS = 4


@dataclass(frozen=True)
class Arguments:
    """Measure how well fits of the critic generalise."""

    env: tuple[str, ...] = ("Swimmer-v5", "HalfCheetah-v5", "Ant-v5", "Walker2d-v5")
    """Train on these environments."""
    steps: int = 100_000
    """Train for this many steps before measuring."""
    seeds: tuple[int, ...] = (1, 2)
    """Measure once per seed, and show medians."""
    vec_env: str = "envpool"
    """Use this kind of vector environment."""
    set: tuple[str, ...] = ()
    """Change settings of TRPO, each as name=value."""


class NoCallback(BaseCallback):
    """Do nothing."""

    def _on_step(self) -> bool:
        return True


def error(policy: torch.nn.Module, batch: Batch) -> float:
    """Return the mean squared error of the values."""
    with torch.no_grad():
        return float(F.mse_loss(policy.predict_values(batch.observations).flatten(), batch.returns))


def measure(
    env_id: str, seed: int, arguments: Arguments
) -> dict[tuple[str, int], tuple[float, float, float]]:
    """Return {(name of a fit, passes): (train error, test error, milliseconds)}."""
    settings = resolve(
        Train(env=(env_id,), seed=seed, device="cpu", vec_env=arguments.vec_env, set=(arguments.set,))
    )
    env = make_vec_env(env_id, settings.n_envs, seed=seed, vec_env=settings.vec_env)
    agent = build(settings, env)
    agent.learn(arguments.steps, log_interval=None)
    callback = NoCallback()
    callback.init_callback(agent)
    callback.on_training_start({}, {})

    def rollout() -> Batch:
        agent.rollout_buffer.reset()
        agent.collect_rollouts(env, callback, agent.rollout_buffer, agent.n_steps)
        return Batch.from_buffer(agent.rollout_buffer, agent.action_space)

    train, *tests = (rollout() for _ in range(1 + TEST_ROLLOUTS))
    env.close()
    critic = {id(parameter) for parameter in agent.actor.critic_parameters()}
    names = [name for name, parameter in agent.policy.named_parameters() if id(parameter) in critic]

    def tested(policy: torch.nn.Module) -> tuple[float, float]:
        return error(policy, train), sum(error(policy, batch) for batch in tests)

    before = tested(agent.policy)
    results = {}
    for fit, counts in PASSES.items():
        for passes in counts:
            policy = copy.deepcopy(agent.policy)
            policy.optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3, eps=1e-5)
            parameters = [policy.get_parameter(name) for name in names]
            start = time.perf_counter()
            CRITICS[fit](policy, parameters, passes=passes, batch_size=128).fit(train)
            milliseconds = 1e3 * (time.perf_counter() - start)
            after = tested(policy)
            results[fit, passes] = (after[0] / before[0], after[1] / before[1], milliseconds)
    return results


def main(arguments: Arguments, show: Callable[[str], None] = print) -> None:
    """Measure and print a table per environment."""
    torch.set_num_threads(1)
    for env_id in arguments.env:
        runs = []
        for seed in arguments.seeds:
            print(f"{env_id}, seed {seed}", file=sys.stderr)
            runs.append(measure(env_id, seed, arguments))
        rows: list[tuple[str, ...]] = [("fit", "passes", "train error", "test error", "ms")]
        for fit, passes in runs[0]:
            train, test, milliseconds = (median(run[fit, passes][k] for run in runs) for k in range(3))
            rows.append((fit, str(passes), f"{train:.3f}", f"{test:.3f}", f"{milliseconds:.0f}"))
        show(
            "\n".join([f"{env_id}, {arguments.steps} steps, seeds {arguments.seeds}", *aligned(rows)]) + "\n"
        )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
