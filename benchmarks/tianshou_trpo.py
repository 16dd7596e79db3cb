"""tianshou's TRPO with the settings of its MuJoCo benchmark, without normalised observations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import gymnasium as gym
import torch
from configurations import Configuration
from gymnasium import spaces
from stable_baselines3.common.utils import set_random_seed
from torch import nn
from torch.distributions import Categorical, Distribution, Independent, Normal


def gaussian(parameters: tuple[torch.Tensor, torch.Tensor]) -> Distribution:
    """Return a diagonal Gaussian with a mean and a scale."""
    return Independent(Normal(*parameters), 1)


def categorical(logits: torch.Tensor) -> Distribution:
    """Return a categorical distribution."""
    return Categorical(logits=logits)


@contextmanager
def tianshou_trpo(configuration: Configuration) -> Iterator[tuple[Any, Any]]:
    """Make tianshou's TRPO and its collector."""
    from tianshou.data import Collector, VectorReplayBuffer

    set_random_seed(0)
    algorithm = _algorithm(configuration.env)
    vec_env = _vec_env(configuration)
    try:
        buffer = VectorReplayBuffer(max(4096, configuration.rollout), configuration.n_envs)
        collector = Collector(algorithm, vec_env, buffer, exploration_noise=True)
        collector.reset()
        yield algorithm, collector
    finally:
        vec_env.close()


def train(algorithm: Any, collector: Any, steps: int, rollout: int) -> None:
    """Train without evaluation, log or progress bar."""
    from tianshou.trainer import OnPolicyTrainerParams

    algorithm.run_training(
        OnPolicyTrainerParams(
            training_collector=collector,
            max_epochs=1,
            epoch_num_steps=steps,
            collection_step_num_env_steps=rollout,
            batch_size=None,
            update_step_num_repetitions=1,
            verbose=False,
            show_progress=False,
        )
    )


def _algorithm(env_id: str) -> Any:
    """Return the algorithm: 64-64 tanh networks, 20 critic steps on the whole batch."""
    from tianshou.algorithm import TRPO
    from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
    from tianshou.utils.net.discrete import DiscreteActor

    env = gym.make(env_id)
    env.close()

    def network() -> nn.Module:
        return Net(state_shape=env.observation_space.shape, hidden_sizes=(64, 64), activation=nn.Tanh)

    actor: nn.Module
    if isinstance(env.action_space, spaces.Discrete):
        actor = DiscreteActor(preprocess_net=network(), action_shape=env.action_space.n, softmax_output=False)
        options: dict[str, Any] = {
            "dist_fn": categorical,
            "action_scaling": False,
            "action_bound_method": None,
        }
    else:
        actor = ContinuousActorProbabilistic(
            preprocess_net=network(), action_shape=env.action_space.shape, unbounded=True
        )
        nn.init.constant_(actor.sigma_param, -0.5)
        options = {"dist_fn": gaussian, "action_scaling": True, "action_bound_method": "clip"}
    policy = ProbabilisticActorPolicy(actor=actor, action_space=env.action_space, **options)
    return TRPO(
        policy=policy,
        critic=ContinuousCritic(preprocess_net=network()),
        optim=AdamOptimizerFactory(lr=1e-3),
        optim_critic_iters=20,
        return_scaling=True,
    )


def _vec_env(configuration: Configuration) -> Any:
    if configuration.vec_env == "envpool":
        import envpool

        return envpool.make_gymnasium(configuration.env, num_envs=configuration.n_envs, seed=0)
    from tianshou.env import DummyVectorEnv, ShmemVectorEnv, SubprocVectorEnv

    classes = {"dummy": DummyVectorEnv, "subproc": SubprocVectorEnv, "shmem": ShmemVectorEnv}
    makers: list[Callable[[], gym.Env]] = [partial(gym.make, configuration.env)] * configuration.n_envs
    vec_env = classes[configuration.vec_env](makers)
    vec_env.seed(0)
    return vec_env
