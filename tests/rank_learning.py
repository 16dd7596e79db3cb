"""Learn on several ranks, in scenarios: run by torchrun.

torchrun --nproc-per-node 2 --module rank_learning OUT SCENARIO...
"""

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize
from torch import distributed as dist

from agents import ACKTR, NPG, TRPO, VPG, PolicyGradientAgent
from agents.ranks import RankError
from envs import make_vec_env

TIMEOUT = timedelta(seconds=6)


class AtStep(BaseCallback):
    """On rank 1, do something in the step that reaches a number of steps."""

    def __init__(self, step: int, action: Any):
        super().__init__()
        self.step, self.action = step, action

    def _on_step(self) -> bool:
        if dist.get_rank() == 1 and self.num_timesteps == self.step:
            return self.action(self.model) is not False
        return True


def make(agent_class: type[PolicyGradientAgent] = TRPO, **options: Any) -> PolicyGradientAgent:
    """Return an agent on CartPole-v1, with 2 environments on rank 0 and 1 on each other rank."""
    env = options.pop("env", None) or make_vec_env("CartPole-v1", 1 + (dist.get_rank() == 0), vec_env="dummy")
    kwargs = {"net_arch": [8], "normalize_observations": True, "normalize_returns": True}
    defaults: dict[str, Any] = {"n_steps": 32, "n_critic_updates": 2, "seed": 0, "device": "cpu"}
    return agent_class("MlpPolicy", env, **defaults | options, policy_kwargs=kwargs)


LBFGS: dict[str, Any] = {"critic_fit": "lbfgs"}
MINIBATCHES: dict[str, Any] = {"critic_fit": "minibatch", "batch_size": 24}


def learns(updates: int = 12, fits: tuple[dict[str, Any], ...] = (LBFGS,)) -> Any:
    """Return policy, optimizers and averages of every agent, and its episodes."""
    learnt = {}
    for agent_class in (VPG, NPG, TRPO, ACKTR):
        for options in ({},) if agent_class is ACKTR else fits:
            agent = make(agent_class, **options).learn(updates * 96)
            episodes = [(info["r"], info["l"]) for info in agent.ep_info_buffer or ()]
            learnt[f"{agent_class.__name__} {options}"] = agent.get_parameters(), episodes
    return learnt


def learns_long() -> Any:
    """Return the same after 50 updates, with both critic fits."""
    return learns(50, (LBFGS, MINIBATCHES))


def stops() -> Any:
    """Return the number of steps when a callback on rank 1 has ended the training."""
    return make().learn(10_000, AtStep(96 + 30, lambda agent: False)).num_timesteps


def settings() -> Any:
    """Give the ranks different discounts."""
    return make(gamma=0.9 + 0.01 * dist.get_rank())


def seeds() -> Any:
    """Return the first observations and actions without a seed."""
    agent = make(seed=None)
    return agent.policy.state_dict()


def parameters() -> Any:
    """Change a parameter on rank 1."""
    return make().learn(10_000, AtStep(300, lambda agent: agent.policy.action_net.bias.data.add_(1)))


def normaliser() -> Any:
    """Wrap the environments in a `VecNormalize`."""
    return make(env=VecNormalize(make_vec_env("CartPole-v1", 1, vec_env="dummy")))


def dies() -> Any:
    """End rank 1 within a rollout."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends rank 0, too, perhaps before its error
    return make().learn(10_000, AtStep(150, lambda agent: os._exit(3)))


def hangs() -> Any:
    """Let rank 1 sleep within a rollout, for longer than the others wait."""
    return make().learn(10_000, AtStep(150, lambda agent: time.sleep(2 * TIMEOUT.total_seconds())))


def main(out: Path, *scenarios: str) -> None:
    """Store {scenario: what it returned, or its error} of this rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=TIMEOUT)
    results: dict[str, Any] = {}
    for name in scenarios:
        try:
            results[name] = globals()[name]()
        except (RankError, ValueError) as error:
            results[name] = f"{type(error).__name__}: {error}"
        torch.save(results, out / f"rank-{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
