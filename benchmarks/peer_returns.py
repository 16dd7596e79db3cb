"""Train SB3's and sb3-contrib's agents with RL Zoo's own settings, for the table of returns.

    python benchmarks/peer_returns.py --algo contrib:trpo sb3:ppo --env Hopper-v5 Ant-v5 --seeds 0 1 2

This needs the extras `mujoco` and `zoo`, and sb3-contrib. Settings are read from RL Zoo's hyperparameter
files, from the section of the same robot (`Hopper-v4` for Hopper-v5), or if there is none, from RL Zoo's
MuJoCo defaults. Environments are Gymnasium's, in one process with one thread, wrapped in `VecNormalize` if
RL Zoo does so. The evaluation is 100 deterministic episodes at the end of the budget, with the statistics of
`VecNormalize` frozen.

Each run writes <out>/<algo>/<env>/seed-<n>.json: settings, versions, the training curve (mean return of the
episodes that ended in each of 100 equal parts of the budget), the training return (mean of the last 100
episodes), every evaluation return, and seconds. A run whose file exists is skipped.
"""

import argparse
import ast
import importlib
import json
import os
import time
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

OUT = Path(__file__).parent / "returns"
ZOO_FILES = {"contrib:trpo": "trpo.yml", "sb3:ppo": "ppo.yml", "sb3:a2c": "a2c.yml"}
FALLBACK = "Ant-v4"  # RL Zoo's MuJoCo defaults: normalised, otherwise the constructor's defaults
EVALUATION_EPISODES = 100
EVALUATION_SEED = 10_000
PARTS = 100
PACKAGES = ("gymnasium", "mujoco", "numpy", "rl_zoo3", "sb3-contrib", "stable-baselines3", "torch")


def main() -> None:
    """Train the requested runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--algo", nargs="+", choices=ZOO_FILES, default=["contrib:trpo"])
    parser.add_argument("--env", nargs="+", default=["Hopper-v5"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=float, default=1e6)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        for env_id in options.env:
            for algo in options.algo:
                path = options.out / algo.replace(":", "-") / env_id / f"seed-{seed}.json"
                if not path.exists():
                    result = train(algo, env_id, seed, int(options.steps))
                    path.parent.mkdir(parents=True, exist_ok=True)
                    partial = path.with_suffix(".partial")
                    partial.write_text(json.dumps(result) + "\n")
                    partial.rename(path)
                    print(path, result["training_return"], np.mean(result["evaluation"]), flush=True)


def zoo_settings(algo: str, env_id: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the settings of RL Zoo's section for a task with the version -v5."""
    sections = yaml.safe_load((files("rl_zoo3") / "hyperparams" / ZOO_FILES[algo]).read_text())
    name = env_id.replace("-v5", "-v4")
    name = name if name in sections else FALLBACK
    return name, dict(sections[name])


def train(algo: str, env_id: str, seed: int, steps: int) -> dict[str, Any]:
    """Train one run and return the content of its file."""
    section, settings = zoo_settings(algo, env_id)
    arguments = {key: parse_value(value) for key, value in settings.items()}
    arguments.pop("n_timesteps")
    policy, n_envs = arguments.pop("policy"), arguments.pop("n_envs", 1)
    env = make_vec_env(env_id, n_envs, seed=seed)
    if normalised := arguments.pop("normalize", False):
        env = VecNormalize(env, gamma=arguments.get("gamma", 0.99))
    model = agent_class(algo)(policy, env, seed=seed, device="cpu", **arguments)
    curve = Curve(steps)
    began = time.perf_counter()
    model.learn(steps, callback=curve)
    seconds = time.perf_counter() - began
    tests = make_vec_env(env_id, 4, seed=seed + EVALUATION_SEED)
    if normalised:
        tests = VecNormalize(tests, training=False, norm_reward=False)
        tests.obs_rms = env.obs_rms
    returns, _ = evaluate_policy(
        model, tests, EVALUATION_EPISODES, deterministic=True, return_episode_rewards=True
    )
    return {
        "algo": algo,
        "env": env_id,
        "seed": seed,
        "steps": model.num_timesteps,
        "rl_zoo_section": section,
        "settings": settings,
        "versions": {name: version(name) for name in PACKAGES},
        "cores": os.cpu_count(),
        "seconds": round(seconds, 1),
        "training_return": round(float(np.mean(curve.returns[-100:])), 2),
        "curve": curve.parts(),
        "evaluation": [round(float(value), 2) for value in returns],
    }


def agent_class(algo: str) -> Any:
    """Return the class of an algorithm."""
    if algo == "contrib:trpo":
        return importlib.import_module("sb3_contrib").TRPO
    return {"sb3:ppo": PPO, "sb3:a2c": A2C}[algo]


def parse_value(value: Any) -> Any:
    """Convert a value in RL Zoo's format, e.g. lin_x, a number as text or dict(...), for a constructor."""
    if not isinstance(value, str):
        return value
    if value.startswith("lin_"):
        return LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
    if value.startswith("dict("):
        (call,) = (node.value for node in ast.parse(value).body if isinstance(node, ast.Expr))
        return literal(call)
    try:
        return float(value)
    except ValueError:
        return value


def literal(node: ast.AST) -> Any:
    """Return the value of a literal, of dict(...) or of nn.<Name>; nothing else is evaluated."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {keyword.arg: literal(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nn":
        return getattr(nn, node.attr)
    return ast.literal_eval(node)


class Curve(BaseCallback):
    """Collect the return and the last step of every training episode."""

    def __init__(self, steps: int):
        super().__init__()
        self.budget = steps
        self.steps: list[int] = []
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.steps.append(self.num_timesteps)
                self.returns.append(float(info["episode"]["r"]))
        return True

    def parts(self) -> list[float | None]:
        """Return the mean return in each part of the budget; None if no episode ended in it."""
        part = np.minimum(np.array(self.steps) * PARTS // self.budget, PARTS - 1)
        returns = np.array(self.returns)
        return [
            round(float(returns[part == k].mean()), 2) if (part == k).any() else None for k in range(PARTS)
        ]


if __name__ == "__main__":
    main()
