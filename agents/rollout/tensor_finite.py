"""Find the numbers of a rollout on the device that are not finite."""

from typing import NoReturn

import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.rollout.finite import check_finite, no_distribution
from agents.rollout.tensor_buffer import TensorRolloutBuffer
from npg import host


def all_finite(buffer: TensorRolloutBuffer, rows: slice) -> Tensor:
    """Return whether all numbers of the steps in `rows` are finite, 0-d, without a host read."""
    states = buffer.states[rows.start + 1 : rows.stop + 1]
    parts = [states, *(part[rows] for part in (buffer.rewards, buffer.final_observations, buffer.actions))]
    if buffer.parameters is not None:
        parts.append(buffer.parameters[rows])
    # One pass per tensor: NaN and infinities reach the largest or the smallest number.
    extremes = [torch.stack(torch.aminmax(part)) for part in parts if part.is_floating_point()]
    dtype = host.scalar_dtype(states.device)
    return torch.cat([pair.to(dtype) for pair in extremes]).isfinite().all()


def raise_first(
    agent: OnPolicyAlgorithm,
    env: VecEnv,
    buffer: TensorRolloutBuffer,
    rows: slice,
    first_step: int,
    stepped: int,
) -> NoReturn:
    """Raise the error that `collect` raises at the first number that is not finite.

    Args:
        agent: the agent; its `num_timesteps` becomes that of the error.
        env: the vector environment.
        buffer: the rollout.
        rows: the steps to search.
        first_step: `num_timesteps` before row 0.
        stepped: what a row adds to it.

    Raises:
        NonFiniteError: always.
    """
    for t in range(rows.start, rows.stop):
        agent.num_timesteps = first_step + t * stepped
        logits = None if buffer.actions.is_floating_point() else buffer.parameters
        if logits is not None and not bool(logits[t].isfinite().all()):
            raise no_distribution(agent, "its logits are not finite")
        check_finite(agent, env, "action", buffer.actions[t].cpu().numpy())
        agent.num_timesteps += stepped
        for name, tensor in (
            ("reward", buffer.rewards[t]),
            ("observation", buffer.states[t + 1]),
            ("observation", buffer.final_observations[t]),
        ):
            check_finite(agent, env, name, tensor.cpu().numpy())
    raise AssertionError("every number of the rollout is finite")
