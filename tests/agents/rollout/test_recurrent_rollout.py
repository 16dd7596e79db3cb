"""Rollouts and updates of agents with recurrent policies."""

import itertools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from spaces_env import ACTIONS, OBSERVATIONS, SpacesEnv, policy_for
from stable_baselines3.common.vec_env import DummyVecEnv

from agents import ACKTR, NPG, TRPO, VPG, Batch, PolicyGradientAgent
from agents.critic.critic import shuffled
from agents.policy.recurrent.sequences import Sequences
from agents.rollout.tensor_buffer import TensorRolloutBuffer
from envs import TensorVecEnv, make_tensor_env
from npg import SurrogateObjective

SMALL: dict[str, Any] = {"lstm_hidden_size": 4, "net_arch": [4]}


class Truncating(SpacesEnv):
    """Like `SpacesEnv`, with time limits of 3 or 4 steps."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, limit: int):
        super().__init__(observation_space, action_space)
        self.limit = limit

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Truncate the episode at the limit."""
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, self._step == self.limit, info


def make(
    agent: type[PolicyGradientAgent] = TRPO,
    observation: str = "box",
    action: str = "discrete",
    limits: tuple[int, ...] = (5, 7, 100),
    policy_kwargs: Any = None,
    **kwargs: Any,
) -> PolicyGradientAgent:
    """Return a small agent in environments with these time limits; episodes terminate after ten steps."""
    spaces_ = OBSERVATIONS[observation], ACTIONS[action]
    env = DummyVecEnv([lambda limit=limit: Truncating(*spaces_, limit) for limit in limits])  # type: ignore[misc]
    options = {"n_steps": 8, "batch_size": 12, "seed": 0, "n_critic_updates": 2, "device": "cpu"} | kwargs
    name = policy_for(OBSERVATIONS[observation]).replace("Policy", "LstmPolicy")
    if observation.startswith("image"):
        policy_kwargs = {"features_extractor_kwargs": {"features_dim": 4}} | (policy_kwargs or {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # minibatches
        return agent(name, env, policy_kwargs=SMALL | (policy_kwargs or {}), **options)


def batch_of(agent: PolicyGradientAgent) -> Batch:
    """Return the batch of a new rollout, after the given number of environment steps."""
    assert agent.env is not None
    _, callback = agent._setup_learn(1, None, False)
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    return Batch.from_buffer(agent.rollout_buffer, agent.action_space)


VARIANTS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "gru": {"cell": "gru", "n_lstm_layers": 2, "lstm_kwargs": {"dropout": 0.5}},
    "shared": {"shared_lstm": True, "enable_critic_lstm": False},
    "without": {"enable_critic_lstm": False, "normalize_observations": True, "normalize_returns": True},
}


@pytest.mark.covering(1)
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", ["dict", "box", "discrete", "image_first"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_update_sees_the_policy_of_the_rollout(variant: str, observation: str, action: str) -> None:
    """Ratios are 1, values those of the rollout and the KL is 0, in a rollout that starts within episodes."""
    agent = make(observation=observation, action=action, policy_kwargs=VARIANTS[variant]).learn(24)
    batch = batch_of(agent)
    assert isinstance(batch.observations, Sequences)
    assert batch.observations.lengths[0] < 4
    with torch.no_grad():
        values = agent.policy.predict_values(batch.observations).flatten()
        log_prob = agent.actor(batch.observations).log_prob(batch.actions)
    torch.testing.assert_close(values, batch.old_values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_prob, batch.old_log_prob, rtol=1e-5, atol=1e-5)
    objective = SurrogateObjective(agent.actor, batch.observations, batch.actions, batch.advantages)
    assert abs(objective.evaluate(torch.zeros(objective.parameters.size)).kl) < 1e-6


def test_states_matter() -> None:
    """The test above would fail with zeros at the start, or if a start were missed."""
    agent = make().learn(24)
    batch = batch_of(agent)
    sequences = batch.observations
    zeros = Sequences(sequences.observations, sequences.lengths, torch.zeros_like(sequences.states))
    undivided = Sequences.of_rollout(
        sequences.observations, np.zeros((8, 3)), agent.rollout_buffer.recurrent_states
    )
    for other in (zeros, undivided):
        with torch.no_grad():
            log_prob = agent.actor(other).log_prob(batch.actions)
        assert (log_prob - batch.old_log_prob).abs().max() > 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_truncated_episodes_end_with_a_value(variant: str) -> None:
    """γ V of the last observation, which follows on the episode's other observations."""

    class Zero(Truncating):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
            observation, _, *rest = super().step(action)
            return observation, 0.0, *rest  # type: ignore[return-value]

    agent = make(limits=(4,), policy_kwargs=VARIANTS[variant], gamma=0.9)
    env = DummyVecEnv([lambda: Zero(OBSERVATIONS["box"], ACTIONS["discrete"], 4)])
    agent.set_env(env)
    last: list[np.ndarray] = []
    step = env.step_wait

    def recorded() -> Any:
        result = step()
        last.extend(info["terminal_observation"] for info in result[3] if "terminal_observation" in info)
        return result

    env.step_wait = recorded  # type: ignore[method-assign]
    batch = batch_of(agent)
    observed = batch.observations.observations[:4]
    episode = torch.cat([observed, torch.as_tensor(last[0]).unsqueeze(0)])
    with torch.no_grad():
        values = agent.policy.predict_values(agent.policy.with_memory(episode, 5))
    rewards = agent.rollout_buffer.rewards.flatten()
    assert rewards[:3].tolist() == [0, 0, 0]
    assert rewards[3] == pytest.approx(0.9 * values[4].item(), rel=1e-5)


def test_minibatches_have_whole_sequences() -> None:
    """Every sequence once, as many as fit into a minibatch."""
    batch = batch_of(make().learn(24))
    torch.manual_seed(3)
    parts = shuffled(batch, 12)
    assert sorted(torch.cat(parts).tolist()) == list(range(24))
    for part in parts:
        lengths = batch.select(part).lengths
        assert sum(lengths) == len(part) <= 12
    joined = [len(a) + len(b) for a, b in itertools.pairwise(parts)]
    assert min(joined) > 8
    assert [len(part) for part in shuffled(batch, None)] == [24]


@pytest.mark.covering(1)
@pytest.mark.parametrize("critic_fit", ["minibatch", "lbfgs"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("agent_class", [VPG, NPG, TRPO])
def test_agents_learn(agent_class: type[PolicyGradientAgent], variant: str, critic_fit: str) -> None:
    """Policy and critic change; the critic's fit changes nothing that the actor depends on."""
    agent = make(agent_class, policy_kwargs=VARIANTS[variant], critic_fit=critic_fit)
    before = [p.detach().clone() for p in agent.policy.parameters()]
    agent.learn(48)
    changed = [not torch.equal(p, old) for p, old in zip(agent.policy.parameters(), before, strict=True)]
    assert all(changed)
    assert agent.outcomes["accepted"] + agent.outcomes["no_improvement"] == 2
    batch = batch_of(agent)
    old = agent.actor(batch.observations).log_prob(batch.actions)
    agent.make_critic().fit(batch)
    new = agent.actor(batch.observations).log_prob(batch.actions)
    torch.testing.assert_close(new, old, rtol=0, atol=0)


def test_every_kth_sequence() -> None:
    """Sub-sampling F takes whole sequences."""
    batch = batch_of(make())
    sequences = batch.observations
    assert batch.every(3).lengths == sequences.lengths[::3]
    make(sub_sampling_factor=3, micro_batch_size=5).learn(24)


def test_acktr_refuses() -> None:
    """With the reason, and what to use instead."""
    with pytest.raises(ValueError, match=r"no Kronecker factors for recurrent layers.*TRPO or NPG"):
        make(ACKTR)


def test_a_new_number_of_environments_starts_anew() -> None:
    """The states of other environments are not used."""
    agent = make().learn(24)
    agent.set_env(make().get_env())
    assert agent.learn(24, reset_num_timesteps=False).num_timesteps == 48


def test_predict_goes_on_from_the_state() -> None:
    """Step by step, with the states passed on and reset, it takes the actions of whole sequences."""
    agent = make(action="box")
    rng = np.random.default_rng(0)
    observations = rng.uniform(-1, 1, (6, 2, 3)).astype(np.float32)
    starts = np.array([[1, 1], [0, 0], [0, 1], [0, 0], [1, 0], [0, 0]], dtype=bool)
    found, state = [], None
    for observation, start in zip(observations, starts, strict=True):
        actions, state = agent.predict(observation, state, start, deterministic=True)
        found.append(actions)
    assert [part.shape for part in state] == [(1, 2, 4)] * 2
    given = torch.as_tensor(observations).transpose(0, 1).flatten(0, 1)
    sequences = Sequences.of_rollout(given, starts, agent.policy.zero_states(2))
    with torch.no_grad():
        expected = agent.policy.get_distribution(sequences).mode().view(2, 6, 2).transpose(0, 1)
    np.testing.assert_allclose(np.stack(found), expected.numpy().clip(-1, 1), atol=1e-6)
    alone, _ = agent.predict(observations[0, 0], deterministic=True)
    np.testing.assert_allclose(alone, found[0][0], atol=1e-6)


@pytest.mark.parametrize(
    "episode_start", [np.ones(3, bool), np.ones((2, 1), bool), np.array([0.5, 1]), np.array(["a", "b"]), True]
)
def test_wrong_episode_starts(episode_start: Any) -> None:
    """Wrong in number, shape or kind."""
    with pytest.raises(
        ValueError, match=r"episode_start must say for each of the 2 observations.*2 booleans"
    ):
        make().predict(np.zeros((2, 3), np.float32), None, episode_start)


@pytest.mark.parametrize("state", [(np.zeros((1, 2, 4)),), (np.zeros((1, 3, 4)),) * 2, np.zeros(3), 5])
def test_wrong_states(state: Any) -> None:
    """Of another number of environments, or of another kind of layer."""
    with pytest.raises(ValueError, match=r"state must be None or what the last predict returned, 2 arrays"):
        make().predict(np.zeros((2, 3), np.float32), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell": "rnn"}, "cell must be one of 'lstm', 'gru'"),
        ({"lstm_hidden_size": 0}, "lstm_hidden_size must be an integer ≥ 1, got 0"),
        ({"n_lstm_layers": 1.5}, "n_lstm_layers must be an integer ≥ 1, got 1.5"),
        ({"lstm_kwargs": {"bidirectional": True}}, "lstm_kwargs may have 'bias' and 'dropout', got 'bidire"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    """The message names the argument and what it may be."""
    with pytest.raises(ValueError, match=message):
        make(policy_kwargs=options)


@pytest.mark.parametrize(
    "options",
    [
        {"shared_lstm": True},
        {"shared_lstm": True, "enable_critic_lstm": False, "share_features_extractor": False},
    ],
)
def test_contradictory_arguments(options: dict[str, Any]) -> None:
    """They raise what sb3-contrib raises."""
    with pytest.raises(AssertionError, match="shared_lstm=True needs"):
        make(policy_kwargs=options)


def test_tensor_environments_step_through_the_host() -> None:
    """They have no rollout of tensors for a policy with memory."""
    agent = TRPO(
        "MlpLstmPolicy",
        TensorVecEnv(make_tensor_env("CartPole-v1", 3)),
        n_steps=8,
        batch_size=24,
        policy_kwargs=SMALL,
        seed=0,
    )
    agent.learn(48)
    assert not isinstance(agent.rollout_buffer, TensorRolloutBuffer)
    assert isinstance(batch_of(agent).observations, Sequences)
