"""Evaluate with action masks, as sb3-contrib's functions of these names do.

They work with every model whose `predict` takes `action_masks`.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy as sb3_evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from agents.policy.masks import MaskError, can_mask
from agents.rollout.masks import has_masks, masks_of


def masks_apply(policy: Any, env: VecEnv, settings: Mapping[str, Any] | None = None) -> bool:
    """Return whether a policy is to be used with the masks of environments.

    Args:
        policy: the policy.
        env: the environments.
        settings: the hyper-parameters that it was trained with.
    """
    return bool((settings or {}).get("use_masking", True)) and can_mask(policy) and has_masks(env)


class MaskedPredictor:
    """Predict with the masks that environments have at the moment.

    Args:
        model: an agent or a policy.
        env: the environments that it acts in.
    """

    def __init__(self, model: Any, env: VecEnv):
        self._model, self._env = model, env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """Return what the model's `predict` returns for allowed actions alone."""
        masks = masks_of(self._env, self._env.action_space)
        found: tuple[np.ndarray, Any] = self._model.predict(
            observation, state, episode_start, deterministic, action_masks=masks
        )
        return found


def evaluate_policy(
    model: Any, env: gym.Env | VecEnv, *args: Any, use_masking: bool = True, **kwargs: Any
) -> Any:
    """Return mean and standard deviation of the returns of a model that takes allowed actions alone.

    Args:
        model: an agent or a policy.
        env: environments with the method `action_masks`.
        args: as of SB3's `evaluate_policy`.
        use_masking: whether to use the masks; False is SB3's `evaluate_policy`.
        kwargs: as of SB3's `evaluate_policy`.

    Raises:
        MaskError: the environments have no masks, or one allows no action.
    """
    if not use_masking:
        return sb3_evaluate_policy(model, env, *args, **kwargs)
    envs = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
    if not has_masks(envs):
        raise MaskError(
            "the environment has no method action_masks; wrap it in envs.ActionMasker, or pass "
            "use_masking=False"
        )
    return sb3_evaluate_policy(MaskedPredictor(model, envs), envs, *args, **kwargs)  # type: ignore[arg-type]


class MaskedEvalCallback(EvalCallback):
    """SB3's `EvalCallback` with action masks.

    Args:
        args: as of SB3's `EvalCallback`.
        use_masking: whether to use the masks of the evaluation's environments.
        kwargs: as of SB3's `EvalCallback`.
    """

    def __init__(self, *args: Any, use_masking: bool = True, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.use_masking = use_masking

    def _on_step(self) -> bool:
        if not self.use_masking:
            return super()._on_step()
        model = self.model
        self.model = MaskedPredictor(model, self.eval_env)  # type: ignore[assignment]
        try:
            return super()._on_step()
        finally:
            self.model = model
