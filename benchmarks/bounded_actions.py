"""Compare action distributions of TRPO on tasks with bounded actions.

    python benchmarks/bounded_actions.py                     # all runs, one after another, then the table
    python benchmarks/bounded_actions.py --steps 2000 --seeds 0 --out /tmp/bounded   # a quick try
    python benchmarks/bounded_actions.py --figure docs/bounded_actions.png           # from finished runs

Three tasks, as tensor environments: LinearQuadratic-v0 with bounds of ±3, where optimal actions lie inside
the bounds; `Sprint`, where they are at the bounds; and Pendulum-v1, where they are both. A run is one file in
--out; finished runs are not repeated. Scores are mean returns of deterministic and of sampled actions.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from gymnasium import spaces
from torch import Tensor

from agents import TRPO
from envs.tensor.linear_quadratic import TensorLinearQuadratic
from envs.tensor.pendulum import TensorPendulum
from envs.tensor.tensor_env import TensorEnv
from envs.tensor.tensor_task import TensorTask
from envs.tensor.tensor_vec_env import TensorVecEnv
from experiments.report.statistics import bootstrap_interval, mean

N_ENVS, N_STEPS, EPISODES, EVALUATIONS = 64, 16, 100, 8


class Sprint(TensorTask):
    """Run in the direction that the observation names: v' = v + (a − v) / 5, reward ±v; a is in [−1, 1]."""

    LENGTH = 50

    def __init__(self, num_envs: int, **kwargs: Any) -> None:
        """Start the first episodes; arguments as of `TensorEnv`."""
        observed, acted = spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,))
        super().__init__(num_envs, observed, acted, max_episode_steps=self.LENGTH, **kwargs)

    def initial_states(self) -> Tensor:
        """Return the directions, ±1 at random, and no velocity, (2, N)."""
        states = torch.zeros(2, self.num_envs, dtype=self.dtype, device=self.device)
        states[0].uniform_(-1, 1, generator=self.generator).sign_()
        return states

    def advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Accelerate; the reward is the velocity in the direction of the episode."""
        direction, velocity = self.rows
        velocity = velocity + (actions[:, 0].to(self.dtype) - velocity) / 5
        never = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        return torch.stack((direction, velocity)), direction * velocity, never

    def observe(self, states: Tensor) -> Tensor:
        """Return direction and velocity."""
        return states.T.clone()


def linear_quadratic(num_envs: int, seed: int) -> TensorEnv:
    """Return the linear-quadratic regulator with actions in [−3, 3] and episodes of 50 steps."""
    return TensorLinearQuadratic(num_envs, seed=seed, action_bound=3.0, max_episode_steps=50)


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        make: returns its environments for their number and a seed.
        steps: number of environment steps of a run.
        gamma: the discount.
    """

    make: Callable[[int, int], TensorEnv]
    steps: int
    gamma: float


TASKS = {
    "inside": Task(linear_quadratic, 24 * 1024, 0.95),
    "at the bounds": Task(lambda n, seed: Sprint(n, seed=seed), 24 * 1024, 0.95),
    "Pendulum-v1": Task(lambda n, seed: TensorPendulum(n, seed=seed), 80 * 1024, 0.9),
}
GSDE: dict[str, Any] = {"use_sde": True, "sde_sample_freq": 4}
POLICIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # arguments of the policy, and of the agent
    "clipped Gaussian": ({}, {}),
    "Beta": ({"distribution": "beta"}, {}),
    "squashed Gaussian (gSDE)": ({"log_std_init": -2.0, "squash_output": True}, GSDE),
    "clipped gSDE": ({"log_std_init": -2.0}, GSDE),
}


@dataclass(frozen=True)
class Arguments:
    """Compare action distributions of TRPO on tasks with bounded actions."""

    out: Path = Path("build/bounded_actions")
    """Folder of the runs."""
    tasks: tuple[str, ...] = tuple(TASKS)
    """Train on these tasks."""
    policies: tuple[str, ...] = tuple(POLICIES)
    """Train these policies."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Train once per seed."""
    steps: int | None = None
    """Train for this many steps; by default the task's own number."""
    figure: Path | None = None
    """Write the figure to this file."""


