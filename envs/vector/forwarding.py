"""SB3's vector environments, with a ``set_attr`` that takes effect inside wrappers."""

from typing import Any

from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices


class ForwardingDummyVecEnv(DummyVecEnv):
    """``DummyVecEnv``, but `set_attr` sets an attribute on the layer that `get_attr` reads it from."""

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of each environment; SB3 would set it on the outermost wrapper, without effect."""
        self.env_method("set_wrapper_attr", attr_name, value, indices=indices)


class ForwardingSubprocVecEnv(SubprocVecEnv):
    """``SubprocVecEnv``, but `set_attr` sets an attribute on the layer that `get_attr` reads it from."""

    set_attr = ForwardingDummyVecEnv.set_attr
