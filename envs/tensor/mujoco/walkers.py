"""The planar walkers on tensors: Hopper-v5, Walker2d-v5 and HalfCheetah-v5."""

import torch
from torch import Tensor

from envs.tensor.mujoco.mujoco_task import MujocoTask, is_between


class TensorHopper(MujocoTask):
    """Hop on one leg."""

    SPEC_ID = "Hopper-v5"
    MAX_OBSERVED_SPEED = 10.0

    def is_healthy(self, qpos: Tensor, qvel: Tensor) -> Tensor:
        """Return whether the torso is high and upright, and all else within wide bounds."""
        m = self.model
        rest = is_between(torch.cat((qpos[2:], qvel)), m._healthy_state_range).all(0)
        return rest & is_between(qpos[1], m._healthy_z_range) & is_between(qpos[2], m._healthy_angle_range)


class TensorWalker2d(MujocoTask):
    """Walk on two legs."""

    SPEC_ID = "Walker2d-v5"
    MAX_OBSERVED_SPEED = 10.0

    def is_healthy(self, qpos: Tensor, qvel: Tensor) -> Tensor:
        """Return whether the torso is high and upright."""
        m = self.model
        return is_between(qpos[1], m._healthy_z_range) & is_between(qpos[2], m._healthy_angle_range)


class TensorHalfCheetah(MujocoTask):
    """Run on two legs."""

    SPEC_ID = "HalfCheetah-v5"
    NORMAL_VELOCITIES = True
