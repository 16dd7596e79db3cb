"""What a row of the log says of an update."""

from typing import Any

import pytest
import torch
from stable_baselines3.common.logger import KVWriter, Logger

from agents import ACKTR, ALGORITHMS, NPG, TRPO
from agents.rollout.batch import Batch
from npg import PolicyStep, SurrogateObjective

SMALL: dict[str, Any] = {"n_steps": 64, "batch_size": 64, "seed": 0, "device": "cpu"}


class Rows(KVWriter):
    """Keep the rows of a log."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], *_: Any) -> None:
        """Keep one."""
        self.seen.append(dict(key_values))


def trained(agent_class: type, **options: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Return an agent after twelve updates, and the rows of its log that describe an update."""
    agent, rows = agent_class("MlpPolicy", "CartPole-v1", **SMALL, **options), Rows()
    agent.set_logger(Logger(None, [rows]))
    agent.learn(12 * 64)
    return agent, [row for row in rows.seen if "npg/kl" in row]


@pytest.mark.parametrize(
    ("agent_class", "options"),
    [
        (NPG, {"target_kl": 1.0, "cg_damping": 0.0}),
        (ACKTR, {"target_kl": 1.0, "learning_rate": 10.0, "damping": 1e-4}),
    ],
)
def test_steps_beyond_twice_the_target_are_counted(agent_class: type, options: dict[str, Any]) -> None:
    """By their measured KL, if they were taken; the count is resumable."""
    agent, rows = trained(agent_class, **options)
    beyond = [
        row["npg/kl"] > 2 * options["target_kl"] and row["train/is_line_search_success"] for row in rows
    ]
    assert len(rows) == 12 and 0 < sum(beyond) < 12
    assert [row["npg/kl_exceeded"] for row in rows] == [sum(beyond[: k + 1]) for k in range(12)]
    assert agent.resumable_state()["kl_exceeded"] == sum(beyond)


def test_twice_the_target_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step with 1.9 δ is within it, one with 2.1 δ beyond."""
    multiples = iter((0.9, 1.9, 2.1) * 4)

    def policy_step(agent: NPG, batch: Batch, objective: SurrogateObjective) -> PolicyStep:
        no_change = torch.zeros(objective.parameters.size)
        return PolicyStep(no_change, None, 0.0, kl=next(multiples) * agent.target_kl)

    monkeypatch.setattr(NPG, "policy_step", policy_step)
    _, rows = trained(NPG, target_kl=0.02)
    assert [row["npg/kl_exceeded"] for row in rows] == [(k + 1) // 3 for k in range(12)]


def test_no_step_of_trpo_exceeds_its_target() -> None:
    """Its line search sees to it."""
    _, rows = trained(TRPO, target_kl=1.0, cg_damping=0.0)
    assert all(row["npg/kl_exceeded"] == 0 for row in rows)


def test_an_agent_without_target_counts_nothing() -> None:
    """VPG logs the KL of its steps all the same."""
    _, rows = trained(ALGORITHMS["vpg"])
    assert rows and all("npg/kl_exceeded" not in row for row in rows)
