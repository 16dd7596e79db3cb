"""The arguments of scaling.py, and the agents that it measures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling_worker import Task

STEPS = 32  # of each environment per update
LBFGS: dict[str, Any] = {"critic_fit": "lbfgs"}
AGENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "VPG": ("vpg", LBFGS),
    "NPG": ("npg", LBFGS),
    "TRPO": ("trpo", LBFGS),
    "TRPO, minibatches": ("trpo", {"critic_fit": "minibatch"}),
    "ACKTR": ("acktr", {}),
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "NPG, sub_sampling_factor=4": ("npg", LBFGS | {"sub_sampling_factor": 4}),
    "NPG, cg_max_steps=5": ("npg", LBFGS | {"cg_max_steps": 5}),
    "TRPO, minibatches of 2048": ("trpo", {"critic_fit": "minibatch", "batch_size": 2048}),
    "ACKTR, intervals of 32": ("acktr", {"factor_interval": 32, "inverse_interval": 32}),
}


@dataclass(frozen=True)
class Arguments:
    """Measure and model scaling."""

    parts: tuple[str, ...] = ("measure", "model", "delay")
    env: str = "Hopper-v5"
    vec_env: str = "envpool"
    steps: int = 2048
    """Steps per rank and update."""
    rounds: int = 5
    updates: int = 4
    """Updates per measurement."""
    attempts: int = 1
    """How often a measurement is made at most until other processes use at most `most_others` cores; the
    least disturbed one counts."""
    most_others: float = 0.1
    agents: tuple[str, ...] = tuple(AGENTS)
    widths: tuple[int, ...] = (64, 256, 1024)
    """Hidden units per layer in the model."""
    model_steps: tuple[int, int] = (256, 1024)
    """Steps per update with which computation is timed."""
    latencies: tuple[float, ...] = (10e-6, 50e-6, 500e-6)
    """Seconds."""
    strong: int = 65_536
    """Steps of all ranks per update in the model of strong scaling."""
    delays: tuple[float, ...] = (0.0, 1e-3, 5e-3)
    """Seconds of delay with which the model is checked."""
    variants: bool = True
    """Whether to model, at the first width, settings that help."""
    out: Path | None = None
    """Write the numbers into this JSON file."""
    figure: Path | None = None
    """Write a figure of the model."""

    def task(self, agent: str, steps: int, width: int = 64) -> Task:
        """Return the measurement of an agent."""
        algo, settings = (AGENTS | VARIANTS)[agent]
        envs = max(steps // STEPS, 1)
        return Task(algo, self.env, self.vec_env, steps, envs, width, self.updates, settings)
