"""Trust region policy optimization: the natural step, shortened until its KL is at most δ."""

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
    trust_region_step,
)


class TRPO(PolicyGradientAgent):
    """Trust region policy optimization (Schulman et al. 2015).

    Args not listed are those of `PolicyGradientAgent`.

    Args:
        cg_max_steps: iterations of conjugate gradient.
        cg_damping: λ in F + λI; with `adaptive_damping`, where it begins, and then its present value.
        cg_tolerance: relative residual at which conjugate gradient stops.
        adaptive_damping: whether λ follows the ratio of actual to predicted gain from update to update;
            see `npg.LevenbergMarquardt`.
        line_search_shrinking_factor: between two candidates' lengths.
        line_search_max_iter: how many candidates are tried.
        target_kl: δ, the bound on the step's KL(old ‖ new), joint over action dimensions, mean over
            states, in nats; a number, or a schedule of the progress that remains.
        sub_sampling_factor: F sees every k-th state; gradient and line search see all.
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
        line_search_shrinking_factor: float = 0.8,
        line_search_max_iter: int = 10,
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
            line_search_shrinking_factor=line_search_shrinking_factor,
            line_search_max_iter=line_search_max_iter,
            sub_sampling_factor=sub_sampling_factor,
        )
        self.cg_max_steps = cg_max_steps
        self.cg_damping = cg_damping
        self.cg_tolerance = cg_tolerance
        self.adaptive_damping = adaptive_damping
        self.target_kl = target_kl
        self.line_search_shrinking_factor = line_search_shrinking_factor
        self.line_search_max_iter = line_search_max_iter
        self.sub_sampling_factor = sub_sampling_factor
        if _init_setup_model:
            self._setup_model()

    def policy_step(self, batch: Batch, objective: SurrogateObjective) -> PolicyStep:
        """Return a step inside the trust region."""
        step = trust_region_step(
            objective,
            ExactFisher(self.actor, batch.select(slice(None, None, self.sub_sampling_factor))),
            target_kl=self.scheduled(self.target_kl),
            damping=self.cg_damping,
            solver=partial(conjugate_gradient, max_iterations=self.cg_max_steps, tolerance=self.cg_tolerance),
            shrink=self.line_search_shrinking_factor,
            max_iterations=self.line_search_max_iter,
        )
        if self.adaptive_damping:
            self.cg_damping = LevenbergMarquardt().adapted(self.cg_damping, step)
        return step
