"""N copies of one MuJoCo model in MuJoCo Warp, whose arrays torch shares."""

import copy
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from envs.errors import MissingExtraError
from envs.extras import install_command

_TOLERANCE = 1e-8  # of the solver: MuJoCo's default, which MuJoCo Warp raises to 1e-6


class WarpSimulator:
    """N copies of a MuJoCo model on one device.

    The launches of kernels are recorded once as graphs and then replayed, on a CPU too.

    Attributes:
        qpos: (N, nq), memory of the simulator; write to it, and read the result of a step from it.
        qvel: (N, nv), likewise.
        qacc_warmstart: (N, nv), likewise: the accelerations from which the solver starts.
        ctrl: (N, nu), likewise.
    """

    def __init__(self, model: Any, num_envs: int, device: torch.device, steps: int) -> None:
        """Allocate the copies, and record the graphs.

        Args:
            model: A ``mujoco.MjModel``; it is not changed.
            num_envs: The number of copies, N.
            device: A CPU or a CUDA device.
            steps: The number of simulation steps per `step`.

        Raises:
            MissingExtraError: If MuJoCo Warp is not installed.
            ValueError: If Warp does not have the device.
        """
        mujoco, self._warp, self._mjwarp = import_warp()
        from envs.tensor.mujoco.contact_frames import align_contact_frames  # imports warp

        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"MuJoCo Warp needs a CPU or a CUDA device, got {device}; set device")
        self._device, self._steps = device, steps
        self._tensors: dict[str, Tensor] = {}
        self._graphs: dict[str, Any] = {}
        model = copy.copy(model)
        if model.opt.solver == mujoco.mjtSolver.mjSOL_PGS:  # MuJoCo Warp does not have it
            model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
        # Room for two contacts per geom, each with four constraints, and for all limits of joints.
        contacts = 2 * int(model.ngeom)
        limits = 2 * int(model.njnt)
        with self._warp.ScopedDevice(self._warp.device_from_torch(device)):
            self._model = self._mjwarp.put_model(model)
            self._model.opt.tolerance.fill_(_TOLERANCE)
            self._model.callback.contactfilter = align_contact_frames
            self._data = self._mjwarp.make_data(
                model, nworld=num_envs, nconmax=contacts, njmax=4 * contacts + limits
            )
            for part, launch in self._parts.items():
                self._graphs[part] = self._record(launch)
        self.qpos, self.qvel = self.tensor("qpos"), self.tensor("qvel")
        self.qacc_warmstart, self.ctrl = self.tensor("qacc_warmstart"), self.tensor("ctrl")

    def tensor(self, name: str) -> Tensor:
        """Return an array of ``mujoco_warp.Data`` as a tensor (N, ...) on the same memory."""
        if name not in self._tensors:
            self._tensors[name] = self._warp.to_torch(getattr(self._data, name))
        return self._tensors[name]

    def step(self) -> None:
        """Apply `ctrl` for several steps; then compute the contact forces ``cfrc_ext`` of the last one.

        As after MuJoCo's ``mj_step``, what is computed from positions is not that of the new state: with the
        Runge-Kutta integrator, it is that of its last stage.
        """
        self._replay("step")

    def update_kinematics(self) -> None:
        """Compute what follows from `qpos` and `qvel` alone, e.g. positions of bodies and ``cinert``."""
        self._replay("kinematics")

    def clear_forces(self) -> None:
        """Set the forces of contacts and actuators to 0, as MuJoCo's reset does."""
        self.tensor("cfrc_ext").zero_()
        self.tensor("qfrc_actuator").zero_()

    @property
    def _parts(self) -> dict[str, Callable[[], None]]:
        return {"step": self._launch_steps, "kinematics": self._launch_kinematics}

    def _launch_steps(self) -> None:
        for _ in range(self._steps):
            self._mjwarp.step(self._model, self._data)
        self._mjwarp.rne_postconstraint(self._model, self._data)

    def _launch_kinematics(self) -> None:
        self._mjwarp.kinematics(self._model, self._data)
        self._mjwarp.com_pos(self._model, self._data)
        self._mjwarp.com_vel(self._model, self._data)

    def _record(self, launch: Callable[[], None]) -> Any:
        """Return the graph of launches on Warp's own stream."""
        launch()  # compiles and loads the kernels
        with self._warp.ScopedCapture() as capture:
            launch()
        self._warp.synchronize_device()  # torch uses another stream
        return capture.graph

    def _replay(self, part: str) -> None:
        """Run a graph on torch's current stream, or add its launches to the graph that torch captures."""
        if self._device.type == "cpu":
            self._warp.capture_launch(self._graphs[part])
            return
        stream = self._warp.stream_from_torch(torch.cuda.current_stream(self._device))
        if not torch.cuda.is_current_stream_capturing():
            self._warp.capture_launch(self._graphs[part], stream=stream)
            return
        with self._warp.ScopedStream(stream), self._warp.ScopedCapture(stream=stream, external=True):
            self._parts[part]()


def import_warp() -> tuple[Any, Any, Any]:
    """Return the modules mujoco, warp and mujoco_warp; warn if no kernels have been compiled yet.

    Raises:
        MissingExtraError: If one is missing.
    """
    try:
        mujoco, warp = importlib.import_module("mujoco"), importlib.import_module("warp")
        level = max(warp.config.log_level, warp.LOG_WARNING)  # no line per kernel
        # Without a GPU, Warp would warn of it.
        warp.config.log_level = level if torch.cuda.is_available() else warp.LOG_ERROR
        mjwarp = importlib.import_module("mujoco_warp")
    except ImportError as error:
        raise MissingExtraError(
            f"MuJoCo tasks on tensors need MuJoCo Warp ({type(error).__name__}: {error}); "
            f'install it: {install_command("warp")}, or use vec_env="auto"'
        ) from error
    warp.init()
    warp.config.log_level = level
    if not any(Path(warp.config.kernel_cache_dir).glob("*mujoco_warp*")):
        warnings.warn(
            "compiling the kernels of MuJoCo Warp, which takes minutes; later runs find them in "
            f"{warp.config.kernel_cache_dir}",
            stacklevel=2,
        )
    return mujoco, warp, mjwarp
