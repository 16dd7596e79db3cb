"""The training loop: collect -> advantages -> policy step -> critic fit -> record.

The file is longer than others because every argument is documented here.
"""

import warnings
from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.arguments import SB3_PARAMETERS, compose_constructor
from agents.critic import CRITICS, Critic
from agents.data_parallel import Share, join, share_rollout
from agents.device import faster_device
from agents.hyperparameters import (
    check_entropy,
    check_minibatches,
    check_ranges,
    check_spread,
    check_unread,
    present_value,
)
from agents.policy.actions import to_space
from agents.policy.actor import PolicyActor, warn_of_unreached
from agents.policy.policies import POLICIES
from agents.policy.recurrent.policies import MlpLstmPolicy
from agents.policy.statistics import warn_of_two_normalisers
from agents.ranks import Ranks, check_same_numbers
from agents.rollout.batch import Batch
from agents.rollout.collect import collect
from agents.rollout.finite import check_finite, kept_statistics
from agents.rollout.masks import masks_used
from agents.rollout.tensor_buffer import TensorRolloutBuffer, make_buffer
from agents.rollout.tensor_collect import collect_tensors
from agents.rollout.threads import threads, update_threads
from agents.spaces import check_policy, check_starts, made_with_checks
from agents.update import update
from npg import PolicyStep, Rejection, SurrogateObjective

# If a schedule ended at 0, the last update could not take a step.
LEAST_SCHEDULED = 1e-8
# Attributes that change from update to update; SB3's own counters are not listed.
COUNTERS = ("iterations", "outcomes", "kl_exceeded", "critic_rejected", "rejections")


