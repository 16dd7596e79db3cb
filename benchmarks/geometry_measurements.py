"""Measurements for benchmarks/geometry_figures.py, of a policy that TRPO trains on Hopper-v5."""

from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from torch import Tensor

import npg
from agents import TRPO
from agents.rollout.batch import standardise
from envs import make_vec_env
from experiments.geometry import GeometryCallback, read
from experiments.settings.arguments import Arguments as Train
from experiments.settings.configuration import resolve

MEASUREMENTS = "measurements.pt"
ROOT, TASK = Path(__file__).parents[1], "Hopper-v5"
DAMPINGS = (0.01, 0.1, 1.0)
APPROXIMATIONS = {
    "diagonal": npg.DiagonalFisher,
    "K-FAC": npg.KroneckerFisher,
    "EKFAC": npg.EigenvalueCorrectedFisher,
}


class GeometryRecorder(BaseCallback):
    """Measure what `GeometryCallback` does not, for the policy before every tenth update."""

    model: TRPO

    def __init__(self, updates: int):
        super().__init__()
        self.updates, self.stages = 0, {0, updates // 20 * 10, (updates - 1) // 10 * 10}
        self.kl_models: dict[int, list[list[float]]] = {}
        self.spectra: dict[int, dict[str, Any]] = {}

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.updates % 10 == 0:
            self._measure()
        self.updates += 1

    def _measure(self) -> None:
        actor, buffer, step = self.model.actor, self.model.rollout_buffer, self.num_timesteps
        states, actions, log_prob = read(buffer, self.model.action_space, buffer.buffer_size * buffer.n_envs)
        advantages = standardise(torch.as_tensor(buffer.advantages.T.flatten()))
        gradient = npg.SurrogateObjective(
            actor, states, actions, advantages, old_log_prob=log_prob
        ).gradient()
        exact, kronecker = npg.ExactFisher(actor, states), npg.KroneckerFisher(actor, states)
        directions = [kronecker.solve(gradient, damping) for damping in DAMPINGS]
        self.kl_models[step] = [
            [float(x @ v / (x @ (exact @ x))) for v in (kronecker @ x, gradient)] for x in directions
        ]
        if self.updates in self.stages:
            blocks, places = (
                npg.BlockDiagonalFisher(actor, states).blocks,
                npg.FlatParameters(actor).by_module(),
            )
            diagonal = torch.cat([block.diag() for block in blocks.values()])
            self.spectra[step] = {
                "spectrum": npg.spectrum(exact, steps=100, probes=8),
                "coupling": npg.block_coupling(exact, diagonal, places, probes=64),
            }
            for kind, operator in APPROXIMATIONS.items():
                built = operator(actor, states)
                pairs = [(block_of(built, places[name]), block) for name, block in blocks.items()]
                self.spectra[step][kind] = [float((a - block).norm() / block.norm()) for a, block in pairs]


def block_of(operator: npg.LinearOperator, place: slice) -> Tensor:
    """Return a diagonal block as a dense matrix."""
    unit, rows = torch.zeros(operator.size), []
    for index in range(place.start, place.stop):
        unit[index] = 1
        rows.append((operator @ unit)[place].clone())
        unit[index] = 0
    return torch.stack(rows)


def measure(steps: int, seed: int, folder: Path) -> None:
    """Train, and write the measurements."""
    run = resolve(Train(env=(TASK,)))
    env = make_vec_env(TASK, run.n_envs, seed=seed)
    agent = TRPO(run.policy, env, seed=seed, device="cpu", **run.hyperparameters)
    agent.set_logger(configure(str(folder), ["csv"]))
    recorder = GeometryRecorder(-(-steps // (agent.n_steps * run.n_envs)))
    agent.learn(steps, [GeometryCallback(5), recorder])
    agent.save(folder / "model.zip")
    agent.logger.close()
    torch.save((recorder.kl_models, recorder.spectra), folder / MEASUREMENTS)
