"""Swimmer-v5 on tensors."""

from envs.tensor.mujoco.mujoco_task import MujocoTask


class TensorSwimmer(MujocoTask):
    """Swim with two joints."""

    SPEC_ID = "Swimmer-v5"
    AXES = 2
