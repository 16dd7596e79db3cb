"""Simulators with the interface of rsl_rl's ``VecEnv``: Isaac Lab, mjlab, Genesis, legged_gym."""

import warnings
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from envs.tensor.bridges.simulator import Simulator
from envs.tensor.tensor_env import TensorStep


class RslRlBridge(Simulator):
    """An environment with rsl_rl's methods ``get_observations()`` and ``step(actions)``.

    Its step returns (observations, rewards, dones, extras) and resets where an episode ends. There,
    ``extras["time_outs"]`` tells the episodes that a time limit has truncated; without it, as in Isaac Lab's
    tasks with a finite horizon, every end is a termination.

    The interface has no final observations. If ``extras`` has ``final_obs``, it is used; otherwise the final
    observation of an episode is **approximated by the last one before it**, and a warning says so once. The
    value of a truncated episode's end is then that of the state one step earlier, as in rsl_rl itself.
    """

    def __init__(
        self,
        simulator: Any,
        *,
        observation_key: str = "policy",
        action_bound: float | None = None,
        spec_id: str | None = None,
    ) -> None:
        """Wrap the environment, which must not be stepped elsewhere.

        Args:
            simulator: An rsl_rl ``VecEnv``, e.g. Isaac Lab's ``RslRlVecEnvWrapper``.
            observation_key: The group of observations that the agent sees, if there are several.
            action_bound: The bound of actions, to which agents clip them; None for the simulator's own
                ``clip_actions``, or 100 if it has none.
            spec_id: See `TensorEnv`.
        """
        bound = action_bound or getattr(simulator, "clip_actions", None) or 100.0
        super().__init__(
            simulator,
            int(simulator.num_envs),
            spaces.Box(-np.inf, np.inf, (0,), np.float32),
            spaces.Box(-bound, bound, (int(simulator.num_actions),), np.float32),
            observation_key=observation_key,
            device=simulator.device,
            spec_id=spec_id,
        )
        self._observations = self.copy_observations(simulator.get_observations())
        self.observation_space = spaces.Box(-np.inf, np.inf, tuple(self._observations.shape[1:]), np.float32)
        self._warned = False

    def reset(self) -> Tensor:
        """Start new episodes if the simulator has a method ``reset``; return the observations.

        rsl_rl's interface has none: without it, the current episodes continue.
        """
        if self._next_seed is not None and hasattr(self.simulator, "seed"):
            self.simulator.seed(self._next_seed)
            self._next_seed = None
        if hasattr(self.simulator, "reset"):
            self.simulator.reset()
        self._observations = self.copy_observations(self.simulator.get_observations())
        return self._observations.clone()

    def step(self, actions: Tensor) -> TensorStep:
        """Make one step in every environment; see `TensorEnv.step`."""
        observations, rewards, dones, extras = self.simulator.step(actions)
        observations, dones = self.copy_observations(observations), dones.to(torch.bool)
        time_outs = extras.get("time_outs")
        truncated = torch.zeros_like(dones) if time_outs is None else dones & time_outs.to(torch.bool)
        last = extras.get("final_obs")
        if last is None:
            last = self._observations
            if not self._warned:
                warnings.warn(
                    f"{type(self.simulator).__name__} gives no extras['final_obs']; the value at a time "
                    "limit is that of the observation one step earlier",
                    stacklevel=2,
                )
                self._warned = True
        else:
            last = self.copy_observations(last)
        final = self.select(dones, last, observations)
        self._observations = observations
        rewards = rewards.to(self.dtype, copy=True)
        return TensorStep(observations.clone(), rewards, dones & ~truncated, truncated, final)
