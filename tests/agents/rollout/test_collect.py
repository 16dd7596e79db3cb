"""Collecting trajectories: advantages by hand, equality with SB3, bad numbers."""

import copy
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from episodes import Episodes
from spaces_env import ACTIONS, OBSERVATIONS, SpacesEnv, policy_for
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from agents import TRPO, NonFiniteError
from agents.policy.policies import MlpPolicy
from agents.rollout.action_sampler import MlpSampler, PolicySampler, make_sampler


class Nothing(BaseCallback):
    """A callback without an opinion."""

    def _on_step(self) -> bool:
        return True


def ready(agent: TRPO) -> BaseCallback:
    """Reset the agent's environments as learn() does, and return a callback."""
    _, callback = agent._setup_learn(10_000, Nothing())
    return callback


def constant_critic(agent: TRPO, value: float) -> None:
    """Make V(s) = value for every state."""
    with torch.no_grad():
        agent.policy.value_net.weight.zero_()
        agent.policy.value_net.bias.fill_(value)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        # gamma = 0.5, lambda = 0.5, V = 4 everywhere, rewards 1, 2.
        # Step 2 ends the episode. delta_2 = 2 - 4 = -2 where it terminates;
        # truncated, the value of the terminal observation comes on top: -2 + 0.5 * 4 = 0.
        # Step 1: delta_1 = 1 + 0.5 * 4 - 4 = -1; A_1 = delta_1 + 0.25 * A_2.
        ("terminated", [-1.5, -2.0]),
        ("truncated", [-1.0, 0.0]),
    ],
)
def test_advantages_by_hand(ends: str, expected: list[float]) -> None:
    """Truncation is bootstrapped with the terminal observation's value, termination is not."""
    env = DummyVecEnv([lambda: Episodes([1.0, 2.0], ends)])
    agent = TRPO("MlpPolicy", env, n_steps=4, batch_size=4, gamma=0.5, gae_lambda=0.5, device="cpu")
    if ends == "truncated":
        env.envs[0] = gym.wrappers.TimeLimit(Episodes([1.0, 2.0, 9.0]), 2)
    callback = ready(agent)
    constant_critic(agent, 4.0)
    agent.collect_rollouts(env, callback, agent.rollout_buffer, 4)
    advantages = agent.rollout_buffer.advantages.flatten()
    assert advantages == pytest.approx([*expected, *expected])
    assert agent.rollout_buffer.returns.flatten() == pytest.approx(advantages + 4)


def test_bootstrap_reads_the_terminal_observation_not_the_reset_one() -> None:
    """V(s) = s: the episode 0 -> 1 -> 2, cut there, is worth γ · 2 more, not γ · 0."""
    env = DummyVecEnv([lambda: gym.wrappers.TimeLimit(Episodes([0.0, 0.0, 0.0]), 2)])
    agent = TRPO("MlpPolicy", env, n_steps=2, batch_size=2, gamma=0.5, device="cpu")
    callback = ready(agent)
    agent.policy.predict_values = lambda observation: observation[:, :1]
    agent.collect_rollouts(env, callback, agent.rollout_buffer, 2)
    assert agent.rollout_buffer.rewards.flatten() == pytest.approx([0.0, 1.0])


class Reader(BaseCallback):
    """Keeps what SB3's rollout shows to callbacks at every step."""

    def __init__(self, names: list[str]):
        super().__init__()
        self.names = names
        self.seen: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        self.seen.append({name: self.locals[name].numpy().copy() for name in self.names})
        return True


def short(env: gym.Env) -> gym.Env:
    """Return the environment with episodes of seven steps, cut and not ended."""
    return gym.wrappers.TimeLimit(env, 7)


