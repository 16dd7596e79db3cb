"""A deterministic policy as a module from raw observations to actions, as it is exported."""

from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from agents.policy.actions import starts_at_zero

OBSERVATION, ACTION = "observation", "action"
STATE, NEXT_STATE = "state", "next_state"  # of a recurrent policy
MASKS = "action_masks"


class Predictor(nn.Module):
    """Compute `predict` from raw observations to actions, in tensors.

    Args:
        policy: an SB3 policy.
        normaliser: the normaliser of its observations, or None.
    """

    def __init__(self, policy: Any, normaliser: VecNormalize | None):
        super().__init__()
        self.policy = policy
        self.moments: dict[str, tuple[Tensor, Tensor]] = {}
        tensor = partial(torch.as_tensor, device=policy.device)
        if normaliser is not None and normaliser.norm_obs:
            self.clip = float(normaliser.clip_obs)
            for key, moment in as_parts(normaliser.obs_rms).items():
                # float64, as in VecNormalize, since float32 loses digits if the mean is far from 0.
                self.moments[key] = tensor(moment.mean), tensor(np.sqrt(moment.var + normaliser.epsilon))
        space = policy.action_space
        self.dtype: torch.dtype = torch.from_numpy(np.empty(0, space.dtype)).dtype
        self.starts = not starts_at_zero(space)
        if self.starts:
            self.start = tensor(space.start)
        if isinstance(space, spaces.Box):
            self.whole = space.dtype.kind in "iu"  # rounded in float64
            bounds = [bound.astype(float) if self.whole else bound for bound in (space.low, space.high)]
            # A bound of int64 may be rounded to a float outside of int64, so large ones move towards 0.
            bounds = [np.where(abs(b) < 2.0**53, b, np.nextafter(b, 0)) if self.whole else b for b in bounds]
            self.low, self.high = map(tensor, bounds)

    def forward(
        self, parts: dict[str, Tensor], state: Tensor | None = None, action_masks: Tensor | None = None
    ) -> Any:
        """Return deterministic actions, one row each, for raw observations, which are given by input name.

        A recurrent policy takes and also returns its state, (parts, layers, rows, H). With masks, (rows, K),
        all actions are allowed ones.
        """
        for key, (mean, deviation) in self.moments.items():
            part = (parts[key].double() - mean) / deviation
            parts = parts | {key: part.clamp(-self.clip, self.clip).float()}
        given = as_space(self.policy.observation_space, parts)
        masks = {} if action_masks is None else {MASKS: action_masks}
        if state is None:
            return self._to_space(self.policy._predict(given, True, **masks))
        actions, after = self.policy._predict(given, state, True, **masks)
        return self._to_space(actions), after

    def _to_space(self, actions: Tensor) -> Tensor:
        actions = actions.reshape((-1, *self.policy.action_space.shape))
        if not isinstance(self.policy.action_space, spaces.Box):
            return (actions.long() + self.start).to(self.dtype) if self.starts else actions.to(self.dtype)
        if self.policy.squash_output:
            actions = self.low + 0.5 * (actions + 1.0) * (self.high - self.low)
        inside = torch.minimum(torch.maximum(actions, self.low), self.high)
        return (inside.round() if self.whole else inside).to(self.dtype)


def as_parts(value: Any) -> dict[str, Any]:
    """Return the parts of an observation, or of what belongs to one, by the names of the file's inputs."""
    return value if isinstance(value, dict) else {OBSERVATION: value}


def as_space(space: spaces.Space, parts: dict[str, Any]) -> Any:
    """Return the parts in the form of the space: a dict, or the only part itself."""
    return parts if isinstance(space, spaces.Dict) else parts[OBSERVATION]
