"""Compare the time of a whole update, and the critic's loss after it, with sb3-contrib's TRPO.

    python benchmarks/update.py
    python benchmarks/update.py --ours "" "n_critic_updates=5" --out update.json

sb3-contrib's TRPO trains with its defaults for some updates and collects one more rollout of 2048 steps. Each
measurement starts from these parameters, this state of Adam and this rollout, and times one `train()`. Rounds
are interleaved (see interleaved.py). The critic's loss is the mean squared error, after the update, between
its values and the rollout's returns. Ours has sb3-contrib's number of CG iterations. Our KL is joint over the
d action dimensions, but sb3-contrib's is a mean over them; so ours has d times the target_kl and damping,
which gives the same step. `--ours` names variants of ours, as settings of TRPO; `n_critic_updates` counts
passes over the rollout, or iterations of L-BFGS.

tianshou's TRPO has its own settings (10 CG iterations, 20 critic steps on the whole batch) and its own
rollout, from a policy that it has trained for as many updates. Its time is comparable, but its loss is not.
"""

import copy
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from configurations import Configuration, parse_settings, sb3_agent
from interleaved import Measure, MeasureFactory, interleave
from measurement import Goal, Ratio, best, progress, report
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.utils import set_random_seed
from tianshou_trpo import tianshou_trpo, train
from torch.nn import functional as F

SPEED_GOAL = 3.0


@dataclass(frozen=True)
class Arguments:
    """Time updates."""

    env: str = "Hopper-v5"
    rounds: int = 9
    threads: tuple[int, ...] = (0, 1)
    """Numbers of torch's threads to try with each configuration; 0 is torch's default."""
    steps: int = 2048
    """Steps of the rollout."""
    updates_before: int = 5
    """Number of updates for which sb3-contrib's agent trains first."""
    ours: tuple[str, ...] = ("", "critic_fit=lbfgs,n_critic_updates=15")
    """Variants of ours, each as name=value,name=value; "" has the default settings."""
    tianshou: bool = True
    """Measure tianshou's too."""
    out: Path | None = None
    """Write the numbers into this JSON file."""


@dataclass(frozen=True)
class Start:
    """Where an update starts: a file with parameters, optimizer and rollout, and what to time."""

    path: str
    configuration: Configuration
    variant: str = ""
    updates_before: int = 0


def save_start(arguments: Arguments, path: str) -> None:
    """Train and collect with sb3-contrib, and write parameters, optimizer and rollout."""
    configuration = Configuration("sb3-contrib", "dummy", 1, 0, arguments.env, arguments.steps)
    with sb3_agent(configuration) as agent:
        agent.learn(max(1, arguments.updates_before * arguments.steps))
        _, callback = agent._setup_learn(1, reset_num_timesteps=False)
        agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
        state = {
            "policy": agent.policy.state_dict(),
            "optimizer": agent.policy.optimizer.state_dict(),
            "buffer": agent.rollout_buffer,
        }
        torch.save(state, path)


@contextmanager
def sb3_update(start: Start) -> Iterator[Measure]:
    """Update an agent of ours or of sb3-contrib from the start."""
    state = torch.load(start.path, weights_only=False)
    with sb3_agent(start.configuration, **settings_of(start)) as agent:
        agent._setup_learn(1)
        rounds = 0

        def measure_once() -> dict[str, float]:
            nonlocal rounds
            rounds += 1
            agent.policy.load_state_dict(state["policy"])
            agent.policy.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
            agent.rollout_buffer = copy.deepcopy(state["buffer"])
            before = critic_loss(agent, copy.deepcopy(state["buffer"]))
            set_random_seed(rounds)  # for the minibatches
            begin = time.perf_counter()
            agent.train()
            seconds = time.perf_counter() - begin
            accepted = agent.logger.name_to_value["train/is_line_search_success"]
            return {
                "ms": 1e3 * seconds,
                "critic loss": critic_loss(agent, agent.rollout_buffer),
                "before": before,
                "accepted": float(accepted),
            }

        yield measure_once


def settings_of(start: Start) -> dict[str, Any]:
    """Return an agent's settings; for ours, those that give the same step as sb3-contrib's defaults."""
    if start.configuration.library == "sb3-contrib":
        return {}
    dimensions = int(np.prod(gym.make(start.configuration.env).action_space.shape or (1,)))
    same_step = {"cg_max_steps": 15, "target_kl": 0.01 * dimensions, "cg_damping": 0.1 * dimensions}
    return {**same_step, **parse_settings(start.variant)}