class PolicyGradientAgent(OnPolicyAlgorithm):
    """An on-policy agent whose policy is changed by one `PolicyStep` per update.

    A subclass declares its arguments as described in `agents.arguments`, and implements `policy_step`. It
    adds the names of attributes that change from update to update to `resumable`.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy", a name given to `register_policy`, or a class.
        env: an environment or its Gymnasium id.
        learning_rate: learning rate of the policy's optimizer, which fits the critic; a number, or a schedule
            (a function of the remaining progress, which falls from 1 to 0).
        n_steps: steps per environment and update.
        batch_size: states per step of the critic; None for the whole batch.
        gamma: discount factor.
        n_critic_updates: passes of the critic over the batch per update; with L-BFGS, iterations per update.
        gae_lambda: λ of generalised advantage estimation (Schulman et al. 2016).
        use_sde: whether to explore with gSDE, i.e. with noise that depends on the state.
        sde_sample_freq: number of steps after which gSDE samples new noise; -1 for once per rollout.
        rollout_buffer_class: class of the rollout buffer; None for SB3's.
        rollout_buffer_kwargs: keyword arguments of the rollout buffer.
        ent_coef: c of the entropy bonus: the policy maximises E[ratio · advantage + c · entropy], with the
            entropy in nats, joint over action dimensions; a number or a schedule. The KL and F do not include
            it.
        normalize_advantage: whether to scale advantages to mean 0 and standard deviation 1.
        stats_window_size: number of episodes over which logged returns and lengths are averaged.
        tensorboard_log: folder of the TensorBoard log; None for no log.
        policy_kwargs: keyword arguments of the policy.
        verbose: 0 prints nothing, 1 the log, 2 debug messages.
        seed: seed of all random numbers; None for an arbitrary seed.
        device: "auto" uses the device of tensor environments; with others, a GPU only if there is one and a
            timing test finds it faster, see `faster_device`.
        _init_setup_model: whether to build the networks; `load` builds them later.
        critic_fit: "minibatch" uses the policy's optimizer, as SB3 does; "lbfgs" uses the whole batch, and
            ignores `batch_size` and `learning_rate`; other names are those given to `register_critic`.
        critic_lambda: λ of the returns that the critic is fitted to; None for `gae_lambda`.
        use_masking: whether to choose only among the actions that the environments allow, if these have a
            method `action_masks` (see docs/masks.md).

    Raises:
        ValueError: an argument is out of range.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = POLICIES
    resumable: ClassVar[tuple[str, ...]] = COUNTERS

    learning_rate: float | Schedule = 1e-3
    n_steps: int = 2048
    batch_size: int | None = 128
    gamma: float = 0.99
    n_critic_updates: int = 10
    gae_lambda: float = 0.95
    use_sde: bool = False
    sde_sample_freq: int = -1
    ent_coef: float | Schedule = 0.0  # type: ignore[assignment]  # SB3 has a number only
    normalize_advantage: bool = True
    critic_fit: str = "minibatch"
    critic_lambda: float | None = None
    use_masking: bool = True

    actor: PolicyActor
    masked = False  # whether the environments' masks are used

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" not in vars(cls):
            compose_constructor(cls, PolicyGradientAgent.__init__)

    def __init__(self, policy: str | type[ActorCriticPolicy], env: GymEnv | str, **arguments: Any):
        # Numbers of NumPy and PyTorch are as good as Python's.
        arguments = {k: v.item() if getattr(v, "shape", None) == () else v for k, v in arguments.items()}
        check_ranges(**arguments)
        init_setup_model = arguments.pop("_init_setup_model")
        sb3: dict[str, Any] = {name: arguments.pop(name) for name in SB3_PARAMETERS if name in arguments}
        sb3 |= {"vf_coef": 0.0, "max_grad_norm": 0.0}  # not used
        env = made_with_checks(env, sb3["verbose"])
        if sb3["device"] == "auto" and (tensor_env := getattr(env, "tensor_env", None)) is not None:
            sb3["device"] = tensor_env.device
        super().__init__(
            policy,
            env,
            **sb3,
            _init_setup_model=False,
        )
        vars(self).update(arguments)
        self.ranks = Ranks.current()
        self.own_episodes: list[tuple[int, list[dict[str, Any]], np.ndarray | None]] = []  # not shared yet
        self._measures_devices = sb3["device"] == "auto" and not self.ranks.several
        self.iterations = 0
        self.outcomes: dict[str, int] = dict.fromkeys(("accepted", *map(str, Rejection)), 0)  # policy steps
        self.kl_exceeded = self.critic_rejected = 0  # accepted steps with KL > 2δ; critic fits with NaN
        self.recurrent_states: Tensor | None = None  # after the last rollout, if the policy is recurrent
        self.rejections: list[str] = []  # the latest consecutive updates with NaN or infinity
        if self.env is not None:
            name, seen, acted = str(policy), self.observation_space, self.action_space
            check_starts(name, self.policy_class, observation_space=seen, action_space=acted)
            check_policy(name, self.policy_class, self.policy_kwargs, seen)
            check_spread(self.n_steps, self.n_envs, self.normalize_advantage)
            check_unread(type(self), self.critic_fit, arguments | sb3)
        if init_setup_model:
            self._setup_model()
            if self.env is not None and self.critic_fit != "lbfgs":
                check_minibatches(self.n_steps, self.share.total, self.batch_size)

    @abstractmethod
    def policy_step(self, batch: Batch, objective: SurrogateObjective) -> PolicyStep:
        """Return the step for this batch, without taking it."""

    def make_objective(
        self, batch: Batch, actions: Tensor, advantages: Tensor, **options: Any
    ) -> SurrogateObjective:
        """Return the objective of an update; the options are keyword arguments of `SurrogateObjective`."""
        return SurrogateObjective(self.actor, batch.inputs, actions, advantages, **options)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train for at least `total_timesteps` steps, counted over all environments; see SB3's `learn`."""
        if self.env is None:
            raise ValueError("the agent has no environment; give it one, load(path, env=env) or set_env(env)")
        if reset_num_timesteps:
            self.iterations = 0
        check_spread(self.n_steps, self.n_envs, self.normalize_advantage)  # n_envs may differ after `load`
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name or type(self).__name__, progress_bar
        )
        callback.on_training_start(locals(), globals())
        assert self.env is not None
        iteration = 0
        while self.num_timesteps < total_timesteps:
            complete = self.collect_rollouts(self.env, callback, self.rollout_buffer, self.n_steps)
            if not share_rollout(self, complete):
                break
            iteration += 1
            self.iterations += 1
            self._update_current_progress_remaining(min(self.num_timesteps, total_timesteps), total_timesteps)
            if log_interval is not None and iteration % log_interval == 0:
                self.dump_logs(self.iterations)
            self.train()
        check_same_numbers(self.ranks, self.policy.state_dict().values(), "the last update")
        callback.on_training_end()
        if log_interval is not None:
            # As in SB3, the log is written before each update, so the last update has not been logged yet.
            self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
            self.logger.dump(self.num_timesteps)
        return self

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Fill the rollout buffer, with advantages; see `agents.rollout.collect` and `agents.rollout.gae`."""
        if isinstance(rollout_buffer, TensorRolloutBuffer):
            return collect_tensors(self, env, callback, rollout_buffer, n_rollout_steps)
        return collect(self, env, callback, rollout_buffer, n_rollout_steps)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[Any, Any]:
        """Return actions in the dtype of the action space, and the state; see `MlpPolicy.predict`."""
        masks = {} if action_masks is None else {"action_masks": action_masks}
        if self.masked and not masks:
            warnings.warn(
                "the policy was trained with action masks, and predict without them may return forbidden "
                "actions; pass action_masks, or evaluate with agents.masking.evaluate_policy",
                UserWarning,
                stacklevel=2,
            )
        actions, state = self.policy.predict(observation, state, episode_start, deterministic, **masks)
        return to_space(self.action_space, actions), state

    def train(self) -> None:
        """Update policy and critic from the rollout buffer."""
        with threads(update_threads(self.policy, self.n_steps * self.n_envs)):
            update(self)

    def _fits_in_parallel(self, critic: Critic) -> bool:
        # On several ranks, the collectives of two threads could pair in different orders.
        actor = self.actor
        alone = not (actor.shares_parameters or actor.has_fused_attention or self.ranks.several)
        return alone and not critic.draws_random_numbers and self.device.type == "cpu"

    def make_critic(self) -> Critic:
        """Return the fit of the value function for this update."""
        return CRITICS[self.critic_fit](
            self.policy,
            self.actor.critic_parameters(),
            passes=self.n_critic_updates,
            batch_size=self.batch_size,
            ranks=self.ranks,
        )

    def scheduled(self, name: str) -> float:
        """Return the current value of an argument; positive even if a schedule ends at 0."""
        value = present_value(name, getattr(self, name), self._current_progress_remaining)
        return max(value, LEAST_SCHEDULED) if callable(getattr(self, name)) else value

    def resumable_state(self) -> dict[str, Any]:
        """Return the attributes in `resumable`, which a checkpoint stores in addition to what SB3 saves."""
        state = {name: getattr(self, name) for name in self.resumable}
        memory = self.recurrent_states
        return state if memory is None else state | {"recurrent_states": memory.numpy(force=True)}

    def restore_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `resumable_state` returned; other names are ignored."""
        for name in self.resumable:
            if name in state:
                setattr(self, name, state[name])
        if "recurrent_states" in state:
            self.recurrent_states = torch.as_tensor(state["recurrent_states"], device=self.device)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Train in another environment, with equal spaces and the same number of environments."""
        super().set_env(env, force_reset)
        warn_of_two_normalisers(self.policy, self.get_vec_normalize_env(), stacklevel=3)
        self.masked = masks_used(self)
        self.rollout_buffer = make_buffer(self)

    def _setup_model(self) -> None:
        self.share = Share.of(self.ranks, self.n_envs)
        super()._setup_model()
        if self._measures_devices and self.device.type != "cpu":
            self.device = faster_device(self.policy, self.n_envs, self.n_steps)
            self.policy.to(self.device)
            self.rollout_buffer.device = self.device
        self.masked = masks_used(self)
        self.rollout_buffer = make_buffer(self)
        if isinstance(self.policy, MlpLstmPolicy):
            self.recurrent_states = self.policy.zero_states(self.n_envs)
        self.actor = PolicyActor(self.policy)
        check_entropy(self.ent_coef, self.policy)
        warn_of_unreached(self.actor)
        # From the caller of the constructor.
        warn_of_two_normalisers(self.policy, self.get_vec_normalize_env(), stacklevel=6)
        join(self)

    def _setup_lr_schedule(self) -> None:
        self.lr_schedule = partial(present_value, "learning_rate", self.learning_rate)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        assert self.env is not None
        if self.ranks.rank > 0 and not self._custom_logger:
            self.set_logger(Logger(None, []))
        with kept_statistics(self):  # the first observations update a VecNormalize
            total, callback = super()._setup_learn(*args, **kwargs)
            check_finite(self, self.env, "observation", self._last_obs)
        return total, callback

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed all generators; environments get seed + index, counted over all ranks."""
        super().set_random_seed(seed)
        if seed is not None and self.env is not None and self.share.first:
            self.env.seed(seed + self.share.first)

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        if self.ranks.several:
            self.own_episodes.append((self.num_timesteps, infos, dones))
        else:
            super()._update_info_buffer(infos, dones)

    def _update_learning_rates(self) -> None:
        self._update_learning_rate(self.policy.optimizer)

    def _excluded_save_params(self) -> list[str]:
        own = ("actor", "_measures_devices", "ranks", "share", "own_episodes", "recurrent_states")
        return [*super()._excluded_save_params(), *own]
