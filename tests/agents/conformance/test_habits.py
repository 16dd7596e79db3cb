"""What SB3's users do every day: callbacks, saving, loading, schedules, wrappers."""

from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from spaces_env import ACTIONS, OBSERVATIONS, SpacesEnv
from stable_baselines3.common import callbacks
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

OBSERVATION = OBSERVATIONS["box"].sample()


class Trace(callbacks.BaseCallback):
    """Writes down the order of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def _on_training_start(self) -> None:
        self.calls.append("training_start")

    def _on_rollout_start(self) -> None:
        self.calls.append("rollout_start")

    def _on_step(self) -> bool:
        self.calls.append("step")
        return True

    def _on_rollout_end(self) -> None:
        self.calls.append("rollout_end")

    def _on_training_end(self) -> None:
        self.calls.append("training_end")


def test_callbacks_in_their_order(make: Callable) -> None:
    """Start; for each rollout its start, steps and end; end."""
    trace = Trace()
    make("MlpPolicy", "CartPole-v1").learn(32, trace)
    rollout = ["rollout_start", *["step"] * 16, "rollout_end"]
    assert trace.calls == ["training_start", *rollout, *rollout, "training_end"]


def test_sb3s_callbacks_work(make: Callable, tmp_path: Path) -> None:
    """Evaluation, checkpoints, event callbacks, early stopping and the progress bar, together."""
    pytest.importorskip("rich")
    found = [
        callbacks.EvalCallback(
            DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))]),
            callback_on_new_best=callbacks.StopTrainingOnRewardThreshold(1e9),
            callback_after_eval=callbacks.StopTrainingOnNoModelImprovement(100),
            eval_freq=16,
            n_eval_episodes=1,
            best_model_save_path=str(tmp_path),
            verbose=0,
        ),
        callbacks.CheckpointCallback(16, str(tmp_path / "checkpoints")),
        callbacks.EveryNTimesteps(20, callbacks.CheckpointCallback(1, str(tmp_path / "every"))),
        callbacks.StopTrainingOnMaxEpisodes(10_000),
    ]
    make("MlpPolicy", "CartPole-v1").learn(48, found, progress_bar=True)
    assert (tmp_path / "best_model.zip").exists()
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3


def test_a_callback_stops_training(make: Callable) -> None:
    """StopTrainingOnMaxEpisodes ends learning before the budget."""
    agent = make("MlpPolicy", "CartPole-v1")
    agent.learn(10_000, callbacks.StopTrainingOnMaxEpisodes(1))
    assert agent.num_timesteps < 10_000


@pytest.mark.with_controls
def test_learning_goes_on(make: Callable) -> None:
    """reset_num_timesteps=False continues the count, the default starts anew."""
    agent = make("MlpPolicy", "CartPole-v1").learn(16)
    assert agent.learn(16, reset_num_timesteps=False).num_timesteps == 32
    assert agent.learn(16).num_timesteps == 16


def test_save_load_predict(algorithm: type, make: Callable, tmp_path: Path, weights: Callable) -> None:
    """A loaded agent has the same parameters, optimizer and predictions, and learns on."""
    agent = make("MlpPolicy", "CartPole-v1").learn(32)
    agent.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", DummyVecEnv([lambda: gym.make("CartPole-v1")]), device="cpu")
    assert torch.equal(weights(agent.policy), weights(loaded.policy))
    for name, state in agent.get_parameters().items():
        assert repr(loaded.get_parameters()[name]) == repr(state), name
    observations = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    assert np.array_equal(
        agent.predict(observations, deterministic=True)[0],
        loaded.predict(observations, deterministic=True)[0],
    )
    assert loaded.learn(16, reset_num_timesteps=False).num_timesteps == 48


def test_parameters_move_between_agents(make: Callable, weights: Callable) -> None:
    """set_parameters(get_parameters()) makes one agent the other."""
    one, two = make("MlpPolicy", "CartPole-v1").learn(16), make("MlpPolicy", "CartPole-v1", seed=1)
    assert not torch.equal(weights(one.policy), weights(two.policy))
    two.set_parameters(one.get_parameters(), exact_match=True)
    assert torch.equal(weights(one.policy), weights(two.policy))
    with pytest.raises((ValueError, KeyError)):
        two.set_parameters({"nonsense": {}}, exact_match=True)


def test_save_excludes_and_includes(algorithm: type, make: Callable, tmp_path: Path) -> None:
    """What is excluded is not in the file, what is included is."""
    agent = make("MlpPolicy", "CartPole-v1")
    agent.save(tmp_path / "model", exclude=["tensorboard_log"], include=["_custom_logger"])
    loaded = algorithm.load(tmp_path / "model")
    assert hasattr(loaded, "_custom_logger")


def test_load_rejects_other_spaces(algorithm: type, make: Callable, tmp_path: Path) -> None:
    """A model does not fit an environment with other spaces."""
    make("MlpPolicy", "CartPole-v1").save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"spaces do not match|[Oo]bservation"):
        algorithm.load(tmp_path / "model", DummyVecEnv([lambda: gym.make("Pendulum-v1")]))


def test_load_takes_another_number_of_environments(algorithm: type, make: Callable, tmp_path: Path) -> None:
    """Trained with one environment, gone on with three."""
    make("MlpPolicy", "CartPole-v1").learn(16).save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", make_vec_env("CartPole-v1", 3), device="cpu")
    assert loaded.learn(48).num_timesteps == 48


def test_policy_alone_is_saved(make: Callable, tmp_path: Path) -> None:
    """policy.save and load keep the predictions."""
    agent = make("MlpPolicy", "CartPole-v1").learn(16)
    agent.policy.save(tmp_path / "policy.pt")
    loaded = type(agent.policy).load(tmp_path / "policy.pt")
    observations = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    assert np.array_equal(
        agent.predict(observations, deterministic=True)[0],
        loaded.predict(observations, deterministic=True)[0],
    )


def test_schedule_of_the_learning_rate(make: Callable) -> None:
    """A schedule is followed and logged."""
    agent = make("MlpPolicy", "CartPole-v1", learning_rate=LinearSchedule(1e-2, 1e-4, 1.0))
    agent.learn(64, log_interval=None)
    assert agent.logger.name_to_value["train/learning_rate"] == pytest.approx(1e-4)


def test_vec_normalize(make: Callable) -> None:
    """Training on, and evaluation with, normalised observations and rewards."""
    env = VecNormalize(make_vec_env("CartPole-v1", 2, seed=0))
    agent = make("MlpPolicy", env).learn(64)
    assert agent.get_vec_normalize_env() is env and env.obs_rms.count > 60
    evaluation = VecNormalize(make_vec_env("CartPole-v1", 2), training=False, norm_reward=False)
    callback = callbacks.EvalCallback(evaluation, eval_freq=8, n_eval_episodes=1, verbose=0)
    agent.learn(32, callback)
    assert np.allclose(evaluation.obs_rms.mean, env.obs_rms.mean)


def test_evaluate_policy(make: Callable) -> None:
    """SB3's evaluation counts whole episodes of the monitor."""
    agent = make("MlpPolicy", "CartPole-v1")
    returns, lengths = evaluate_policy(agent, make_vec_env("CartPole-v1", 3), 7, return_episode_rewards=True)
    assert len(returns) == 7 and returns == lengths


