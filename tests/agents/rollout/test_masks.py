"""Rollouts and updates with masks: what is stored, that all parts agree, and every vector environment."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from masked_env import SPACES, Dictionary, MaskedEnv
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecNormalize
from tensor_task import RandomTask

from agents import ACKTR, NPG, TRPO, VPG, Batch
from agents.policy.masks import MaskError
from agents.policy.policies import MlpPolicy
from agents.rollout.action_sampler import MlpSampler, PolicySampler, make_sampler
from agents.rollout.masks import has_masks, masks_of
from agents.rollout.tensor_buffer import TensorRolloutBuffer
from envs import GymnasiumVecEnv, TensorVecEnv, make_vec_env
from envs.vector.vec_env_task import VecEnvTask
from envs.workers.worker_vec_env import WorkerVecEnv
from npg import SurrogateObjective

SMALL: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "seed": 0, "device": "cpu"}
OTHERS = [pytest.param(other, marks=pytest.mark.slow) for other in (VPG, NPG, ACKTR)]
every_agent = pytest.mark.parametrize("agent_class", [TRPO, *OTHERS])


class Watch(BaseCallback):
    """Keeps the masks that callbacks see, and the actions."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []

    def _on_step(self) -> bool:
        self.masks.append(self.locals["action_masks"])
        self.actions.append(self.locals["actions"])
        return True


def vec_env(space: spaces.Space | None = None, n: int = 2) -> DummyVecEnv:
    """Return masked environments."""
    return DummyVecEnv([partial(MaskedEnv, space)] * n)


class OwnForward(MlpPolicy):
    """A policy whose forward has to be called, since it is not SB3's."""

    def forward(self, obs: Any, deterministic: bool = False, action_masks: Any = None) -> Any:
        """Sample as usual."""
        return super().forward(obs, deterministic, action_masks)


@pytest.mark.parametrize("policy", [MlpPolicy, pytest.param(OwnForward, marks=pytest.mark.slow)])
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
@every_agent
def test_the_update_uses_the_stored_masks(
    agent_class: Any, space: spaces.Space, policy: type[MlpPolicy]
) -> None:
    """Every ratio is 1 and the KL is 0 at the start of an update, and forbidden actions are never taken."""
    agent, watch = agent_class(policy, vec_env(space), **SMALL), Watch()
    assert agent.masked
    agent.learn(64, watch)
    assert sum(agent.outcomes.values()) == 2
    _, callback = agent._setup_learn(32, Watch())
    assert agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, 16)
    batch = Batch.from_buffer(agent.rollout_buffer, space)
    assert np.array_equal(batch.action_masks.numpy(), np.stack(callback.masks).swapaxes(0, 1).reshape(32, -1))
    assert 0.2 < batch.action_masks.float().mean() < 0.9
    policies = agent.actor(batch.inputs)
    torch.testing.assert_close(policies.log_prob(batch.actions), batch.old_log_prob, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"use batch\.inputs instead"):
        agent.actor(batch.observations)
    objective = SurrogateObjective(
        agent.actor, batch.inputs, batch.actions, batch.advantages, old_log_prob=batch.old_log_prob
    )
    assert objective.evaluate(torch.zeros(objective.parameters.size)).kl == 0


