"""Humanoid-v5 on tensors."""

import torch
from torch import Tensor

from envs.tensor.mujoco.mujoco_task import MujocoTask, is_between


class TensorHumanoid(MujocoTask):
    """Run on two legs with a body like a person's.

    MuJoCo Warp has no PGS, the model's own solver, so the constraints are solved by Newton's method.
    """

    SPEC_ID = "Humanoid-v5"
    AXES = 2
    OBSERVES_BODIES = True

    def prepare(self) -> None:
        """Compute each body's share of the mass, too."""
        super().prepare()
        mass = torch.tensor(self.model.model.body_mass, dtype=self.dtype, device=self.device)
        self._shares = mass / mass.sum()

    def find_x(self) -> Tensor:
        """Return those of the centre of mass, as after the integrator's last stage."""
        return self.simulator.tensor("xipos")[:, :, 0] @ self._shares

    def is_healthy(self, qpos: Tensor, qvel: Tensor) -> Tensor:
        """Return whether the torso's height is within its range."""
        return is_between(qpos[2], self.model._healthy_z_range)

    def find_contact_cost(self) -> Tensor:
        """Return the weighted sum of the squares of the contact forces, within its range."""
        total = self.simulator.tensor("cfrc_ext").square().sum((1, 2))
        return (total * self.model._contact_cost_weight).clamp(*self.model._contact_cost_range)

    def observe_simulator(self) -> list[Tensor]:
        """Return inertias, velocities and contact forces of the bodies, and the forces of the motors."""
        m, tensor = self.model, self.simulator.tensor
        parts = {
            "cinert": (m._include_cinert_in_observation, 1),
            "cvel": (m._include_cvel_in_observation, 1),
            "qfrc_actuator": (m._include_qfrc_actuator_in_observation, 6),
            "cfrc_ext": (m._include_cfrc_ext_in_observation, 1),
        }
        return [tensor(name)[:, skipped:] for name, (included, skipped) in parts.items() if included]
