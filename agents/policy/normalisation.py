"""Running mean and variance as part of a policy."""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from torch import Tensor, nn

from agents.ranks import ONE, Ranks
from npg.host import scalar_dtype

CLIP = 10.0  # standard deviations, as in VecNormalize
LEAST_DEVIATION = 1e-8
# Relative to the mean. Less may be rounding, since float32 resolves 6e-8: otherwise a constant that another
# simulator rounds differently would become ±CLIP.
LEAST_RELATIVE_DEVIATION = 1e-5


class RunningMoments(nn.Module):
    """Mean and variance of all values seen, kept as buffers, so that they are saved with the module.

    Before the first update, mean 0 and variance 1 leave values as they are.

    Args:
        shape: the shape of one value.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, shape: tuple[int, ...] = ()):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the moments, and convert them to the new device's widest dtype: it may lack float64."""
        dtype = scalar_dtype(fn(torch.empty(0)).device)
        for name, moment in self.named_buffers(recurse=False):
            # Convert on the device that has float64: before a move away from it, after a move to it.
            moved = fn(moment.to(dtype)) if dtype != torch.float64 else fn(moment)
            setattr(self, name, moved.to(dtype))
        return self

    @property
    def deviation(self) -> Tensor:
        """The standard deviation, but at least what the resolution of float32 can show."""
        least = (self.mean.abs() * LEAST_RELATIVE_DEVIATION).clamp(min=LEAST_DEVIATION)
        return torch.maximum(self.variance.sqrt(), least)

    @torch.no_grad()
    def update(self, values: Tensor, ranks: Ranks = ONE) -> None:
        """Update with values (N, *shape) of every rank; change nothing if one or its square is not finite.

        Chan, Golub & LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
        variances".
        """
        values = values.to(self.mean.dtype)
        n, mean, variance = ranks.moments(values)
        total = self.count + n
        shift = mean - self.mean
        # Before the first update the count is 0, so the initial variance of 1 has no weight.
        squares = self.variance * self.count + variance * n
        squares = squares + shift.square() * self.count * n / total
        finite = squares.isfinite().all()
        self.mean.copy_(torch.where(finite, self.mean + shift * n / total, self.mean))
        self.variance.copy_(torch.where(finite, squares / total, self.variance))
        self.count.copy_(torch.where(finite, total, self.count))

    def forward(self, values: Tensor) -> Tensor:
        """Return values (N, *shape) in standard deviations from the mean, clipped to ±`CLIP`."""
        if not values.is_floating_point():
            values = values.float()
        mean, deviation = self.mean.to(values.dtype), self.deviation.to(values.dtype)
        return ((values - mean) / deviation).clamp(-CLIP, CLIP)


class ObservationNormaliser(nn.Module):
    """Normalise the boxes of an observation, except images.

    Args:
        space: the observation space; a Dict is normalised key by key.
    """

    def __init__(self, space: spaces.Space):
        super().__init__()
        parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {"observation": space}
        self._keys = {key: f"moments_{i}" for i, (key, part) in enumerate(parts.items()) if is_measured(part)}
        for key, name in self._keys.items():
            self.add_module(name, RunningMoments(parts[key].shape or ()))

    def update(self, observations: Any, ranks: Ranks = ONE) -> None:
        """Update with observations (N, ...) of every rank."""
        for key, name in self._keys.items():
            part = observations[key] if isinstance(observations, dict) else observations
            self.get_submodule(name).update(part, ranks)  # type: ignore[operator]

    def forward(self, observations: Any) -> Any:
        """Return observations (N, ...) with their measured parts normalised."""
        if isinstance(observations, dict):
            return {key: self._normalised(key, part) for key, part in observations.items()}
        return self._normalised("observation", observations)

    def _normalised(self, key: str, part: Tensor) -> Tensor:
        return self.get_submodule(self._keys[key])(part) if key in self._keys else part


def is_measured(space: spaces.Space) -> bool:
    """Return whether a space's values are quantities with a meaningful mean, not images or choices."""
    return isinstance(space, spaces.Box) and not (
        space.dtype == np.uint8 and is_image_space(space, check_channels=False)
    )
