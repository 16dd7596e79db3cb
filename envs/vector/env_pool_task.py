"""A single EnvPool environment as a Gymnasium environment, e.g. to evaluate tasks that only EnvPool has."""

from typing import Any

from envs.vector.env_pool import EnvPoolVecEnv
from envs.vector.vec_env_task import VecEnvTask


class EnvPoolTask(VecEnvTask):
    """A task of EnvPool; a reset with a seed rebuilds it, since EnvPool takes seeds only when it is built."""

    def __init__(self, task: str, render_mode: str | None = None, **kwargs: Any) -> None:
        """Build the task.

        Args:
            task: One of ``envpool.list_all_envs()``.
            render_mode: None or ``"rgb_array"``.
            kwargs: EnvPool's options for the task. ``reward_clip`` is for training and ignored, so that
                evaluation has a game's score.
        """
        kwargs.pop("reward_clip", None)
        options = {"render_mode": render_mode, **kwargs} if render_mode else kwargs
        super().__init__(EnvPoolVecEnv(task, 1, env_kwargs=options))