def collected(
    method: Callable, observation: str, action: str, reads: list[str], n_envs: int = 3, **policy_kwargs: Any
) -> tuple[RolloutBuffer, Reader]:
    """Return a rollout of 40 steps in environments that truncate and terminate, and what a callback saw."""
    spaces = OBSERVATIONS[observation], ACTIONS[action]
    for space in spaces:
        space.seed(0)
    env = DummyVecEnv(
        [lambda i=i: (short if i else lambda e: e)(SpacesEnv(*copy.deepcopy(spaces))) for i in range(n_envs)]
    )
    kwargs = {"net_arch": [8], **policy_kwargs}
    use_sde = kwargs.pop("use_sde", False)
    agent = TRPO(
        policy_for(spaces[0]), env, n_steps=40, seed=3, device="cpu", policy_kwargs=kwargs, use_sde=use_sde
    )
    _, callback = agent._setup_learn(1000, reader := Reader(reads))
    method(agent, agent.env, callback, agent.rollout_buffer, 40)
    return agent.rollout_buffer, reader


CASES = [
    *[(name, "box", {}) for name in OBSERVATIONS if name != "image_last"],
    *[("box", name, {}) for name in ACTIONS if name != "box"],
    ("box", "box", {"normalize_observations": True, "normalize_returns": True}),
    ("dict", "discrete", {"normalize_observations": True}),
    ("box", "box", {"use_sde": True}),
    ("box", "box", {"use_sde": True, "squash_output": True}),
]


@pytest.mark.covering(1)
@pytest.mark.filterwarnings("ignore:the last minibatch", "ignore:Provided features_extractor")
@pytest.mark.parametrize("reads", [[], ["values", "log_probs"]])
@pytest.mark.parametrize(("observation", "action", "kwargs"), CASES)
def test_collects_what_sb3_collects(observation: str, action: str, kwargs: dict, reads: list[str]) -> None:
    """Same seed, same buffer as SB3's own collect_rollouts to rounding; what is no sum, bitwise."""
    ours, seen = collected(TRPO.collect_rollouts, observation, action, reads, **kwargs)
    theirs, expected = collected(OnPolicyAlgorithm.collect_rollouts, observation, action, reads, **kwargs)
    assert theirs.full and ours.full
    assert ours.episode_starts.sum() > 3
    for name in ("observations", "actions", "episode_starts"):
        for one, other in zip(parts(getattr(ours, name)), parts(getattr(theirs, name)), strict=True):
            assert np.array_equal(one, other), name
    for name in ("rewards", "log_probs", "values", "advantages", "returns"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-5, abs=1e-5), name
    assert len(seen.seen) == len(expected.seen) == 40
    for one, other in zip(seen.seen, expected.seen, strict=True):
        for name in reads:
            assert one[name] == pytest.approx(other[name], rel=1e-5, abs=1e-5)


def parts(array: Any) -> list[np.ndarray]:
    """Return the arrays of a dictionary, or the one array."""
    return list(array.values()) if isinstance(array, dict) else [array]


