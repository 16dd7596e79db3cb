"""Predict and evaluate with masks; masks together with memory."""

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from masked_env import SPACES, MaskedEnv, sizes_of
from remembered_env import STEPS, RememberedEnv
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import NPG, TRPO, Batch
from agents.masking import MaskedEvalCallback, evaluate_policy, masks_apply
from agents.policy.masks import MaskError
from envs import ActionMasker, choose_vec_env
from envs.masks import AllowedActions, allowed
from npg import ExactFisher, SurrogateObjective
from npg.states import select

SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "seed": 0, "device": "cpu"}
LSTM = {"lstm_hidden_size": 8, "net_arch": [8]}


def vec_env(n: int = 2, **kwargs: Any) -> DummyVecEnv:
    """Return masked environments, each in a Monitor."""
    return DummyVecEnv([lambda: Monitor(MaskedEnv(**kwargs))] * n)


@pytest.fixture(scope="module")
def agent() -> TRPO:
    """A trained agent."""
    return TRPO("MlpPolicy", vec_env(), **SMALL).learn(64)


def test_evaluation_takes_allowed_actions_alone(agent: TRPO) -> None:
    """In vector and single environments; without masks the task complains."""
    forced = vec_env(allowed=0.0)  # only the rewarded action is allowed
    assert evaluate_policy(agent, forced, 4) == (10.0, 0.0)
    assert evaluate_policy(agent.policy, Monitor(MaskedEnv(allowed=0.0)), n_eval_episodes=2) == (10.0, 0.0)
    with pytest.raises(AssertionError, match="is forbidden"), pytest.warns(UserWarning, match="without them"):
        evaluate_policy(agent, forced, 4, use_masking=False)
    with pytest.raises(MaskError, match=r"no method action_masks; wrap it in envs\.ActionMasker"):
        evaluate_policy(agent, gym.make("CartPole-v1"), 1)