@torch.no_grad()
def critic_loss(agent: Any, buffer: RolloutBuffer) -> float:
    """Return the mean squared error of the values over a whole rollout."""
    samples = next(buffer.get(batch_size=None))
    return F.mse_loss(agent.policy.predict_values(samples.observations).flatten(), samples.returns).item()


@contextmanager
def tianshou_update(start: Start) -> Iterator[Measure]:
    """Update tianshou's agent from a rollout of its own."""
    from tianshou.utils.torch_utils import policy_within_training_step, torch_train_mode

    steps = start.configuration.rollout
    with tianshou_trpo(start.configuration) as (algorithm, collector):
        if start.updates_before:
            train(algorithm, collector, start.updates_before * steps, steps)
        collector.reset_buffer(keep_statistics=True)
        collector.collect(n_step=steps)
        state = copy.deepcopy(algorithm.state_dict())

        def measure_once() -> dict[str, float]:
            algorithm.load_state_dict(copy.deepcopy(state))
            with policy_within_training_step(algorithm.policy), torch_train_mode(algorithm):
                begin = time.perf_counter()
                algorithm.update(buffer=collector.buffer, batch_size=None, repeat=1)
                return {"ms": 1e3 * (time.perf_counter() - begin)}

        yield measure_once


def suffix(threads: int) -> str:
    """Return the end of a configuration's name, which has the number of torch's threads."""
    return f", {threads} torch thread{'s' * (threads > 1)}" if threads else ""


def ours_name(variant: str, threads: int) -> str:
    """Return the name of a variant of ours."""
    return f"ours, {variant or 'defaults'}{suffix(threads)}"


def measurements(arguments: Arguments, path: str) -> dict[str, tuple[MeasureFactory, Any, int]]:
    """Return everything to measure, by name."""
    found: dict[str, tuple[MeasureFactory, Any, int]] = {}
    for threads in arguments.threads:
        theirs = Configuration("sb3-contrib", "dummy", 1, threads, arguments.env, arguments.steps)
        ours = Configuration("ours", "dummy", 1, threads, arguments.env, arguments.steps)
        found["sb3-contrib" + suffix(threads)] = (sb3_update, Start(path, theirs), threads)
        for variant in arguments.ours:
            found[ours_name(variant, threads)] = (sb3_update, Start(path, ours, variant), threads)
        other = Configuration("tianshou", "dummy", 16, threads, arguments.env, arguments.steps)
        if arguments.tianshou and other.installed:
            start = Start(path, other, updates_before=arguments.updates_before)
            found["tianshou" + suffix(threads)] = (tianshou_update, start, threads)
    return found


def goals_of(arguments: Arguments, results: dict[str, list[dict[str, float]]], peer: str) -> list[Goal]:
    """Return the goals of every variant of ours: to be faster, without a higher loss of the critic."""
    goals = []
    for variant in arguments.ours:
        names = [ours_name(variant, threads) for threads in arguments.threads]
        mine = {name: _series(results[name], "ms") for name in names if name in results}
        if not mine:
            continue
        name = best(mine, lowest=True)
        ratio = Ratio.between(_series(results[peer], "ms"), mine[name])
        goals.append(Goal(f"update, {peer}'s time over that of {name}", ratio.of_medians, SPEED_GOAL))
        losses = [median(_series(results[key], "critic loss")) for key in (name, peer)]
        text = f"critic's loss, {name} over {peer}"
        goals.append(Goal(text, losses[0] / losses[1], 1.0, at_most=True))
    return goals


def _series(rounds: list[dict[str, float]], key: str) -> list[float]:
    return [result[key] for result in rounds]


def main(arguments: Arguments) -> None:
    """Time, and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "start.pt")
        progress("training sb3-contrib's TRPO for the starting point")
        save_start(arguments, path)
        results, _ = interleave(measurements(arguments, path), arguments.rounds)
    theirs = {
        name: _series(rounds, "ms") for name, rounds in results.items() if name.startswith("sb3-contrib")
    }
    peer = best(theirs, lowest=True)
    rows = []
    for name, rounds in results.items():
        row: dict[str, Any] = {"update": name}
        for key in ("ms", "critic loss", "before", "accepted"):
            row[key] = median(_series(rounds, key)) if key in rounds[0] else None
        row["times faster"] = str(Ratio.between(theirs[peer], _series(rounds, "ms")))
        rows.append(row)
    heading = f"Update, {arguments.env}, {arguments.steps} steps"
    report("update", arguments, {heading: rows}, goals_of(arguments, results, peer))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
