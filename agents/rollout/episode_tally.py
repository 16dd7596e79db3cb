"""Returns and lengths of the episodes that end within a rollout, computed on the device."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from npg.host import scalar_dtype


class EpisodeTally:
    """Sum rewards and count steps per episode, over any number of rollouts.

    Args:
        n_envs: the number of environments, N.
        device: the device of all tensors.

    Attributes:
        returns: sum of the rewards of each current episode so far, (N,).
        lengths: number of its steps so far, (N,).
        on_host: both as the host has them, {"returns": (N,), "lengths": (N,)}; None if it does not.
    """

    def __init__(self, n_envs: int, device: torch.device):
        dtype = scalar_dtype(device)
        self.returns = torch.zeros(n_envs, dtype=dtype, device=device)
        self.lengths = torch.zeros(n_envs, dtype=torch.int64, device=device)
        self.on_host: Mapping[str, np.ndarray] | None = None

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from the returns and lengths of current episodes that the host has, if they differ."""
        known = self.on_host
        if known is not None and all(np.array_equal(known[name], state[name]) for name in known):
            return
        self.returns.copy_(torch.as_tensor(state["returns"]))
        self.lengths.copy_(torch.as_tensor(state["lengths"]))

    def add(self, rewards: Tensor, dones: Tensor, most: int) -> Tensor:
        """Add a rollout, and return the last `most` episodes that ended in it, in the order of their ends.

        Args:
            rewards: (T, N).
            dones: whether a step ended an episode, (T, N).
            most: the largest number of episodes to return.

        Returns:
            (2 · most + 1,): the number k of episodes, at most `most`; their returns; their lengths. The last
            k entries of both parts are used.
        """
        self.on_host = None
        returns, lengths = self.sums(rewards, dones)
        self.returns = torch.where(dones[-1], 0, returns[-1])
        self.lengths = torch.where(dones[-1], 0, lengths[-1])
        ended = dones.flatten()
        # The position of an episode, counted from 0 for the last; all else goes to a row that is left out.
        position = ended.flip(0).cumsum(0).flip(0) - 1
        row = torch.where(ended & (position < most), most - 1 - position, most)
        table = returns.new_zeros(2, most + 1)
        table[0].scatter_(0, row, returns.flatten())
        table[1].scatter_(0, row, lengths.flatten().to(table.dtype))
        count = ended.sum().clamp(max=most).to(table.dtype)
        return torch.cat([count.reshape(1), table[:, :most].flatten()])

    def sums(self, rewards: Tensor, dones: Tensor) -> tuple[Tensor, Tensor]:
        """Return the return and the length up to each step of the episode that it belongs to, both (T, N)."""
        steps = torch.arange(1, len(rewards) + 1, device=rewards.device).unsqueeze(1)
        total = self.returns + rewards.to(self.returns.dtype).cumsum(0)
        # Row t has the number of steps up to the last end before step t, and the sum up to there.
        ends = torch.where(dones, steps, 0).cummax(0).values
        before = torch.cat([torch.zeros_like(ends[:1]), ends[:-1]])
        sums = torch.cat([torch.zeros_like(total[:1]), total]).gather(0, before)
        fresh = before > 0
        returns = total - torch.where(fresh, sums, 0)
        return returns, steps - before + torch.where(fresh, 0, self.lengths)
