"""Ant-v5 on tensors."""

import torch
from torch import Tensor

from envs.tensor.mujoco.mujoco_task import MujocoTask


class TensorAnt(MujocoTask):
    """Run on four legs."""

    SPEC_ID = "Ant-v5"
    AXES = 2
    NORMAL_VELOCITIES = True
    OBSERVES_BODIES = True

    def prepare(self) -> None:
        """Find the body whose speed is rewarded, too."""
        super().prepare()
        self._main_body = int(self.model.data.body(self.model._main_body).id)

    def find_x(self) -> Tensor:
        """Return those of the main body, as after the integrator's last stage."""
        return self.simulator.tensor("xpos")[:, self._main_body, 0]

    def is_healthy(self, qpos: Tensor, qvel: Tensor) -> Tensor:
        """Return whether all numbers are finite and the torso's height is within its range."""
        low, high = self.model._healthy_z_range
        finite = torch.cat((qpos, qvel)).isfinite().all(0)
        return finite & (low <= qpos[2]) & (qpos[2] <= high)

    def _find_contact_forces(self) -> Tensor:
        """Return the clipped contact forces (N, bodies, 6)."""
        return self.simulator.tensor("cfrc_ext").clamp(*self.model._contact_force_range)

    def find_contact_cost(self) -> Tensor:
        """Return the weighted sum of the squares of the clipped contact forces."""
        return self._find_contact_forces().square().sum((1, 2)) * self.model._contact_cost_weight

    def observe_simulator(self) -> list[Tensor]:
        """Return the clipped contact forces of all bodies except the world."""
        return [self._find_contact_forces()[:, 1:]] if self.model._include_cfrc_ext_in_observation else []
