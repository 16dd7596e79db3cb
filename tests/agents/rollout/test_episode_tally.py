"""Returns and lengths of episodes, against the loop that counts them one by one."""

import numpy as np
import pytest
import torch

from agents.rollout.episode_tally import EpisodeTally
from envs.vector.episode_statistics import EpisodeStatistics

N = 4


@pytest.mark.parametrize("most", [1, 3, 100])
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_the_last_episodes_in_order(share: float, most: int) -> None:
    """Over several rollouts of different lengths, as `EpisodeStatistics` counts them."""
    rng, tally, reference = (
        np.random.default_rng(0),
        EpisodeTally(N, torch.device("cpu")),
        EpisodeStatistics(N),
    )
    for steps in (7, 1, 12):
        rewards, dones = rng.normal(size=(steps, N)).astype(np.float32), rng.random((steps, N)) < share
        expected = [
            (info["episode"]["r"], info["episode"]["l"])
            for t in range(steps)
            for info in reference.step(rewards[t], dones[t], dones[t])[1]
            if "episode" in info
        ][-most:]
        count, *table = tally.add(torch.as_tensor(rewards), torch.as_tensor(dones), most).tolist()
        first = most - int(count)
        found = [*zip(table[first:most], table[most + first :], strict=True)]
        assert len(found) == len(expected)
        for (one, length), (two, other) in zip(found, expected, strict=True):
            assert one == pytest.approx(two, abs=1e-5) and length == other
        assert tally.lengths.tolist() == reference.lengths.tolist()
        assert tally.returns.tolist() == pytest.approx(reference.get_state()["returns"].tolist(), abs=1e-5)
