"""Train CPO, PCPO and TRPO on tasks with a cost, and draw docs/constraints.png.

    python benchmarks/constraints.py --env PointHazard-v0 --algos cpo pcpo trpo --seeds 5 --out results.jsonl
    python benchmarks/constraints.py --figure docs/constraints.png --out results.jsonl

Settings are those of configs/cpo.yaml. TRPO is CPO with a limit of 1e9, which makes the same steps
(tests/agents/test_cpo.py) and records the costs. A run that is in the file already is not repeated. Seeds are
1000, 2000, ...: an environment's seed is the run's plus its index, so runs with neighbouring seeds would
share most of their random numbers.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from agents import CPO, REGISTRY
from envs import ConstrainedLinearQuadratic, make_vec_env
from experiments.settings.arguments import Arguments
from experiments.settings.configuration import build, resolve

EPISODES, FIRST_SEED = 400, 1_000_000
COLOURS = {"trpo": REGISTRY["trpo"].colour, "cpo": REGISTRY["cpo"].colour, "pcpo": "#0072b2"}


class Curve(BaseCallback):
    """Record mean return and mean cost of the episodes that ended in each rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, float, float]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        agent: Any = self.model
        episodes = [episode["r"] for episode in agent.ep_info_buffer]
        if episodes:  # the costs are those of the rollout before
            self.rows.append(
                (agent.num_timesteps, float(np.mean(episodes)), float(agent.episode_costs.mean[0]))
            )


def play(agent: CPO, env_id: str, deterministic: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return returns and costs of the first episode of each of `EPISODES` environments."""
    env = make_vec_env(env_id, EPISODES, seed=FIRST_SEED, vec_env="dummy")
    observations: Any = env.reset()
    returns, costs, over = np.zeros(EPISODES), np.zeros(EPISODES), np.zeros(EPISODES, dtype=bool)
    while not over.all():
        actions, _ = agent.predict(observations, deterministic=deterministic)
        observations, rewards, dones, infos = env.step(actions)
        returns += rewards * ~over
        costs += np.array([info["cost"] for info in infos]) * ~over
        over |= dones
    env.close()
    return returns, costs


def train(env_id: str, algo: str, seed: int, steps: int | None) -> dict[str, Any]:
    """Train one agent and return its curve and evaluation."""
    settings = resolve(Arguments(algo=("cpo",), env=(env_id,), steps=steps, seed=seed, device="cpu"))
    limit = settings.hyperparameters["cost_limit"]
    own = {"cost_limit": 1e9 if algo == "trpo" else limit, "project": algo == "pcpo"}
    settings = replace(settings, hyperparameters={**settings.hyperparameters, **own})
    agent: Any = build(settings, make_vec_env(env_id, settings.n_envs, seed=seed, vec_env="dummy"))
    curve, begin = Curve(), time.process_time()
    agent.learn(settings.n_timesteps, curve, log_interval=None)
    result: dict[str, Any] = {
        "env": env_id,
        "algo": algo,
        "seed": seed,
        "limit": limit,
        "steps": agent.num_timesteps,
        "seconds": round(time.process_time() - begin, 1),
        "cases": agent.cases,
        "outcomes": {name: number for name, number in agent.outcomes.items() if number},
        "curve": [[step, round(a, 4), round(b, 4)] for step, a, b in curve.rows],
    }
    for name, deterministic in (("deterministic", True), ("stochastic", False)):
        returns, costs = play(agent, env_id, deterministic)
        error = costs.std(ddof=1) / np.sqrt(EPISODES)
        result[name] = {"return": returns.mean(), "cost": costs.mean(), "standard_error": error}
    if env_id == "ConstrainedLinearQuadratic-v0":
        problem, actor = ConstrainedLinearQuadratic(), agent.policy
        gain, bias = (
            -actor.action_net.weight.detach().double().numpy(),
            actor.action_net.bias.detach().numpy(),
        )
        std = float(actor.log_std.exp())
        exact = [problem.episode([gain], bias=bias, action_std=s) for s in (0.0, std)]
        result["exact"] = {"deterministic": exact[0], "stochastic": exact[1], "std": std}
        result["optimum"] = problem.optimum(limit)[0]
    return result


def figure(results: list[dict[str, Any]], path: Path) -> None:
    """Draw return and cost of every seed against the steps."""
    import matplotlib.pyplot as plt

    chosen = [result for result in results if result["env"] == "PointHazard-v0"]
    drawing, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for result in chosen:
        steps, returns, costs = np.array(result["curve"]).T
        style = {"color": COLOURS[result["algo"]], "lw": 1, "alpha": 0.8}
        axes[0].plot(
            steps, returns, **style, label=result["algo"].upper() if result["seed"] == 1000 else None
        )
        axes[1].plot(steps, costs, **style)
    axes[1].axhline(chosen[0]["limit"], color="black", ls="--", lw=1, label="limit")
    axes[1].legend()
    axes[0].set(xlabel="environment steps", ylabel="return per episode")
    axes[1].set(xlabel="environment steps", ylabel="cost per episode", ylim=(0, None))
    axes[0].legend()
    drawing.savefig(path, dpi=110)


def main() -> None:
    """Train what is missing, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="PointHazard-v0")
    parser.add_argument("--algos", nargs="+", default=[], choices=COLOURS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = arguments.out.read_text().splitlines() if arguments.out.exists() else []
    results = [json.loads(line) for line in lines]
    known = {(result["env"], result["algo"], result["seed"]) for result in results}
    for seed in range(1000, 1000 * (arguments.seeds + 1), 1000):
        for algo in arguments.algos:
            if (arguments.env, algo, seed) in known:
                continue
            result = train(arguments.env, algo, seed, arguments.steps)
            results.append(result)
            with arguments.out.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print({name: value for name, value in result.items() if name != "curve"}, flush=True)
    if arguments.figure:
        figure(results, arguments.figure)


if __name__ == "__main__":
    main()