@pytest.mark.parametrize("plain", [True, False])
def test_a_step_only_acts(plain: bool) -> None:
    """Nobody reads the values, so they are computed in two batches of 1024 states and one bootstrap.

    A plain MLP is not even asked for its actions' distribution again.
    """
    env = DummyVecEnv([lambda: short(SpacesEnv(OBSERVATIONS["box"], ACTIONS["box"]))] * 4)
    policy = MlpPolicy if plain else type("Own", (MlpPolicy,), {"get_distribution": own_distribution})
    agent = TRPO(policy, env, n_steps=512, device="cpu")
    callback = ready(agent)
    calls: dict[str, list[int]] = {"evaluate_actions": [], "predict_values": []}
    for name, rows in calls.items():
        method = getattr(agent.policy, name)

        def counted(obs: Any, *args: Any, method: Any = method, rows: list[int] = rows) -> Any:
            rows.append(len(obs))
            return method(obs, *args)

        setattr(agent.policy, name, counted)
    agent.collect_rollouts(env, callback, agent.rollout_buffer, 512)
    ends = [4 * (512 // 7), 4]
    assert calls["evaluate_actions"] == ([] if plain else [1024, 1024])
    assert calls["predict_values"] == ([1024, 1024, *ends] if plain else ends)


def own_distribution(policy: MlpPolicy, obs: Any) -> Any:
    """A distribution that a user overrides, if only to do the same."""
    return MlpPolicy.get_distribution(policy, obs)


@pytest.mark.parametrize(("action", "net_arch"), [("box", []), ("discrete", [8, 8]), ("box", [5])])
def test_a_plain_mlp_draws_the_policys_own_actions(action: str, net_arch: list[int]) -> None:
    """Bitwise, from the same random numbers; log-probabilities and values agree to rounding."""
    env = DummyVecEnv([lambda: SpacesEnv(OBSERVATIONS["box"], ACTIONS[action])])
    policy = TRPO(
        "MlpPolicy",
        env,
        n_steps=8,
        batch_size=8,
        device="cpu",
        policy_kwargs={"net_arch": net_arch, "normalize_observations": True, "normalize_returns": True},
    ).policy
    policy.observe(torch.randn(50, 3))
    plain, own = make_sampler(policy), PolicySampler(policy)
    assert isinstance(plain, MlpSampler)
    observations = torch.randn(9, 3)
    torch.manual_seed(1)
    actions, known = plain.sample(observations)
    torch.manual_seed(1)
    assert torch.equal(actions, own.sample(observations)[0])
    for ours, theirs in zip(
        plain.evaluate(observations, actions, known), own.evaluate(observations, actions, None), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def hooked(policy: MlpPolicy) -> None:
    """Read the output of a layer in a hook."""
    policy.action_net.register_forward_hook(lambda *_: None)


def weight_normed(policy: MlpPolicy) -> None:
    """Parametrise a layer."""
    torch.nn.utils.parametrizations.weight_norm(policy.action_net)


def dropped(policy: MlpPolicy) -> None:
    """Put in a layer that is not elementwise."""
    policy.mlp_extractor.policy_net.append(torch.nn.LayerNorm(64))


@pytest.mark.parametrize("change", [hooked, weight_normed, dropped])
def test_what_is_no_plain_mlp_is_asked_itself(change: Callable[[MlpPolicy], None]) -> None:
    """A hook is called, a parametrisation computed, an unknown layer run."""
    policy = TRPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu").policy
    assert isinstance(make_sampler(policy), MlpSampler)
    change(policy)
    assert isinstance(make_sampler(policy), PolicySampler)


def test_a_forward_of_its_own_is_called() -> None:
    """A policy that overrides forward chooses the actions, the values and the log-probabilities."""

    class Own(MlpPolicy):
        def forward(self, obs: Any, deterministic: bool = False) -> Any:
            n = len(obs)
            return torch.ones(n, dtype=torch.int64), torch.full((n, 1), 5.0), torch.full((n,), -6.0)

    agent = TRPO(Own, "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    agent.collect_rollouts(agent.env, ready(agent), agent.rollout_buffer, 8)
    buffer = agent.rollout_buffer
    assert (buffer.actions == 1).all() and (buffer.values == 5).all() and (buffer.log_probs == -6).all()


def test_an_environment_may_reuse_its_arrays() -> None:
    """What a VecEnv returned may be overwritten by its step after next, as SB3's own rollouts allow."""

    class Reusing(DummyVecEnv):
        def _obs_from_buf(self) -> Any:
            self.turn = not getattr(self, "turn", False)
            if not hasattr(self, "pair"):
                self.pair = [np.empty_like(self.buf_obs[None]) for _ in range(2)]
            self.pair[self.turn][:] = self.buf_obs[None]
            return self.pair[self.turn]

    buffers = []
    for kind in (Reusing, DummyVecEnv):
        agent = TRPO("MlpPolicy", kind([lambda: Episodes([1.0] * 5)]), n_steps=8, batch_size=8, seed=0)
        agent.collect_rollouts(agent.env, ready(agent), agent.rollout_buffer, 8)
        buffers.append(agent.rollout_buffer.observations)
    assert np.array_equal(*buffers)


def nan_observation() -> gym.Env:
    """An environment whose third observation is NaN."""
    return Episodes([0.0] * 5, observations=[0, 1, float("nan"), 3, 4, 5])


def infinite_reward() -> gym.Env:
    """An environment whose third reward is infinite."""
    return Episodes([0.0, 0.0, float("inf"), 0.0])


@pytest.mark.parametrize(
    ("broken", "what", "step"), [(nan_observation, "observation", 4), (infinite_reward, "reward", 6)]
)
def test_bad_number_stops_by_name(broken: Callable[[], gym.Env], what: str, step: int) -> None:
    """A NaN or infinity names the environment, its index and the step; no parameter has changed."""
    env = DummyVecEnv([lambda: Episodes([0.0] * 5), broken])
    agent = TRPO("MlpPolicy", env, n_steps=8, batch_size=16, device="cpu")
    before = copy.deepcopy(agent.policy.state_dict())
    with pytest.raises(NonFiniteError, match=rf"\(environment 1 of 2\).*{what} at step {step}"):
        agent.learn(100)
    after = agent.policy.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
def test_bad_terminal_observation_stops_by_name(ends: str) -> None:
    """The last observation of an episode, which the reset one replaces, is looked at too."""
    broken = Episodes([0.0, 0.0], ends, observations=[0, 1, float("nan")])
    env = DummyVecEnv([lambda: Episodes([0.0] * 5), lambda: broken])
    agent = TRPO("MlpPolicy", env, n_steps=8, batch_size=16, device="cpu")
    with pytest.raises(NonFiniteError, match=r"\(environment 1 of 2\).*observation at step 4"):
        agent.learn(100)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_bad_policy_stops_by_name(env_id: str, value: float) -> None:
    """A policy that puts out no distribution, or an action that clipping would hide, is named."""
    agent = TRPO("MlpPolicy", env_id, n_steps=8, batch_size=8, device="cpu")
    with torch.no_grad():
        agent.policy.action_net.bias.fill_(value)
    with pytest.raises(NonFiniteError, match=r"step 0.*(policy|parameters)"):
        agent.learn(8)


@pytest.mark.parametrize("norm_obs", [True, False])
def test_bad_number_does_not_poison_vec_normalize(norm_obs: bool) -> None:
    """The running statistics are restored to those of the start of the rollout."""
    env = VecNormalize(DummyVecEnv([nan_observation if norm_obs else infinite_reward]), norm_obs=norm_obs)
    agent = TRPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(NonFiniteError):
        agent.learn(100)
    assert not norm_obs or np.isfinite(env.obs_rms.mean).all()
    assert np.isfinite(env.ret_rms.var).all() and np.isfinite(env.returns).all()


def test_bad_action_stops_before_the_environment_sees_it() -> None:
    """An action that is not finite is never sent."""
    env = DummyVecEnv([lambda: Episodes([0.0] * 5, action_space=gym.spaces.Box(-1, 1, (1,), np.float32))])
    agent = TRPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu")
    callback = ready(agent)
    act = agent.policy.forward
    agent.policy.forward = lambda obs: (act(obs)[0] * float("nan"), *act(obs)[1:])
    env.step_async = lambda actions: pytest.fail("the environment was stepped")
    with pytest.raises(NonFiniteError, match="non-finite action at step 0"):
        agent.collect_rollouts(env, callback, agent.rollout_buffer, 8)


def test_callback_sees_sb3s_local_names() -> None:
    """SB3's callbacks read these names from the locals of the rollout."""
    seen: set[str] = set()

    class Spy(BaseCallback):
        def _on_step(self) -> bool:
            seen.update(self.locals)
            return True

    TRPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu").learn(8, Spy())
    expected = "new_obs rewards dones infos actions clipped_actions values log_probs n_steps callback env"
    assert set(expected.split()) <= seen


def test_callback_ends_training() -> None:
    """on_step returning False stops before the update."""

    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps < 5

    agent = TRPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu").learn(100, Stop())
    assert agent.num_timesteps == 5
    assert agent._n_updates == 0
