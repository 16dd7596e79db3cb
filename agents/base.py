"""The loop that every agent shares: batch -> policy step -> critic fit -> record."""

import warnings
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Self

import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv

from agents.critic import CRITICS, Critic, CriticFit
from agents.device import faster_device
from agents.divergence import MOST_REFUSALS, diagnosis
from agents.hyperparameters import check_actions, check_minibatches, check_ranges, check_spread
from agents.policy.actor import PolicyActor
from agents.policy.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, observe
from agents.rollout.batch import Batch, standardise
from agents.rollout.collect import collect
from agents.rollout.finite import check_finite, kept_statistics
from agents.rollout.threads import threads
from agents.update_log import record_update
from npg import PolicyStep, Rejection, SurrogateObjective

# A schedule that falls to 0 with the last update would leave that update without a length.
LEAST_SCHEDULED = 1e-8


class PolicyGradientAgent(OnPolicyAlgorithm):
    """An on-policy agent whose policy moves by one `PolicyStep` an update.

    A final class gives its hyper-parameters and `policy_step`. Arguments not listed are SB3's.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy", or a class.
        env: an environment or its Gymnasium id.
        learning_rate: of the policy's optimizer, which fits the critic.
        n_steps: steps of every environment between two updates.
        batch_size: of the critic's minibatches; None for the whole batch.
        gamma: discount factor.
        gae_lambda: λ of generalised advantage estimation (Schulman et al. 2016).
        n_critic_updates: passes of the critic over the batch, an update; of L-BFGS, iterations.
        normalize_advantage: whether advantages get mean 0 and standard deviation 1.
        critic_fit: "minibatch", with the policy's own optimizer as SB3 does it, or "lbfgs" on the whole
            batch, which reads neither `batch_size` nor `learning_rate`.
        device: "auto" is a GPU where there is one and a measurement finds it faster; see `faster_device`.

    Raises:
        ValueError: a hyper-parameter is out of its range.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }

    actor: PolicyActor
    iterations = 0

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        *,
        learning_rate: float | Schedule,
        n_steps: int,
        batch_size: int | None,
        gamma: float,
        gae_lambda: float,
        n_critic_updates: int,
        normalize_advantage: bool,
        critic_fit: str = "minibatch",
        use_sde: bool,
        sde_sample_freq: int,
        rollout_buffer_class: type[RolloutBuffer] | None,
        rollout_buffer_kwargs: dict[str, Any] | None,
        stats_window_size: int,
        tensorboard_log: str | None,
        policy_kwargs: dict[str, Any] | None,
        verbose: int,
        seed: int | None,
        device: torch.device | str,
    ):
        check_ranges(
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
            stats_window_size=stats_window_size,
        )
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=0.0,
            vf_coef=0.0,
            max_grad_norm=0.0,
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
            _init_setup_model=False,
            supported_action_spaces=(
                spaces.Box,
                spaces.Discrete,
                spaces.MultiDiscrete,
                spaces.MultiBinary,
            ),
        )
        self._measures_devices = device == "auto"
        self.batch_size = batch_size
        self.n_critic_updates = n_critic_updates
        self.normalize_advantage = normalize_advantage
        self.critic_fit = critic_fit
        self.stop_reasons: dict[str, int] = dict.fromkeys(("accepted", *map(str, Rejection)), 0)
        self.critic_refused = 0  # fits that met a number that is not finite
        self.refusals: list[str] = []  # one for every update since the last without such a number
        if self.env is not None:
            check_actions(self.action_space)
            check_spread(n_steps, self.n_envs, normalize_advantage)
            if critic_fit == "minibatch" and batch_size is not None:
                check_minibatches(n_steps, self.n_envs, batch_size)

    def _setup_model(self) -> None:
        super()._setup_model()
        if self._measures_devices and self.device.type != "cpu":
            self.device = faster_device(self.policy, self.n_envs, self.n_steps)
            self.policy.to(self.device)
            self.rollout_buffer.device = self.device
        self.actor = PolicyActor(self.policy)
        unreached = self.actor.unreached_names()
        if unreached:
            warnings.warn(
                "these parameters reach neither the action distribution nor the value, and stay as they "
                f"are: {', '.join(unreached)}",
                UserWarning,
                stacklevel=2,
            )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "actor", "_measures_devices"]

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Fill the rollout buffer; see `agents.rollout.collect.collect`."""
        completed = collect(self, env, callback, rollout_buffer, n_rollout_steps)
        self.iterations += completed
        return completed

    @abstractmethod
    def policy_step(self, batch: Batch, objective: SurrogateObjective) -> PolicyStep:
        """Return the step for this batch, without taking it."""

    def train(self) -> None:
        """Update policy and critic from the rollout buffer."""
        # Dropout would give the old policy a KL to itself, batch norm would move what the policy reads.
        self.policy.set_training_mode(False)
        if self.actor.policy is not self.policy:  # the user put another one in its place
            self.actor = PolicyActor(self.policy)
        self._update_learning_rates()
        batch = Batch.from_buffer(self.rollout_buffer, self.action_space)
        advantages = standardise(batch.advantages) if self.normalize_advantage else batch.advantages
        actions, old_log_prob = self.actor.unsquash(batch.actions, batch.old_log_prob)
        objective = SurrogateObjective(
            self.actor, batch.observations, actions, advantages, old_log_prob=old_log_prob
        )
        step, fit = self._step_and_fit(batch, objective)
        observe(self.policy, batch.observations, batch.actions)
        self._n_updates += 1
        self.stop_reasons[step.rejection or "accepted"] += 1
        self.critic_refused += fit.rejected
        record_update(self, step, batch, fit.loss)
        reasons = [str(step.rejection)] if step.rejection is not None and step.rejection.non_finite else []
        self._count_refusals(reasons + ["non_finite_critic"] * fit.rejected, batch, objective)

    def _step_and_fit(self, batch: Batch, objective: SurrogateObjective) -> tuple[PolicyStep, CriticFit]:
        """Move actor and critic, side by side where that changes nothing but the time."""
        critic = self.make_critic()
        if not self._fits_alongside(critic):
            step = self._take_step(batch, objective)
            return step, critic.fit(batch)
        with threads(max(torch.get_num_threads() // 2, 1)), ThreadPoolExecutor(1) as executor:
            fit = executor.submit(critic.fit, batch)
            step = self._take_step(batch, objective)
            return step, fit.result()

    def make_critic(self) -> Critic:
        """Return what fits the value function in this update."""
        return CRITICS[self.critic_fit](
            self.policy,
            self.actor.critic_parameters(),
            passes=self.n_critic_updates,
            batch_size=self.batch_size,
        )

    def _fits_alongside(self, critic: Critic) -> bool:
        """Whether the critic reads nothing that the step moves, and draws no random number."""
        shares = self.actor.shares_parameters
        return not critic.draws_random_numbers and not shares and self.device.type == "cpu"

    def _take_step(self, batch: Batch, objective: SurrogateObjective) -> PolicyStep:
        step = self.policy_step(batch, objective)
        if step.accepted:
            objective.parameters.add_(step.displacement, known_finite=True)
        return step

    def _count_refusals(self, reasons: list[str], batch: Batch, objective: SurrogateObjective) -> None:
        """Note why the update was refused, if so for numbers that are not finite.

        Raises:
            NonFiniteError: with a diagnosis, where none of the last updates was good.
        """
        if not reasons:
            self.refusals = []
            return
        self.refusals.append(f"update {self._n_updates}, step {self.num_timesteps} ({', '.join(reasons)})")
        if len(self.refusals) >= MOST_REFUSALS:
            refusals, self.refusals = self.refusals, []  # whoever goes on all the same begins anew
            gradient = objective.parameters.unflatten(objective.gradient())
            raise diagnosis(refusals, batch, dict(zip(objective.parameters.names, gradient, strict=True)))

    def scheduled(self, value: float | Schedule) -> float:
        """Return a hyper-parameter's present value, a positive number also where a schedule ends at 0."""
        if not callable(value):
            return float(value)
        return max(FloatSchedule(value)(self._current_progress_remaining), LEAST_SCHEDULED)

    def _update_learning_rates(self) -> None:
        self._update_learning_rate(self.policy.optimizer)

    def dump_logs(self, iteration: int = 0) -> None:
        """Write a row of the log; iterations go on counting where learning does."""
        if iteration > 0:
            iteration = self.iterations
        super().dump_logs(iteration)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        assert self.env is not None
        with kept_statistics(self):  # the first observations enter a VecNormalize
            total, callback = super()._setup_learn(*args, **kwargs)
            check_finite(self, self.env, "observation", self._last_obs)
        return total, callback

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train for at least `total_timesteps` steps of all environments together; see SB3's `learn`."""
        if reset_num_timesteps:
            self.iterations = 0
        # Again, since a loaded agent may have fewer environments.
        check_spread(self.n_steps, self.n_envs, self.normalize_advantage)
        super().learn(
            total_timesteps,
            callback,
            log_interval,  # type: ignore[arg-type]  # SB3 takes None too
            tb_log_name or type(self).__name__,
            reset_num_timesteps,
            progress_bar,
        )
        if log_interval is not None:
            # SB3 writes a rollout's row before its update, so the last update's is still unwritten.
            self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
            self.logger.dump(self.num_timesteps)
        return self