def test_the_two_ways_to_sample_agree() -> None:
    """The fast path of a plain MLP draws the actions that the policy's own methods draw."""
    agent = TRPO("MlpPolicy", vec_env(), **SMALL)
    observations = torch.rand(50, 5)
    masks = torch.rand(50, 5) < 0.5
    masks[:, 2] = True
    fast = make_sampler(agent.policy)
    assert isinstance(fast, MlpSampler)
    slow = PolicySampler(agent.policy)
    drawn = []
    for sampler in (fast, slow):
        torch.manual_seed(3)
        actions, parameters = sampler.sample((observations, masks))
        drawn.append((actions, *sampler.evaluate((observations, masks), actions, parameters)))
    assert bool(masks.gather(1, drawn[0][0].unsqueeze(1)).all())
    for one, other in zip(*drawn, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


class NoMasks(gym.Wrapper):
    """Hides the method of the environment."""

    def get_wrapper_attr(self, name: str) -> Any:
        """Return any other attribute."""
        if name == "action_masks":
            raise AttributeError(name)
        return super().get_wrapper_attr(name)


@every_agent
def test_masks_that_allow_everything_change_no_bit(agent_class: Any) -> None:
    """Training with them is training without them."""
    weights = []
    for wrap in (lambda env: env, NoMasks):
        env = DummyVecEnv([lambda wrap=wrap: wrap(MaskedEnv(allowed=1.0))] * 2)
        agent = agent_class("MlpPolicy", env, **SMALL).learn(64)
        assert agent.masked is (wrap is not NoMasks)
        weights.append([p.detach().clone() for p in agent.policy.parameters()])
    assert all(torch.allclose(a, b, rtol=0, atol=2e-6) for a, b in zip(*weights, strict=True))


@pytest.mark.slow
def test_forbidden_outputs_have_no_effect() -> None:
    """Biases of actions that are always forbidden stay as they are, and change nothing."""

    class Half(MaskedEnv):
        def _draw(self) -> None:
            super()._draw()
            self.target %= 2
            self.mask[:2], self.mask[2:] = True, False

    weights = []
    for bias in (0.0, 50.0):
        agent = TRPO("MlpPolicy", DummyVecEnv([Half] * 2), **SMALL)
        with torch.no_grad():
            agent.policy.action_net.bias[2:] = bias
        agent.learn(64)
        assert bool((agent.policy.action_net.bias[2:] == bias).all())
        weights.append(agent.policy.action_net.weight[:2].detach().clone())
    assert torch.equal(*weights)


def test_masks_of_shifted_spaces_count_from_zero() -> None:
    """Entry i is for the action start + i, in rollouts and in predict."""
    for space, entry, action in (
        (spaces.Discrete(4, start=7), [0, 0, 1, 0], 9),
        (spaces.MultiDiscrete([2, 3], start=[5, -1]), [0, 1, 1, 0, 0], [6, -1]),
    ):
        agent = TRPO("MlpPolicy", vec_env(space), **SMALL).learn(32)
        assert agent.masked
        found, _ = agent.predict(np.zeros(len(entry), np.float32), action_masks=entry)
        assert np.array_equal(found, action)


def test_masks_can_be_ignored() -> None:
    """use_masking=False trains as without them; here the environment complains."""
    agent = TRPO("MlpPolicy", vec_env(), use_masking=False, **SMALL)
    assert not agent.masked
    with pytest.raises(AssertionError, match="is forbidden"):
        agent.learn(64)
    with pytest.raises(ValueError, match="use_masking must be true or false"):
        TRPO("MlpPolicy", vec_env(), use_masking=1, **SMALL)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros(5, bool), "at step 6: the mask allows no action"),
        (np.ones(4, bool), r"at step 6: Discrete\(5\) needs masks of shape \(1, 5\).*got \(4,\)"),
        (np.full(5, 0.5), "at step 6: a mask has True or 1"),
        (None, r"at step 6: Discrete\(5\) needs masks of shape"),
    ],
)
def test_a_wrong_mask_names_environment_and_step(mask: Any, message: str) -> None:
    """The second of two environments gives it after three steps."""

    class Broken(MaskedEnv):
        spec = EnvSpec("Broken-v0")

        def action_masks(self) -> Any:
            return mask if self.step_count == 3 else self.mask

    env = DummyVecEnv([MaskedEnv, Broken])
    agent = TRPO("MlpPolicy", env, **SMALL)
    before = [p.detach().clone() for p in agent.policy.parameters()]
    with pytest.raises(MaskError, match=rf"Broken-v0 \(environment 1 of 2\) {message}"):
        agent.learn(64)
    assert all(map(torch.equal, before, agent.policy.parameters()))


