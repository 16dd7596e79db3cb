"""Runs with npg's own action distributions."""

from pathlib import Path
from typing import Any

import pytest

from agents.policy.distributions import HEADS
from experiments import command
from experiments.run.plain_data import to_bytes
from experiments.run.run_folder import RunFolder
from experiments.settings.arguments import Arguments
from experiments.train import main

SETTINGS = ("n_envs=2", "n_steps=32", "n_critic_updates=1")


def train(out: Path, name: str, vec_env: str, steps: int) -> Path:
    """Train, and return the folder of the run."""
    policy = f"policy_kwargs={{distribution: {name}, net_arch: [8]}}"
    options: dict[str, Any] = {"out": out, "vec_env": vec_env, "set": ((*SETTINGS, policy),)}
    assert main(Arguments(env=("Pendulum-v1",), steps=steps, episodes=1, device="cpu", **options)) == 0
    return out / "Pendulum-v1" / "trpo" / "seed-0"


@pytest.mark.parametrize(
    ("name", "vec_env"),
    [
        ("beta", "dummy"),
        *[pytest.param(name, "workers", marks=pytest.mark.slow) for name in HEADS],
        *[pytest.param(name, "tensor", marks=pytest.mark.slow) for name in HEADS],
    ],
)
def test_a_run_resumes_bit_for_bit(name: str, vec_env: str, tmp_path: Path) -> None:
    """In the process, in workers and in tensor environments; the run is evaluated then."""
    whole = train(tmp_path / "whole", name, vec_env, 192)
    parts = train(tmp_path / "parts", name, vec_env, 64)
    assert main(Arguments(resume=parts, steps=192)) == 0
    first, second = (RunFolder(folder).read_checkpoint()[1] for folder in (whole, parts))
    assert to_bytes(first["agent"]["parameters"]) == to_bytes(second["agent"]["parameters"])
    assert command.main(["evaluate", str(parts), "--episodes", "1"]) == 0