def test_uses_the_given_logger(make: Callable, tmp_path: Path) -> None:
    """A custom logger and the window of the statistics are respected."""
    agent = make("MlpPolicy", "CartPole-v1", stats_window_size=3)
    agent.set_logger(configure(str(tmp_path), ["csv", "json", "tensorboard"]))
    agent.learn(128, log_interval=1)
    assert agent.ep_info_buffer.maxlen == 3
    assert {"progress.csv", "progress.json"} <= {path.name for path in tmp_path.iterdir()}
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    assert {"time/fps", "time/total_timesteps", "rollout/ep_rew_mean", "train/n_updates"} <= set(header)


def test_tensorboard_log(make: Callable, tmp_path: Path) -> None:
    """tensorboard_log makes a folder named after the algorithm's run."""
    agent = make("MlpPolicy", "CartPole-v1", tensorboard_log=str(tmp_path))
    agent.learn(16, tb_log_name="mine")
    assert (tmp_path / "mine_1").is_dir()


def test_same_seed_same_weights(make: Callable, weights: Callable) -> None:
    """Learning is deterministic."""
    one, two = (weights(make("MlpPolicy", "CartPole-v1").learn(64).policy) for _ in range(2))
    assert torch.equal(one, two)


def test_without_log_and_without_environment(make: Callable) -> None:
    """log_interval=None writes nothing; an agent may be built before its environment."""
    agent = make("MlpPolicy", "CartPole-v1")
    agent.learn(16, log_interval=None)
    assert make("MlpPolicy", None, _init_setup_model=False).env is None


class Features(BaseFeaturesExtractor):
    """A feature extractor whose attributes are called as a critic's would be."""

    def __init__(self, observation_space: gym.Space, width: int = 5):
        super().__init__(observation_space, width)
        self.value_net = nn.Linear(3, width)
        self.log_std = nn.LayerNorm(width)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the features."""
        return self.log_std(self.value_net(observations))


@pytest.mark.parametrize("net_arch", [[], [8], {"pi": [8], "vf": []}])
def test_custom_networks(make: Callable, weights: Callable, net_arch: object) -> None:
    """Custom features with any attribute names, and no hidden layer at all."""
    env = DummyVecEnv([lambda: SpacesEnv(OBSERVATIONS["box"], ACTIONS["discrete"])])
    kwargs = {
        "features_extractor_class": Features,
        "features_extractor_kwargs": {"width": 6},
        "net_arch": net_arch,
        "activation_fn": nn.ReLU,
    }
    agent = make("MlpPolicy", env, policy_kwargs=kwargs)
    before = weights(agent.policy.features_extractor)
    agent.learn(32)
    assert not torch.equal(weights(agent.policy.features_extractor), before)


def test_one_step_more_than_a_batch(make: Callable, algorithm: type) -> None:
    """17 steps with minibatches of 16: the last minibatch has one sample, with a warning where they are."""
    agent = make("MlpPolicy", "CartPole-v1", n_steps=17)
    assert torch.isfinite(next(iter(agent.learn(34).policy.parameters()))).all()
