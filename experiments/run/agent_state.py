"""Save and restore everything that an agent's next update depends on, as plain data."""

import ast
import inspect
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecTransposeImage, unwrap_vec_wrapper

from agents import PolicyGradientAgent

# SB3's attributes that change during training; our agents list their own in `resumable`. Tensors are returned
# by `get_parameters`.
MOVING = (
    "num_timesteps",
    "_n_updates",
    "_episode_num",
    "_current_progress_remaining",
    "_last_obs",
    "_last_original_obs",
    "_last_episode_starts",
)
# Names in checkpoints of version 0.1, and the present ones.
RENAMED = {"stop_reasons": "outcomes", "critic_refused": "critic_rejected", "refusals": "rejections"}
# Exploration noise of gSDE, which is drawn before a rollout starts.
NOISE = ("exploration_mat", "exploration_matrices")


def take_agent(agent: OnPolicyAlgorithm) -> dict[str, Any]:
    """Return parameters, optimizers, Kronecker averages, counters, accumulators and the log's pending row.

    Call it between two updates: the rollout buffer is not included.
    """
    logger = agent.logger
    moving = {name: getattr(agent, name) for name in MOVING if hasattr(agent, name)}
    if isinstance(agent, PolicyGradientAgent):
        moving |= agent.resumable_state()
    # Scalars only; e.g. figures are left out.
    row = {
        name: value
        for name, value in ((name, plain(value)) for name, value in logger.name_to_value.items())
        if isinstance(value, bool | int | float | str)
    }
    return {
        "parameters": agent.get_parameters(),
        "moving": {name: plain(value) for name, value in moving.items()},
        "episodes": [
            {key: plain(value) for key, value in info.items()} for info in agent.ep_info_buffer or ()
        ],
        "successes": [float(success) for success in agent.ep_success_buffer or ()],
        # As text, since a logged number may be NaN, and a checkpoint holds finite numbers only.
        "logged": {name: repr(value) for name, value in row.items()},
        "noise": {name: getattr(agent.policy.action_dist, name) for name in NOISE} if agent.use_sde else {},
        "averaged": dict(logger.name_to_count),
        "excluded": {name: list(logger.name_to_excluded[name]) for name in row},
    }


def restore_agent(agent: OnPolicyAlgorithm, state: dict[str, Any]) -> None:
    """Restore what `take_agent` returned, except the log's pending row and gSDE's noise.

    Args:
        agent: an agent with the same settings.
        state: what `take_agent` returned.

    Raises:
        ValueError, RuntimeError: the agent has other settings.
    """
    agent.set_parameters(state["parameters"], exact_match=True, device=agent.device)
    moving = {RENAMED.get(name, name): value for name, value in state["moving"].items()}
    moving["_last_obs"] = laid_out(moving["_last_obs"], agent.env)
    for name in MOVING:
        if name in moving:
            setattr(agent, name, moving[name])
    if isinstance(agent, PolicyGradientAgent):
        agent.restore_state(moving)
    agent.ep_info_buffer = deque(state["episodes"], maxlen=agent._stats_window_size)
    agent.ep_success_buffer = deque(state["successes"], maxlen=agent._stats_window_size)


def laid_out(observations: Any, env: VecEnv | None) -> Any:
    """Return observations with the memory layout of those that the environments give.

    A convolution's rounding depends on it. SB3's `VecTransposeImage` returns images as views, whose channels
    stay last in memory.

    Args:
        observations: an array, or a dictionary of them.
        env: the agent's environments.
    """
    wrapper = None if env is None else unwrap_vec_wrapper(env, VecTransposeImage)
    if not isinstance(wrapper, VecTransposeImage) or wrapper.skip:
        return observations
    if isinstance(observations, dict):
        images = {name: _channels_last(observations[name]) for name in wrapper.image_space_keys}
        return observations | images
    return _channels_last(observations)


def _channels_last(images: np.ndarray) -> np.ndarray:
    """Return images (N, C, H, W) as a view of an array (N, H, W, C)."""
    last = images.transpose(0, 2, 3, 1)
    copy = np.empty(last.shape, images.dtype)  # ascontiguousarray may keep the strides of one channel
    copy[...] = last
    return copy.transpose(0, 3, 1, 2)


def restore_logged(logger: Logger, state: dict[str, Any]) -> None:
    """Restore the log's pending row from what `take_agent` returned.

    Raises:
        ValueError: a logged value is invalid.
    """
    logger.name_to_value = defaultdict(float, {name: number(text) for name, text in state["logged"].items()})
    logger.name_to_count = defaultdict(int, state["averaged"])
    logger.name_to_excluded = defaultdict(tuple, {name: tuple(e) for name, e in state["excluded"].items()})


def restore_noise(agent: OnPolicyAlgorithm, state: dict[str, Any]) -> None:
    """Restore gSDE's exploration noise, which a rollout draws before its first callback."""
    for name, value in state["noise"].items():
        setattr(agent.policy.action_dist, name, value.to(agent.device))


def take_callbacks(callbacks: Sequence[BaseCallback]) -> list[dict[str, int]]:
    """Return the counters of callbacks: every integer attribute that is not a constructor argument."""
    return [
        {
            name: value
            for name, value in vars(callback).items()
            if type(value) is int and name not in inspect.signature(type(callback)).parameters
        }
        for callback in callbacks
    ]


def restore_callbacks(callbacks: Sequence[BaseCallback], states: list[dict[str, int]]) -> None:
    """Restore what `take_callbacks` returned; if the number of callbacks has changed, restore nothing.

    Raises:
        ValueError: a callback lacks a counter that was saved.
    """
    if len(callbacks) == len(states):
        for callback, state in zip(callbacks, states, strict=True):
            if unknown := [name for name in state if type(vars(callback).get(name)) is not int]:
                raise ValueError(f"{type(callback).__name__} has no counter {unknown[0]!r:.60}")
            vars(callback).update(state)


def number(text: str) -> Any:
    """Parse the `repr` of a number.

    Raises:
        ValueError: the text is not a literal.
    """
    try:
        return float(text) if text.strip("-") in ("nan", "inf") else ast.literal_eval(text)
    except SyntaxError:
        raise ValueError(f"expected a number, got {text!r}") from None


def plain(value: Any) -> Any:
    """Return a NumPy scalar as a Python number; anything else unchanged."""
    return value.item() if isinstance(value, np.generic) else value