def test_continuous_actions_with_masks_are_rejected() -> None:
    """Their environment may have the method, but no mask fits."""

    class Continuous(MaskedEnv):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = spaces.Box(-1, 1, (2,))

    with pytest.raises(MaskError, match="not for Box"):
        TRPO("MlpPolicy", DummyVecEnv([Continuous]), **SMALL)


class Locked(MaskedEnv):
    """The task with an attribute that cannot be sent to another process."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


VECTORS: dict[str, Callable[[int], VecEnv]] = {
    "dummy": lambda n: DummyVecEnv([Locked] * n),
    "normalised": lambda n: VecNormalize(DummyVecEnv([Locked] * n), norm_obs=False, norm_reward=False),
    "workers": lambda n: WorkerVecEnv([Locked] * n, n_workers=2),
    "gymnasium": lambda n: GymnasiumVecEnv(gym.vector.SyncVectorEnv([Locked] * n)),
    "asynchronous": lambda n: GymnasiumVecEnv(gym.vector.AsyncVectorEnv([Locked] * n, context="fork")),
    "subproc": lambda n: SubprocVecEnv([Locked] * n, start_method="fork"),
}


@pytest.mark.parametrize(
    "names",
    [
        ("normalised", "gymnasium"),
        pytest.param(("workers", "subproc", "asynchronous"), marks=pytest.mark.slow),
    ],
    ids=["here", "processes"],
)
def test_every_vector_environment_gives_the_same_bits(names: tuple[str, ...]) -> None:
    """In this process, in workers, in Gymnasium's vectors, and inside wrappers."""
    weights = {}
    for name in ("dummy", *names):
        env = VECTORS[name](2)
        try:
            assert has_masks(env)
            agent = TRPO("MlpPolicy", env, **SMALL).learn(64)
            assert agent.masked
            weights[name] = torch.cat([p.detach().flatten() for p in agent.policy.parameters()])
        finally:
            env.close()
    assert all(torch.equal(each, weights["dummy"]) for each in weights.values()), weights


PLAIN = partial(gym.make, "CartPole-v1")


@pytest.mark.parametrize(
    "make",
    [
        lambda: VecNormalize(DummyVecEnv([PLAIN])),
        lambda: GymnasiumVecEnv(gym.vector.SyncVectorEnv([PLAIN])),
        lambda: make_vec_env("CartPole-v1", vec_env="tensor", env_kwargs={"device": "cpu"}),
        *(
            pytest.param(make, marks=pytest.mark.slow)
            for make in (
                lambda: WorkerVecEnv([PLAIN], n_workers=1),
                lambda: GymnasiumVecEnv(gym.vector.AsyncVectorEnv([PLAIN], context="fork")),
            )
        ),
    ],
)
def test_without_the_method_there_are_no_masks(make: Callable[[], VecEnv]) -> None:
    """In every vector environment; asking breaks none of them."""
    env = make()
    env.reset()
    assert not has_masks(env)
    env.step(np.zeros(env.num_envs, dtype=int))
    env.close()


def test_an_environment_that_cannot_be_asked_has_no_masks() -> None:
    """A user's own vector environment may have no single environments."""

    class Own(DummyVecEnv):
        def has_attr(self, attr_name: str) -> bool:
            raise NotImplementedError

    assert not TRPO("MlpPolicy", Own([MaskedEnv]), **SMALL).masked


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["MlpPolicy", "MultiInputPolicy"])
def test_normalised_and_stacked_observations(policy: str) -> None:
    """Masks are those of the environments, whatever happens to observations."""
    make = MaskedEnv if policy == "MlpPolicy" else lambda: Dictionary(MaskedEnv())
    env = VecNormalize(VecFrameStack(DummyVecEnv([make] * 2), 3))
    agent = TRPO(policy, env, **SMALL).learn(64)
    assert agent.masked and agent.outcomes["accepted"] == 2


