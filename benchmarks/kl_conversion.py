"""Measure the joint KL of steps with sb3-contrib's target_kl and with ours.

    python benchmarks/kl_conversion.py         # HalfCheetah-v5, whose actions are a Box of 6 dimensions

For every update, KL(old || new), joint over action dimensions, mean over the states of the batch, is computed
from the policies before and after the update, and compared with the KL that the algorithm logs.
"""

from dataclasses import dataclass
from statistics import median
from typing import Any

import sb3_contrib
import torch
import tyro
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents import TRPO
from agents.policy.actor import PolicyActor
from envs import make_vec_env


@dataclass(frozen=True)
class Arguments:
    """Compare trust regions."""

    env: str = "HalfCheetah-v5"
    target_kl: float = 0.01
    cg_damping: float = 0.1
    updates: int = 20
    seeds: int = 3


def measure(algorithm: type[OnPolicyAlgorithm], arguments: Arguments, **settings: Any) -> tuple[float, float]:
    """Return the medians, over all updates, of the logged and the true KL."""
    logged, true = [], []
    for seed in range(arguments.seeds):
        env = make_vec_env(arguments.env, 8, seed=seed)
        agent = algorithm("MlpPolicy", env, n_steps=256, seed=seed, device="cpu", **settings)
        update = agent.train

        def recorded_update(agent: OnPolicyAlgorithm = agent, update: Any = update) -> None:
            observations = torch.as_tensor(agent.rollout_buffer.observations).float().flatten(0, 1)
            old = PolicyActor(agent.policy)(observations).snapshot()
            update()
            true.append(old.kl(PolicyActor(agent.policy)(observations)).mean().item())
            logged.append(agent.logger.name_to_value["train/kl_divergence_loss"])

        agent.train = recorded_update
        agent.learn(2048 * arguments.updates, log_interval=None)
    return median(logged), median(true)


def main(arguments: Arguments) -> None:
    """Measure three settings and print a table."""
    dimensions = make_vec_env(arguments.env).action_space.shape[0]
    delta, damping = arguments.target_kl, arguments.cg_damping
    rows = {
        f"sb3-contrib, target_kl={delta}, cg_damping={damping}": (sb3_contrib.TRPO, delta, damping),
        f"ours, target_kl={delta}, cg_damping={damping}": (TRPO, delta, damping),
        f"ours, target_kl={dimensions * delta:g}, cg_damping={dimensions * damping:g}": (
            TRPO,
            dimensions * delta,
            dimensions * damping,
        ),
    }
    runs = f"{arguments.seeds} seeds of {arguments.updates} updates"
    print(f"{arguments.env}, {dimensions} action dimensions, {runs}")
    print(f"| {'setting':48} | KL it logs | joint KL(old ‖ new) |\n|{'-' * 50}|{'-' * 12}|{'-' * 21}|")
    for name, (algorithm, target_kl, cg_damping) in rows.items():
        logged, true = measure(algorithm, arguments, target_kl=target_kl, cg_damping=cg_damping)
        print(f"| {name:48} | {logged:10.4f} | {true:19.4f} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
