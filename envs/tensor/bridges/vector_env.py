"""Gymnasium vector environments whose arrays are torch tensors, e.g. ManiSkill's."""

from collections.abc import Callable
from typing import Any

import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from envs.tensor.bridges.simulator import Simulator
from envs.tensor.tensor_env import TensorStep

# (vector environment, mask (N,)) -> observations (N, ...), those of new episodes where the mask is true
PartialReset = Callable[[Any, Tensor], Any]


def reset_by_mask(env: Any, mask: Tensor) -> Any:
    """Reset by Gymnasium's option ``reset_mask``, as environments in ``AutoresetMode.DISABLED`` accept it."""
    return env.reset(options={"reset_mask": mask})


class VectorEnvBridge(Simulator):
    """A Gymnasium ``VectorEnv`` on tensors, in any autoreset mode that shows the ends of episodes.

    - SAME_STEP: the final observations are those of the infos, ``final_obs`` or, as in ManiSkill,
      ``final_observation``.
    - DISABLED: environments whose episode has ended are reset by `partial_reset`, in the same step.
    - NEXT_STEP would use a whole step for a reset and ignore its action; it is rejected unless
      `partial_reset` is given, which must also make the environment forget that a reset is due.

    Each step without final observations in its infos reads from the device whether an episode has ended.
    """

    def __init__(
        self,
        simulator: VectorEnv[Any, Any, Any],
        *,
        device: torch.device | str,
        autoreset_mode: AutoresetMode | None = None,
        partial_reset: PartialReset | None = None,
        observation_key: str | None = None,
        spec_id: str | None = None,
    ) -> None:
        """Wrap the vector environment, which must not be stepped elsewhere.

        Args:
            simulator: The vector environment, e.g. a ``ManiSkillVectorEnv``.
            device: Where its tensors are.
            autoreset_mode: For an environment that does not declare its mode; ManiSkill's is SAME_STEP.
            partial_reset: Resets the environments under a mask and leaves the others as they are; by default
                Gymnasium's option ``reset_mask``. SAME_STEP needs none.
            observation_key: The part of a dict of observations that the agent sees.
            spec_id: See `TensorEnv`.

        Raises:
            ValueError: If the mode is unknown, or NEXT_STEP without `partial_reset`.
        """
        mode = autoreset_mode or simulator.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise ValueError(
                f"{simulator} does not declare metadata['autoreset_mode']; pass autoreset_mode, one of "
                "gymnasium.vector.AutoresetMode"
            )
        if mode is AutoresetMode.NEXT_STEP and partial_reset is None:
            raise ValueError(
                f"{simulator} resets in the step after an episode's end, which would appear as a transition; "
                "make it with autoreset_mode SAME_STEP or DISABLED, or pass partial_reset"
            )
        observations, actions = simulator.single_observation_space, simulator.single_action_space
        super().__init__(
            simulator,
            simulator.num_envs,
            observations if observation_key is None else observations[observation_key],  # type: ignore[index]
            actions,
            observation_key=observation_key,
            device=device,
            spec_id=spec_id,
        )
        self._partial_reset = None if mode is AutoresetMode.SAME_STEP else (partial_reset or reset_by_mask)

    def reset(self) -> Tensor:
        """Start a new episode in every environment, and return the first observations (N, ...)."""
        observations = self.simulator.reset(seed=self._next_seed)
        self._next_seed = None
        return self.copy_observations(observations)

    def step(self, actions: Tensor) -> TensorStep:
        """Make one step in every environment; see `TensorEnv.step`.

        Raises:
            ValueError: If an episode has ended in SAME_STEP mode, and the infos have no final observations.
        """
        observations, rewards, terminated, truncated, infos = self.simulator.step(actions)
        observations = self.copy_observations(observations)
        rewards = rewards.to(self.dtype, copy=True)
        terminated, truncated = (each.to(torch.bool, copy=True) for each in (terminated, truncated))
        ended = terminated | truncated
        if self._partial_reset is None:
            given = infos.get("final_obs", infos.get("final_observation"))
            if given is not None:
                final = self.select(ended, self.copy_observations(given), observations)
                return TensorStep(observations, rewards, terminated, truncated, final)
        if not bool(ended.any()):
            return TensorStep(observations, rewards, terminated, truncated, observations.clone())
        if self._partial_reset is None:
            raise ValueError(
                f"{self.simulator} has ended an episode without infos['final_obs']; let it give the final "
                "observations, or make it with autoreset_mode DISABLED"
            )
        first = self.copy_observations(self._partial_reset(self.simulator, ended))
        following = self.select(ended, first, observations)
        return TensorStep(following, rewards, terminated, truncated, observations)
