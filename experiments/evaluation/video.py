"""Record episodes as an MP4 file."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from experiments.extras import needs
from experiments.failure import raised_at

LEAST_SIDE = 240  # pixels; smaller frames are enlarged by an integer factor
HEADLESS = {"MUJOCO_GL": "egl", "SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
HEADLESS_REMEDY = (
    ". Without a display, MuJoCo needs MUJOCO_GL=egl with a GPU's driver or Mesa's libegl1, or "
    "MUJOCO_GL=osmesa with libosmesa6"
)
DEFAULT_FPS = 30  # for environments that do not declare theirs
TRACKING = "track"  # name of the camera that follows the robot in Gymnasium's models
SMOOTH_FPS = 30  # faster environments are recorded at every k-th step only


def open_video(path: Path, fps: float) -> Any:
    """Open an MP4 file for `append_data`, as H.264 in yuv420p with the index first, for browsers and phones.

    Args:
        path: path of the file.
        fps: frames per second.

    Raises:
        ImportError: imageio or its ffmpeg is missing.
    """
    return import_imageio().get_writer(
        path,
        format="FFMPEG",
        fps=fps,
        codec="libx264",
        pixelformat="yuv420p",
        macro_block_size=1,  # `displayable` makes sizes even; otherwise, frames would be stretched
        ffmpeg_log_level="error",
        output_params=["-movflags", "+faststart"],
    )


class RenderError(RuntimeError):
    """The environment cannot be rendered on this machine, or its frames have the wrong format."""


class Recorded(gym.Wrapper[Any, Any, Any, Any]):
    """Record the first episodes of an environment: the initial state, and the state after every k-th step.

    Args:
        env: an environment with render mode "rgb_array".
        video: the file, from `open_video`.
        episodes: number of episodes to record.
        every: k.
    """

    def __init__(self, env: gym.Env[Any, Any], video: Any, episodes: int, every: int):
        super().__init__(env)
        self._video, self._left, self._every, self._steps = video, episodes + 1, every, 0
        follow(env)

    def reset(self, **kwargs: Any) -> Any:
        """Start an episode, and record its initial state.

        Raises:
            RenderError: the environment cannot be rendered.
        """
        result = self.env.reset(**kwargs)
        self._left -= 1
        self._steps = 0
        self._record()
        return result

    def step(self, action: Any) -> Any:
        """Step, and record the state after every k-th step.

        Raises:
            RenderError: the environment cannot be rendered.
        """
        result = self.env.step(action)
        self._steps += 1
        if self._steps % self._every == 0:
            self._record()
        return result

    def _record(self) -> None:
        if self._left <= 0:
            return
        try:
            frame: Any = self.env.render()
        except Exception as error:  # a missing OpenGL library can raise any exception
            remedy = "" if raised_at(error) else HEADLESS_REMEDY
            raise RenderError(f"cannot render ({type(error).__name__}: {error}){remedy}") from error
        if not (isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.shape[2:] == (3,)):
            raise RenderError(
                f"cannot record frames other than arrays (height, width, 3) of uint8; got {type(frame)}"
            )
        self._video.append_data(displayable(frame))


def follow(env: gym.Env[Any, Any]) -> None:
    """Let MuJoCo's camera follow the robot; Gymnasium's default camera is fixed."""
    renderer: Any = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is None:
        return
    model = renderer.model
    for index in range(model.ncam):
        if model.camera(index).name == TRACKING:
            renderer.camera_id = index


def displayable(frame: np.ndarray) -> np.ndarray:
    """Enlarge a small frame (height, width, 3), and make its sides even, as yuv420p requires."""
    factor = -(-LEAST_SIDE // min(frame.shape[:2]))
    frame = frame.repeat(factor, axis=0).repeat(factor, axis=1)
    odd = [(0, side % 2) for side in frame.shape[:2]]
    return np.pad(frame, [*odd, (0, 0)], mode="edge")


def frames_per_second(spec: EnvSpec, metadata: dict[str, Any]) -> float:
    """Return an environment's frames per second.

    Raises:
        ImportError: imageio or its ffmpeg is missing.
        ValueError: the environment has no render mode "rgb_array".
    """
    import_imageio()
    modes = metadata.get("render_modes") or []
    if "rgb_array" not in modes:
        raise ValueError(
            f"--video needs the render mode 'rgb_array'; {spec.id} has {modes or 'none'}, leave --video out, "
            "or add 'rgb_array' to the environment's metadata['render_modes'], take render_mode in its "
            "__init__, and let render() return the picture, an array (height, width, 3) of uint8"
        )
    return float(metadata.get("render_fps") or DEFAULT_FPS)


def stride(fps: float) -> int:
    """Return the number of steps per frame of a real-time video."""
    return max(round(fps / SMOOTH_FPS), 1)


def import_imageio() -> Any:
    """Return the module imageio, after checking that its ffmpeg is installed.

    Raises:
        ImportError: imageio or its ffmpeg is missing.
    """
    with needs("video"):
        importlib.import_module("imageio_ffmpeg")
        return importlib.import_module("imageio.v2")


def prepare_headless() -> None:
    """If there is no display, let MuJoCo and pygame render without one; call it before importing them."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        for name, value in HEADLESS.items():
            os.environ.setdefault(name, value)