def train(task: Task, policy: str, seed: int, steps: int) -> dict[str, Any]:
    """Return a run's curve of deterministic returns, and its scores at the end."""
    kwargs, arguments = POLICIES[policy]
    kwargs = {"normalize_observations": True, "normalize_returns": True, **kwargs}
    agent = TRPO(
        "MlpPolicy",
        TensorVecEnv(task.make(N_ENVS, seed)),
        n_steps=N_STEPS,
        gamma=task.gamma,
        target_kl=0.03,
        critic_fit="lbfgs",
        policy_kwargs=kwargs,
        seed=seed,
        device="cpu",
        **arguments,
    )
    curve: list[dict[str, float]] = []
    for _ in range(EVALUATIONS):
        agent.learn(steps // EVALUATIONS, reset_num_timesteps=False, log_interval=None)
        mean_return, _ = evaluate(agent, task, deterministic=True)
        curve.append({"steps": agent.num_timesteps, "return": mean_return})
    sampled, at_bound = evaluate(agent, task, deterministic=False)
    return {"curve": curve, "deterministic": curve[-1]["return"], "sampled": sampled, "at_bound": at_bound}


@torch.no_grad()
def evaluate(agent: TRPO, task: Task, *, deterministic: bool) -> tuple[float, float]:
    """Return the mean return of an agent's actions, and the share of them that is at a bound."""
    env = task.make(EPISODES, 12345)
    observations, total, at_bound = env.reset(), torch.zeros(EPISODES), []
    space: Any = env.action_space
    done = torch.zeros(EPISODES, dtype=torch.bool)
    while not done.any():  # all episodes end together
        actions, _ = agent.policy.predict(observations.numpy(), deterministic=deterministic)
        step = env.step(torch.as_tensor(actions))
        observations, done, total = step.observations, step.truncated, total + step.rewards
        at_bound.append(np.mean((actions <= space.low) | (actions >= space.high)))
    return float(total.mean()), float(np.mean(at_bound))


def path_of(out: Path, task: str, policy: str, seed: int) -> Path:
    """Return the file of a run."""
    words = f"{task} {policy} {seed}".replace("(", "").replace(")", "").split()
    return out / ("-".join(words) + ".json")


def best_return(task: str) -> float | None:
    """Return the highest mean return possible; None if it is unknown."""
    if task == "at the bounds":
        return sum(1 - 0.8**t for t in range(1, Sprint.LENGTH + 1))
    return None


def rows(arguments: Arguments) -> list[list[str]]:
    """Return the table: means of the seeds with 95 % intervals."""
    table = []
    for task in arguments.tasks:
        for policy in arguments.policies:
            files = [path_of(arguments.out, task, policy, seed) for seed in arguments.seeds]
            runs = [json.loads(file.read_text()) for file in files if file.exists()]
            if not runs:
                continue
            cells = [task, policy, str(len(runs))]
            for name in ("deterministic", "sampled"):
                scores = np.array([run[name] for run in runs])
                interval = bootstrap_interval(mean, [scores], generator=np.random.default_rng(0))
                cells.append(f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]")
            cells.append(f"{np.mean([run['at_bound'] for run in runs]):.0%}")
            table.append(cells)
    return table


def draw(arguments: Arguments) -> None:
    """Draw the mean of the seeds, and the band from the worst to the best one."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(arguments.tasks), figsize=(4 * len(arguments.tasks), 3.4))
    for axis, task in zip(np.atleast_1d(axes), arguments.tasks, strict=True):
        for policy in arguments.policies:
            files = [path_of(arguments.out, task, policy, seed) for seed in arguments.seeds]
            runs = [json.loads(file.read_text())["curve"] for file in files if file.exists()]
            if runs:
                steps = [row["steps"] / 1000 for row in runs[0]]
                returns = np.array([[row["return"] for row in run] for run in runs])
                (line,) = axis.plot(steps, returns.mean(0), label=policy)
                axis.fill_between(steps, returns.min(0), returns.max(0), color=line.get_color(), alpha=0.15)
        if (best := best_return(task)) is not None:
            axis.axhline(best, color="grey", linestyle=":", linewidth=1)
        axis.set(title=task, xlabel="1000 steps")
    np.atleast_1d(axes)[0].set_ylabel("return")
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    assert arguments.figure is not None
    figure.savefig(arguments.figure, dpi=110)


def main(arguments: Arguments) -> None:
    """Make the runs that are missing, then print the table, in Markdown."""
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for policy in arguments.policies:
            for task in arguments.tasks:
                path = path_of(arguments.out, task, policy, seed)
                if not path.exists():
                    run = train(TASKS[task], policy, seed, arguments.steps or TASKS[task].steps)
                    path.write_text(json.dumps(run))
                    print(path.stem, f"{run['deterministic']:.2f}", flush=True)
    header = ["task", "policy", "seeds", "deterministic", "sampled", "at a bound"]
    for cells in (header, ["---"] * len(header), *rows(arguments)):
        print("|", " | ".join(cells), "|")
    if arguments.figure is not None:
        draw(arguments)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
