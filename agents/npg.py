"""Natural policy gradient: a step along F⁻¹g, as long as its predicted KL allows."""

from functools import partial
from typing import Any

import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from agents.base import PolicyGradientAgent
from agents.hyperparameters import check_ranges
from agents.rollout.batch import Batch
from npg import (
    ExactFisher,
    LevenbergMarquardt,
    PolicyStep,
    SurrogateObjective,
    conjugate_gradient,
    natural_step,
)


class NPG(PolicyGradientAgent):
    """Natural policy gradient (Kakade 2001), with the step length from the trust region.

    Args not listed are those of `PolicyGradientAgent`.

    Args:
        cg_max_steps: iterations of conjugate gradient.
        cg_damping: λ in F + λI; with `adaptive_damping`, where it begins, and then its present value.
        cg_tolerance: relative residual at which conjugate gradient stops.
        adaptive_damping: whether λ follows the ratio of actual to predicted gain from update to update;
            see `npg.LevenbergMarquardt`.
        target_kl: δ, the step's predicted KL(old ‖ new), joint over action dimensions, mean over
            states, in nats; a number, or a schedule of the progress that remains.
        step_size: a fixed multiple of F⁻¹g in place of the length that `target_kl` gives.
        sub_sampling_factor: F sees every k-th state; gradient and evaluation see all.
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 1e-3,
        n_steps: int = 2048,
        batch_size: int = 128,
        gamma: float = 0.99,
        cg_max_steps: int = 15,
        cg_damping: float = 0.1,
        n_critic_updates: int = 10,
        gae_lambda: float = 0.95,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = True,
        target_kl: float | Schedule = 0.01,
        sub_sampling_factor: int = 1,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        critic_fit: str = "minibatch",
        step_size: float | None = None,
        cg_tolerance: float = 1e-8,
        adaptive_damping: bool = False,
    ):
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            gamma=gamma,
            gae_lambda=gae_lambda,
            n_critic_updates=n_critic_updates,
            normalize_advantage=normalize_advantage,
            critic_fit=critic_fit,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
        )
        check_ranges(
            cg_max_steps=cg_max_steps,
            cg_damping=cg_damping,
            cg_tolerance=cg_tolerance,
            adaptive_damping=adaptive_damping,
            target_kl=target_kl,
            step_size=step_size,
            sub_sampling_factor=sub_sampling_factor,
        )
        self.cg_max_steps = cg_max_steps
        self.cg_damping = cg_damping
        self.cg_tolerance = cg_tolerance
        self.adaptive_damping = adaptive_damping
        self.target_kl = target_kl
        self.step_size = step_size
        self.sub_sampling_factor = sub_sampling_factor
        if _init_setup_model:
            self._setup_model()

    def policy_step(self, batch: Batch, objective: SurrogateObjective) -> PolicyStep:
        """Return the natural gradient step."""
        step = natural_step(
            objective,
            ExactFisher(self.actor, batch.select(slice(None, None, self.sub_sampling_factor))),
            target_kl=self.scheduled(self.target_kl),
            step_size=self.step_size,
            damping=self.cg_damping,
            solver=partial(conjugate_gradient, max_iterations=self.cg_max_steps, tolerance=self.cg_tolerance),
        )
        if self.adaptive_damping:
            self.cg_damping = LevenbergMarquardt().adapted(self.cg_damping, step)
        return step