class Images(gym.ObservationWrapper):
    """Give the target as an image."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Return vertical stripes."""
        return np.resize(np.repeat(observation * 255, 7), (36, 36, 1)).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_images(shared: bool) -> None:
    """With and without shared features, ACKTR's convolutions too."""
    kwargs = {
        "share_features_extractor": shared,
        "features_extractor_kwargs": {"features_dim": 8},
        "normalize_images": True,
    }
    for agent_class in (TRPO, ACKTR):
        env = DummyVecEnv([lambda: Images(MaskedEnv())])
        agent = agent_class("CnnPolicy", env, policy_kwargs=kwargs, **SMALL).learn(32)
        assert agent.masked and agent.outcomes["accepted"] == 2


@pytest.mark.slow
def test_the_critic_and_the_buffer_are_sb3s() -> None:
    """A buffer class of one's own is filled, and keeps the masks as an attribute."""

    class Own(RolloutBuffer):
        pass

    agent = TRPO("MlpPolicy", vec_env(), rollout_buffer_class=Own, **SMALL).learn(32)
    assert type(agent.rollout_buffer) is Own
    assert agent.rollout_buffer.action_masks.shape == (32, 5)
    agent.use_masking = False
    agent.set_env(DummyVecEnv([lambda: NoMasks(MaskedEnv(allowed=1.0))] * 2))
    assert not agent.masked
    agent.learn(32)
    assert agent.rollout_buffer.action_masks is None


@pytest.mark.parametrize(
    "options",
    [
        {"sub_sampling_factor": 2},
        pytest.param({"micro_batch_size": 5}, marks=pytest.mark.slow),
        pytest.param({"fisher": "finite_difference"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_fisher_matrices_of_some_or_all_states(options: dict[str, Any]) -> None:
    """Every second state with its own mask, or parts of the states."""
    agent = TRPO("MlpPolicy", vec_env(), **options, **SMALL).learn(32)
    assert agent.outcomes["accepted"] == 1


def test_present_masks() -> None:
    """As arrays of bool, one row per environment."""
    env = vec_env(n=3)
    env.reset()
    masks = masks_of(env, env.action_space)
    assert masks.dtype == bool and np.array_equal(masks, np.stack([e.mask for e in env.envs]))


class MaskedTask(RandomTask):
    """A task on tensors that forbids the actions whose observation is negative; never the last one."""

    def action_masks(self) -> torch.Tensor:
        """Return the masks, (N, 3)."""
        masks = self.state > 0
        masks[:, -1] = True
        return masks

    def step(self, actions: torch.Tensor) -> Any:
        """Check the actions."""
        assert bool(self.action_masks().gather(1, actions.unsqueeze(1)).all())
        return super().step(actions)


def test_tensor_environments_are_stepped_through_the_host() -> None:
    """With masks; without them, or if they are ignored, rollouts are tensors as before."""
    for task, options, kind in (
        (MaskedTask, {}, RolloutBuffer),
        (MaskedTask, {"use_masking": False}, TensorRolloutBuffer),
        (RandomTask, {}, TensorRolloutBuffer),
    ):
        env = TensorVecEnv(task(4, spaces.Discrete(3), seed=0))
        agent = TRPO("MlpPolicy", env, **options, **SMALL)
        assert type(agent.rollout_buffer) is kind
        if options:
            with pytest.raises(AssertionError):
                agent.learn(64)
        else:
            assert agent.learn(64).outcomes["accepted"] == 1
    single = VecEnvTask(TensorVecEnv(MaskedTask(1, spaces.Discrete(3), seed=0)))
    assert single.has_wrapper_attr("action_masks") and single.action_masks().shape == (3,)
    assert not VecEnvTask(TensorVecEnv(RandomTask(1, spaces.Discrete(3)))).has_wrapper_attr("action_masks")