def test_when_masks_apply(agent: TRPO) -> None:
    """If the environment has them, the policy takes them, and the settings, if there are any, allow it."""
    assert masks_apply(agent.policy, vec_env()) and masks_apply(agent.policy, vec_env(), {})
    assert not masks_apply(agent.policy, vec_env(), {"use_masking": False})
    assert not masks_apply(agent.policy, DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    assert not masks_apply(A2C("MlpPolicy", vec_env(), device="cpu").policy, vec_env())


def test_predict_warns_without_masks(agent: TRPO) -> None:
    """Once per place in the user's code; not with masks, nor if masks are not used."""
    observation, mask = np.zeros(5, np.float32), np.arange(5) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert agent.predict(observation, action_masks=mask)[0] == 3
        TRPO("MlpPolicy", vec_env(), use_masking=False, **SMALL).predict(observation)
    with pytest.warns(UserWarning, match=r"evaluate with agents\.masking\.evaluate_policy"):
        agent.predict(observation)


@pytest.mark.parametrize("use_masking", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_evaluation_callback(tmp_path: Path, use_masking: bool) -> None:
    """It plays with masks, saves the best model, and calls its children with the agent itself."""
    seen = []

    class Child(BaseCallback):
        def _on_step(self) -> bool:
            seen.append(self.model)
            return True

    env = VecNormalize(vec_env(1, allowed=0.0 if use_masking else 1.0), norm_obs=False, training=False)
    callback = MaskedEvalCallback(
        env,
        callback_on_new_best=Child(),
        use_masking=use_masking,
        eval_freq=16,
        n_eval_episodes=2,
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    agent = TRPO("MlpPolicy", VecNormalize(vec_env(), norm_obs=False), **SMALL)
    if use_masking:
        agent.learn(32, callback)
        assert callback.best_mean_reward == 10.0
    else:
        with pytest.warns(UserWarning, match="without them"):
            agent.learn(32, callback)
    assert seen == [agent] and callback.model is agent
    assert TRPO.load(tmp_path / "best_model").masked


def test_saving_loading_and_another_environment(agent: TRPO, tmp_path: Path) -> None:
    """A loaded agent needs masks at once; another environment may have none, or other ones."""
    agent.save(tmp_path / "model")
    loaded = TRPO.load(tmp_path / "model", device="cpu")
    assert loaded.masked and loaded.env is None
    loaded.set_env(vec_env())
    assert loaded.masked
    assert loaded.learn(32, reset_num_timesteps=False).num_timesteps == 96
    loaded.use_masking = False
    loaded.set_env(vec_env(allowed=1.0))
    assert not loaded.masked


def test_the_notice_is_printed_once(capsys: pytest.CaptureFixture) -> None:
    """With verbose=1, as SB3's; not by default."""
    for verbose, count in ((0, 0), (1, 1)):
        TRPO("MlpPolicy", vec_env(), verbose=verbose, **SMALL).learn(32, log_interval=None)
        assert capsys.readouterr().out.count("action masks") == count


class Plain(MaskedEnv):
    """The task with another name for its masks."""

    other = 3

    def valid_moves(self) -> list[bool]:
        """Return the mask."""
        return self.mask.tolist()

    def __getattribute__(self, name: str) -> Any:
        if name == "action_masks":
            raise AttributeError(name)
        return super().__getattribute__(name)


def test_action_masker() -> None:
    """A function of the environment, or the name of a method on any layer."""

    def limited(env: gym.Env) -> list[bool]:
        return env._max_episode_steps == 5 and env.unwrapped.valid_moves()

    for mask in ("valid_moves", limited):
        env = ActionMasker(gym.wrappers.TimeLimit(Plain(), 5), mask)
        env.reset(seed=0)
        assert env.action_masks() == env.unwrapped.mask.tolist()
    assert TRPO("MlpPolicy", DummyVecEnv([lambda: env]), **SMALL).learn(16).masked
    with pytest.raises(ValueError, match=r"'other' of .* is not a method"):
        ActionMasker(Plain(), "other")
    with pytest.raises(AttributeError, match="missing"):
        ActionMasker(Plain(), "missing")


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
def test_allowed_actions(space: gym.Space) -> None:
    """A forbidden value becomes an allowed one, others and wrong masks leave the action as it is."""
    env = AllowedActions(MaskedEnv(space))
    env.reset(seed=0)
    space.seed(0)
    for _ in range(20):
        if env.step(space.sample())[2]:  # which raises an error for a forbidden action
            env.reset()
    action = space.sample()
    width = len(env.unwrapped.mask)
    for mask in (np.ones(width), np.zeros(width), np.zeros(width + 1)):
        assert np.array_equal(allowed(action, mask, space), action)
    found = allowed(action, env.unwrapped.mask, space)
    assert space.contains(found) and found.dtype == space.dtype
    last = np.asarray(sizes_of(space)).reshape(space.shape) - 1
    assert np.array_equal(allowed(last, np.ones(width - 1), space), last)
    assert AllowedActions(gym.make("CartPole-v1")).unwrapped is not None


def test_a_step_is_timed_with_allowed_actions() -> None:
    """The choice of the vector environment takes no forbidden ones."""
    assert choose_vec_env(MaskedEnv, 64).vec_env in ("dummy", "workers")


def test_allowed_actions_of_a_shifted_space() -> None:
    """Entries of a mask count from the first action."""
    space = gym.spaces.Discrete(3, start=5)
    assert allowed(np.int64(5), [False, True, False], space) == 6


@pytest.mark.slow
def test_seventy_actions_of_which_fifty_five_are_forbidden() -> None:
    """sb3-contrib's task, in 2048 steps: at least 90 of 100 for every seed, and far less without masks."""
    task = pytest.importorskip("sb3_contrib.common.envs").InvalidActionEnvDiscrete
    for seed, use_masking in ((0, True), (1, True), (2, True), (0, False)):
        np.random.seed(seed)  # noqa: NPY002 (the task draws from it)
        env = Monitor(task(dim=70, n_invalid_actions=55))
        agent = TRPO(
            "MlpPolicy",
            env,
            n_steps=512,
            batch_size=64,
            gamma=0.1,
            target_kl=1.0,
            cg_damping=1e-3,
            cg_max_steps=30,
            # Without layers; values start at 0, since random ones are noise in the advantages.
            policy_kwargs={"net_arch": [], "normalize_returns": True},
            use_masking=use_masking,
            seed=seed,
            device="cpu",
        ).learn(2048)
        found = evaluate_policy(agent, env, 20, use_masking=use_masking)[0]
        assert found >= 90 if use_masking else found < 50, (seed, found)


# --- with memory


def test_masks_of_sequences() -> None:
    """Masks are rows beside the states of sequences: the policy is that of the rollout, in parts too."""
    agent = NPG(
        "MlpLstmPolicy", vec_env(3), n_steps=16, batch_size=None, policy_kwargs=LSTM, device="cpu", seed=0
    )
    agent.learn(48)
    assert agent.masked
    _, callback = agent._setup_learn(48, None)
    assert agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, 16)
    batch = Batch.from_buffer(agent.rollout_buffer, agent.action_space)
    log_prob = agent.actor(batch.inputs).log_prob(batch.actions)
    torch.testing.assert_close(log_prob, batch.old_log_prob, rtol=1e-5, atol=1e-6)
    assert bool(batch.action_masks.gather(1, batch.actions.unsqueeze(1)).all())
    objective = SurrogateObjective(agent.actor, batch.inputs, batch.actions, batch.advantages)
    assert objective.evaluate(torch.zeros(objective.parameters.size)).kl == 0
    # Parts of whole sequences have their own masks: each is the whole batch's at these states.
    whole = agent.actor(batch.inputs).coordinates[0]
    sequences = batch.observations
    chosen = torch.as_tensor(sequences.states_of(np.arange(0, len(sequences.lengths), 2)))
    torch.testing.assert_close(agent.actor(batch.every(2)).coordinates[0], whole[chosen])
    torch.testing.assert_close(agent.actor(select(batch.inputs, chosen)).coordinates[0], whole[chosen])
    vector = torch.randn(objective.parameters.size, generator=torch.Generator().manual_seed(0))
    products = [ExactFisher(agent.actor, batch.inputs, micro_batch_size=size) @ vector for size in (None, 7)]
    torch.testing.assert_close(*products, rtol=1e-3, atol=1e-6)


def test_memory_and_masks_in_predict() -> None:
    """Actions are allowed, and the recurrent state is returned."""
    agent = TRPO("MlpLstmPolicy", vec_env(2), policy_kwargs=LSTM, **SMALL)
    observations, state, start = np.zeros((2, 5), np.float32), None, np.ones(2, dtype=bool)
    for column in range(5):
        masks = np.tile(np.arange(5) == column, (2, 1))
        actions, state = agent.predict(observations, state, start, action_masks=masks)
        assert actions.tolist() == [column] * 2 and state is not None
        start = np.zeros(2, dtype=bool)
    assert evaluate_policy(agent, vec_env(allowed=0.0), 4)[0] == 10.0
    with pytest.raises(MaskError, match="the mask of state 0 of 2 allows no action"):
        agent.predict(observations, action_masks=torch.zeros(2, 5, dtype=torch.bool))


@pytest.mark.slow
def test_a_task_that_needs_memory_and_masks_is_solved() -> None:
    """Either alone is not enough."""
    returns = {}
    for name, policy, use_masking in (
        ("both", "MlpLstmPolicy", True),
        ("masks", "MlpPolicy", True),
        ("memory", "MlpLstmPolicy", False),
    ):
        recurrent = policy == "MlpLstmPolicy"
        agent = TRPO(
            policy,
            DummyVecEnv([RememberedEnv] * 16),
            n_steps=48,
            batch_size=None,
            gamma=0.5,
            target_kl=0.05,
            use_masking=use_masking,
            policy_kwargs={"lstm_hidden_size": 32, "enable_critic_lstm": False} if recurrent else None,
            seed=0,
            device="cpu",
        ).learn(20_000)
        env = DummyVecEnv([lambda: Monitor(RememberedEnv())] * 16)
        env.seed(1000)
        returns[name] = evaluate_policy(agent, env, 100, use_masking=use_masking)[0]
    assert returns["both"] > 0.9 * STEPS
    assert returns["masks"] < 3 and returns["memory"] < 3, returns
