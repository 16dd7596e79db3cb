"""Torch's threads: few for little work, and as many as before afterwards."""

from typing import Any

import pytest
import torch
from torch import nn

from agents import ACKTR, TRPO, Critic
from agents.rollout.threads import acting_threads, threads, update_threads


def test_threads_are_given_back() -> None:
    """Whatever happens inside."""
    before = torch.get_num_threads()
    with pytest.raises(KeyError), threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_small_policies_act_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second thread is for wide networks and many environments."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    small, wide = nn.Linear(64, 64), nn.Linear(1024, 1024)
    assert acting_threads(small, 16) == 1
    assert acting_threads(wide, 1) == 1
    assert acting_threads(wide, 64) == 8
    assert update_threads(small, 4096) == 1
    assert update_threads(wide, 4096) == 8


def test_a_rollout_acts_in_one_thread() -> None:
    """The thread count during a rollout is that of acting; the update has all of them again."""
    seen: list[int] = []

    class Watching(TRPO):
        def train(self) -> None:
            seen.append(torch.get_num_threads())

    with threads(2):
        agent = Watching("MlpPolicy", "CartPole-v1", n_steps=4, batch_size=4, device="cpu")
        agent.learn(4, lambda *_: not seen.append(torch.get_num_threads()))
    assert seen == [1, 1, 1, 1, 2]


@pytest.mark.parametrize("agent_class", [TRPO, ACKTR])
def test_small_updates_take_one_thread(monkeypatch: pytest.MonkeyPatch, agent_class: Any) -> None:
    """Policy step and critic fit: beside other processes, a second thread would wait more than it works."""
    seen: list[int] = []

    class Watching(agent_class):
        def policy_step(self, batch: Any, objective: Any) -> Any:
            seen.append(torch.get_num_threads())
            return super().policy_step(batch, objective)

    fit = Critic.fit
    monkeypatch.setattr(Critic, "fit", lambda self, b: seen.append(torch.get_num_threads()) or fit(self, b))
    with threads(2):
        Watching("MlpPolicy", "CartPole-v1", n_steps=64, device="cpu").learn(64)
    assert seen == [1, 1]
