"""What the MuJoCo tasks on tensors share."""

import math
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.tensor.gymnasium_task import GymnasiumTask
from envs.tensor.mujoco.warp_simulator import WarpSimulator, import_warp


class MujocoTask(GymnasiumTask):
    """One of Gymnasium's MuJoCo tasks, simulated by MuJoCo Warp in float32.

    The rows of `state` are qacc_warmstart, the x coordinate of the point whose speed is rewarded relative to
    that of the root, qpos, qvel, and what `observe_simulator` returns.

    Attributes:
        simulator: the simulator; its results are those of the last step or reset.
        reward_terms: the terms of the last step's rewards, (N,) by their names in Gymnasium's infos.
    """

    AXES: ClassVar[int] = 1
    """Number of the root's coordinates along the ground; they are the first in qpos."""
    NORMAL_VELOCITIES: ClassVar[bool] = False
    """Whether first velocities are drawn from a normal distribution instead of a uniform one."""
    MAX_OBSERVED_SPEED: ClassVar[float] = math.inf
    """Limit to which observed velocities are clipped."""
    OBSERVES_BODIES: ClassVar[bool] = False
    """Whether `find_x` or `observe_simulator` reads what follows from the positions of bodies."""

    def __init__(self, num_envs: int, *, dtype: torch.dtype = torch.float32, **kwargs: Any) -> None:
        """Start the first episodes.

        Args:
            num_envs: The number of environments, N.
            dtype: float32, in which MuJoCo Warp computes.
            kwargs: See `GymnasiumTask`.

        Raises:
            MissingExtraError: If MuJoCo Warp is not installed.
            ValueError: If `dtype` is another type, or the device neither a CPU nor a CUDA device.
        """
        if dtype != torch.float32:
            raise ValueError(f"MuJoCo Warp computes in torch.float32, got dtype={dtype}; leave dtype out")
        import_warp()  # before Gymnasium misses MuJoCo
        super().__init__(num_envs, dtype=dtype, **kwargs)

    def prepare(self) -> None:
        """Make the simulator."""
        m = self.model
        self.simulator = WarpSimulator(m.model, self.num_envs, self.device, m.frame_skip)
        self.reward_terms: dict[str, Tensor] = {}
        self._nq, self._nv = int(m.model.nq), int(m.model.nv)
        self._start = torch.tensor(
            np.concatenate((m.init_qpos, m.init_qvel)), dtype=self.dtype, device=self.device
        ).unsqueeze(1)
        self._hidden = self.AXES if m._exclude_current_positions_from_observation else 0
        self._origin = self.AXES if _has_flat_ground(m.model) else 0

    def find_x(self) -> Tensor:
        """Return the x coordinates (N,), in the simulator, of the points whose speed is rewarded."""
        return self.simulator.qpos[:, 0]

    def is_healthy(self, qpos: Tensor, qvel: Tensor) -> Tensor | None:
        """Return whether the robots (N,) have a healthy posture; None if the task has no such rule."""
        return None

    def find_contact_cost(self) -> Tensor | None:
        """Return the costs (N,) of contact forces; None if the task has none."""
        return None

    def observe_simulator(self) -> list[Tensor]:
        """Return what is observed besides qpos and qvel, each (N, ...)."""
        return []

    def initial_states(self) -> Tensor:
        """Draw qpos and qvel around those of the model."""
        nq, scale, simulator = self._nq, self.model._reset_noise_scale, self.simulator
        drawn = torch.empty(len(self._start), self.num_envs, dtype=self.dtype, device=self.device)
        drawn.uniform_(-scale, scale, generator=self.generator)
        if self.NORMAL_VELOCITIES:
            drawn[nq:].normal_(0, scale, generator=self.generator)
        drawn += self._start
        simulator.qpos.copy_(drawn[:nq].T)
        simulator.qvel.copy_(drawn[nq:].T)
        simulator.clear_forces()
        if self.OBSERVES_BODIES:
            simulator.update_kinematics()
        return self._join(torch.zeros_like(drawn[nq:]), drawn[:nq], drawn[nq:])

    def advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Simulate; the reward is the speed along x, plus a bonus for a healthy posture, minus costs."""
        simulator, m, origin = self.simulator, self.model, self._origin
        warmstart, offset, qpos, qvel, _ = self._split(self.state)
        simulator.qacc_warmstart.copy_(warmstart.T)
        simulator.qpos.copy_(qpos.T)
        simulator.qpos[:, :origin] = 0
        simulator.qvel.copy_(qvel.T)
        simulator.ctrl.copy_(actions)
        before = simulator.qpos[:, 0] + offset[0]
        simulator.step()
        moved = simulator.qpos.T.clone()
        moved[:origin] += qpos[:origin]
        states = self._join(simulator.qacc_warmstart.T, moved, simulator.qvel.T)
        terms = {
            "reward_forward": (self.find_x() - before) * (m._forward_reward_weight / m.dt),
            "reward_ctrl": simulator.ctrl.square().sum(1) * -m._ctrl_cost_weight,
        }
        terminated = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        if (healthy := self.is_healthy(moved, simulator.qvel.T)) is not None:
            terms["reward_survive"] = healthy * m._healthy_reward
            terminated = ~healthy if m._terminate_when_unhealthy else terminated
        if (cost := self.find_contact_cost()) is not None:
            terms["reward_contact"] = -cost
        self.reward_terms = terms
        return states, torch.stack([*terms.values()]).sum(0), terminated

    def observe(self, states: Tensor) -> Tensor:
        """Return qpos, qvel and what `observe_simulator` returned."""
        observations = states[self._nv + 1 + self._hidden :]
        if math.isfinite(limit := self.MAX_OBSERVED_SPEED):
            positions = self._nq - self._hidden
            qpos, qvel = observations.split((positions, len(observations) - positions))
            observations = torch.cat((qpos, qvel.clamp(-limit, limit)))
        return observations.T

    def _split(self, states: Tensor) -> tuple[Tensor, ...]:
        """Return the parts (..., N) of states (..., N)."""
        nq, nv = self._nq, self._nv
        return states.split((nv, 1, nq, nv, len(states) - 2 * nv - 1 - nq))

    def _join(self, warmstart: Tensor, qpos: Tensor, qvel: Tensor) -> Tensor:
        """Return states (..., N) of their parts and of the simulator's results."""
        offset = self.find_x() - self.simulator.qpos[:, 0]
        observed = [each.flatten(1).T for each in self.observe_simulator()]
        return torch.cat((warmstart, offset.unsqueeze(0), qpos, qvel, *observed))

    def show_in_model(self, state: NDArray[Any]) -> None:
        """Give `model` a state (...), so that it renders it."""
        _, _, qpos, qvel, _ = self._split(torch.as_tensor(state))
        self.model.set_state(qpos.numpy(), qvel.numpy())


def is_between(values: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Return whether values are strictly between two bounds."""
    low, high = bounds
    return (low < values) & (values < high)


def _has_flat_ground(model: Any) -> bool:
    """Return whether a ``mujoco.MjModel`` is the same everywhere along the ground.

    Then the root is moved to x = y = 0 before each step, where float32 is most precise.
    """
    fixed = model.body_weldid[model.geom_bodyid] == 0
    planes = model.geom_type[fixed] == 0
    level = np.isclose(model.geom_quat[fixed][:, :1], 1)
    return bool(planes.all() and level.all() and model.neq == 0)
