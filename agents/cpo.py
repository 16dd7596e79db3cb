"""Constrained policy optimization: TRPO with limits on the expected costs of an episode."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from agents.critic import CRITICS
from agents.hyperparameters import RANGES
from agents.policy.actor import PolicyActor
from agents.policy.recurrent.policies import MlpLstmPolicy
from agents.policy.statistics import observe
from agents.rollout.batch import Batch
from agents.rollout.costs import CostBatch, CostRecorder, EpisodeCosts, costs_of
from agents.rollout.tensor_buffer import TensorRolloutBuffer
from agents.rollout.threads import threads, update_threads
from agents.trpo import TRPO
from agents.update_log import count
from npg import Case, ConstrainedObjective, ConstrainedStep, SurrogateObjective, constrained_step

# A cost that was above its limit and not below its lowest mean so far for this many updates in a row is
# reported.
PATIENCE = 50


def is_limit(value: Any) -> bool:
    """Return whether a value is a finite number, or a list of at least one."""
    limits = np.atleast_1d(np.array(0.0 if value is None else value, dtype=float))
    return limits.ndim == 1 and len(limits) > 0 and bool(np.isfinite(limits).all())


RANGES["cost_limit"] = ("a finite number, or a list with one per cost", is_limit)
RANGES["cost_gamma"] = RANGES["cost_gae_lambda"] = ("a number in [0, 1], or None", RANGES["critic_lambda"][1])
RANGES["cost_margin"] = RANGES["cg_damping"]
RANGES["project"] = RANGES["use_sde"]


class CPO(TRPO):
    """Constrained policy optimization (Achiam et al. 2017), with any number of costs.

    The environment reports its costs in every step's info: info["cost"], or info["costs"] with several
    numbers. The policy maximises the return subject to a limit on each cost's expected sum over an episode,
    without a discount. Each cost has its own critic, fitted as the value critic is.

    Args:
        cost_limit: the largest expected sum of the costs of an episode; a number, or a list with one number
            per cost. It has to be given.
        cost_margin: k. The mean sum of the costs of a rollout's episodes plus k of its standard errors stays
            below the limit; 0 for the mean alone, which is above its expectation half of the time.
        cost_gamma: discount factor of the cost critics and the cost advantages, not of the limit; None for
            `gamma`.
        cost_gae_lambda: λ of the cost advantages; None for `gae_lambda`.
        project: make TRPO's step and project it onto the limits (PCPO: Yang et al. 2020), instead of
            maximising the objective subject to them.
    """

    adaptive_damping: ClassVar[bool] = False  # type: ignore[misc]  # gain and predicted gain may be negative
    captured: ClassVar[bool] = False  # type: ignore[misc]
    resumable: ClassVar[tuple[str, ...]] = (*TRPO.resumable, "cases", "stalled", "lowest")

    cost_limit: float | Sequence[float] | None = None
    cost_margin: float = 0.0
    cost_gamma: float | None = None
    cost_gae_lambda: float | None = None
    project: bool = False

    cost_critics: Any  # a ModuleList of policies, one per cost

    def _setup_model(self) -> None:
        if self.cost_limit is None:
            raise ValueError(
                "CPO needs cost_limit, the largest expected sum of an episode's costs, e.g. cost_limit=25; "
                "or a list with one limit per cost"
            )
        if issubclass(self.policy_class, MlpLstmPolicy):
            raise ValueError(
                "CPO does not train recurrent policies, since its cost critics have no memory; use a policy "
                f"without memory in place of {self.policy_class.__name__}, or TRPO"
            )
        if self.ranks.several:
            raise ValueError("CPO trains in one process; start it without torchrun")
        super()._setup_model()
        if isinstance(self.rollout_buffer, TensorRolloutBuffer):
            raise ValueError(
                'CPO does not train in tensor environments; choose another one, e.g. vec_env="auto"'
            )
        self.limits = np.atleast_1d(np.array(self.cost_limit, dtype=np.float64))
        self.episode_costs = EpisodeCosts(self.share.total, len(self.limits))
        own = slice(self.share.first, self.share.first + self.n_envs)
        self.recorder = CostRecorder(self.episode_costs, own, self.read_costs)
        self.cost_batch: CostBatch | None = None
        self.cases = {case.name.lower(): 0 for case in Case}
        self.stalled, self.lowest = [0] * len(self.limits), [0.0] * len(self.limits)
        # Its own random numbers, so that a limit that is never reached changes nothing.
        with torch.random.fork_rng(devices=[]):
            self.cost_critics: Any = nn.ModuleList([self._make_cost_critic() for _ in self.limits])

    def _make_cost_critic(self) -> nn.Module:
        """Return another policy like the agent's, of which only the values are used."""
        critic = self.policy_class(
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            use_sde=self.use_sde,
            **self.policy_kwargs,
        ).to(self.device)
        with torch.no_grad():
            for name, tensor in critic.state_dict().items():
                tensor.copy_(self.ranks.of_first(tensor, f"the initial {name} of a cost critic"))
        return critic

    def read_costs(self, info: dict[str, Any]) -> np.ndarray | None:
        """Return the costs in the info of a step, one per limit; None if it has none.

        Override it for environments that report their costs elsewhere.
        """
        return costs_of(info, len(self.limits))

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Fill the rollout buffer, and compute the advantages of the costs."""
        complete = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        recorder = self.recorder
        self.episode_costs.finish_rollout(recorder.ended, self.ranks, recorder.own)
        if complete:
            assert self._last_episode_starts is not None
            self.cost_batch = recorder.batch(
                self.cost_critics,
                rollout_buffer.observations,
                rollout_buffer.episode_starts,
                self._last_obs,
                np.asarray(self._last_episode_starts),
                self.gamma if self.cost_gamma is None else self.cost_gamma,
                self.gae_lambda if self.cost_gae_lambda is None else self.cost_gae_lambda,
            )
            self._record_costs()
        return complete

    def _record_costs(self) -> None:
        several = len(self.limits) > 1
        for i, (mean, limit) in enumerate(zip(self.episode_costs.mean, self.limits, strict=True)):
            suffix = f"_{i}" if several else ""
            self.logger.record(f"rollout/ep_cost_mean{suffix}", float(mean))
            self.logger.record(f"rollout/cost_limit{suffix}", float(limit))

    @property
    def excesses(self) -> list[float]:
        """By how much the mean sum of each cost per episode, plus the margin, exceeds its limit."""
        costs = self.episode_costs
        return (costs.mean + self.cost_margin * costs.standard_error - self.limits).tolist()

    def make_objective(
        self, batch: Batch, actions: Tensor, advantages: Tensor, **options: Any
    ) -> SurrogateObjective:
        """Return the objective, with the costs per episode as constraints."""
        assert self.cost_batch is not None
        costs = self.cost_batch.advantages
        _, mean, _ = self.ranks.moments(costs)
        # An episode has as many states as its length: this turns costs per step into costs per episode.
        per_episode = (costs - mean) * self.episode_costs.mean_length
        return ConstrainedObjective(self.actor, batch.inputs, actions, advantages, per_episode, **options)

    def policy_step(self, batch: Batch, objective: SurrogateObjective) -> ConstrainedStep:
        """Return a step with KL ≤ δ that respects the limits, or a rejected step."""
        assert isinstance(objective, ConstrainedObjective)
        step = constrained_step(
            objective,
            self.make_fisher(batch),
            self.excesses,
            target_kl=self.scheduled("target_kl"),
            damping=self.cg_damping,
            solver=self.solver,
            shrink=self.line_search_shrinking_factor,
            max_iterations=self.line_search_max_iter,
            project=self.project,
        )
        self.cases[step.case.name.lower()] += 1
        return step

    def train(self) -> None:
        """Update policy and critics from the rollout buffer."""
        super().train()
        with threads(update_threads(self.policy, self.batch_size or self.n_steps * self.n_envs)):
            self._fit_cost_critics()
        for name, number in self.cases.items():
            count(self, f"npg/case/{name}", number)
        self._warn_if_stalled()

    def _fit_cost_critics(self) -> None:
        assert self.cost_batch is not None
        batch = Batch.from_buffer(self.rollout_buffer, self.action_space)
        costs, losses = self.cost_batch, []
        for i, critic in enumerate(self.cost_critics):
            fit = CRITICS[self.critic_fit](
                critic,
                PolicyActor(critic).critic_parameters(),
                passes=self.n_critic_updates,
                batch_size=self.batch_size,
                ranks=self.ranks,
            ).fit(replace(batch, returns=costs.returns[:, i], old_values=costs.old_values[:, i]))
            observe(critic, batch.observations, batch.actions, self.ranks)
            self.critic_rejected += fit.rejected
            losses.append(fit.loss)
        self.logger.record("train/cost_value_loss", float(np.mean(losses)))

    def _warn_if_stalled(self) -> None:
        """Warn of a cost that stays above its limit and no longer falls."""
        for i, (mean, limit) in enumerate(zip(self.episode_costs.mean.tolist(), self.limits, strict=True)):
            if mean <= limit:
                self.stalled[i] = 0
            elif self.stalled[i] == 0 or mean < self.lowest[i]:
                self.stalled[i], self.lowest[i] = 1, mean
            else:
                self.stalled[i] += 1
            if self.stalled[i] == PATIENCE:
                name = "the cost" if len(self.limits) == 1 else f"cost {i}"
                warnings.warn(
                    f"{name} has been above its limit of {limit:g} for {PATIENCE} updates without falling: "
                    f"the mean of the last episodes is {mean:.4g}, the lowest was {self.lowest[i]:.4g}. "
                    "Perhaps no policy can satisfy the limit; raise cost_limit, or check the costs that the "
                    "environment reports.",
                    UserWarning,
                    stacklevel=2,
                )

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        rest = super()._init_callback(callback, progress_bar)
        self.recorder.init_callback(self)
        both = CallbackList([self.recorder, rest])
        both.model = self  # `init_callback` would initialise the user's callback again
        return both

    def _update_learning_rates(self) -> None:
        super()._update_learning_rates()
        for critic in self.cost_critics:
            self._update_learning_rate(critic.optimizer)

    def resumable_state(self) -> dict[str, Any]:
        """Return what a checkpoint stores in addition to what SB3 saves."""
        return super().resumable_state() | {"episode_costs": self.episode_costs.state()}

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `resumable_state` returned; other names are ignored."""
        super().restore_state(state)
        if "episode_costs" in state:
            self.episode_costs.restore(state["episode_costs"])

    def _excluded_save_params(self) -> list[str]:
        own = ["limits", "episode_costs", "recorder", "cost_batch", "cost_critics"]
        return [*super()._excluded_save_params(), *own]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        optimizers = [f"cost_critics.{i}.optimizer" for i in range(len(self.limits))]
        return [*state_dicts, "cost_critics", *optimizers], tensors
