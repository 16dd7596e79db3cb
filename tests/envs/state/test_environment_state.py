"""The state of one environment: what goes on from it equals what was never interrupted, to the bit."""

import json
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces, wrappers
from gymnasium.envs.classic_control import CartPoleEnv
from stable_baselines3.common.monitor import Monitor

import envs  # noqa: F401 - registers the small tasks
from envs.checked_env import CheckedEnv
from envs.state.environment_state import StateUnavailableError, restore_state, take_state
from envs.state.plain_data import convert_tags, copy_plain
from experiments.run.plain_data import from_bytes, to_bytes

CLASSIC = ["Acrobot-v1", "CartPole-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1"]
OURS = ["CartPoleHiddenVelocity-v0", "Catch-v0", "GaussianBandit-v0", "LinearQuadratic-v0"]
OURS += ["TwoStateChain-v0", "ConstrainedLinearQuadratic-v0", "PointHazard-v0"]
ROBOTS = ["Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum"]
ROBOTS += ["InvertedPendulum", "Pusher", "Reacher", "Swimmer", "Walker2d"]
TASKS = [
    *CLASSIC,
    *OURS,
    *(pytest.param(f"{robot}-v5", marks=pytest.mark.mujoco) for robot in ROBOTS),
    *(
        pytest.param(task, marks=[pytest.mark.mujoco, pytest.mark.filterwarnings("ignore:.*out of date")])
        for task in ("Ant-v4", "Humanoid-v4", "Reacher-v4")
    ),
]
LIMIT = 20


def bits(value: Any) -> Any:
    """Return a value such that == compares types, shapes and bits."""
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [bits(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return type(value), value.dtype, value.shape, value.tobytes()
    return type(value), repr(value)


def through_file(state: Any) -> Any:
    """Return what a checkpoint file gives back."""
    return from_bytes(to_bytes(state))


def advance(env: gym.Env, actions: list[Any]) -> list[Any]:
    """Return what the steps give, and the resets after the ends of episodes."""
    seen = []
    for action in actions:
        *result, info = env.step(action)
        info.get("episode", {}).pop("t", None)
        seen.append(deepcopy((*result, info)))  # views of the simulation, before Gymnasium 1.4
        if result[2] or result[3]:
            seen.append(deepcopy(env.reset()))
    return seen


def actions_for(env: gym.Env, n: int) -> list[Any]:
    """Return actions to take; the environment's own space keeps out of it."""
    space = spaces.Discrete(env.action_space.n) if hasattr(env.action_space, "n") else None
    space = space or spaces.Box(env.action_space.low, env.action_space.high, dtype=env.action_space.dtype)
    space.seed(7)
    return [space.sample() for _ in range(n)]


def make(task: str, **kwargs: Any) -> gym.Env:
    """Return a task with a short time limit, counted by SB3."""
    return Monitor(gym.make(task, max_episode_steps=LIMIT, **kwargs))


@pytest.mark.parametrize("task", TASKS)
def test_continues_to_the_same_bits(task: str) -> None:
    """From a reset, mid-episode, just before and at a truncation, past further ends, to equal states."""
    env = make(task)
    env.reset(seed=3)
    env.action_space.seed(4)
    actions = actions_for(env, 3 * LIMIT)
    states = {}
    seen: dict[int, list[Any]] = {}
    for start in range(3 * LIMIT):
        if start in (0, 1, 7, LIMIT - 1, LIMIT, LIMIT + 3):
            states[start] = through_file(take_state(env))
        seen[start] = advance(env, [actions[start]])
    for start, state in states.items():
        other = make(task)
        other.reset(seed=99)
        advance(other, actions[:2])
        restore_state(other, state)
        for step in range(start, 3 * LIMIT):
            assert bits(advance(other, [actions[step]])) == bits(seen[step]), f"step {step} from {start}"
        assert bits(take_state(other)) == bits(take_state(env))


@pytest.mark.parametrize("task", TASKS)
def test_leaves_out_nothing_that_an_episode_changes(task: str) -> None:
    """Every attribute of every layer that steps and resets write is in the state, or known not to matter."""
    others = {"_np_random", "_np_random_seed"}  # kept beside the attributes
    others |= {"data", "model", "mujoco_renderer"}  # the simulation, kept as physics
    others |= {"env", "_cached_spec", "_action_space", "_observation_space"}
    others |= {"episode_returns", "episode_lengths", "episode_times", "_previous_data"}  # see restore_state
    env = make(task)

    def values() -> list[dict[str, str]]:
        layer, found = env, []
        while True:
            found.append({name: repr(value) for name, value in vars(layer).items() if name not in others})
            if not isinstance(layer, gym.Wrapper):
                return found
            layer = layer.env

    before = values()
    env.reset(seed=0)
    advance(env, actions_for(env, 2 * LIMIT + 3))
    kept = [layer["attributes"] for layer in take_state(env)["layers"]]
    for old, new, names in zip(before, values(), kept, strict=True):
        assert {name for name in new if new[name] != old.get(name)} <= set(names)


def test_is_plain_finite_and_fits_json() -> None:
    """Strings, finite numbers and arrays, bools and None, in dicts with str keys, lists and tuples."""
    env = make("Pendulum-v1")
    env.reset(seed=0)
    advance(env, actions_for(env, LIMIT + 2))

    def to_json(value: Any) -> Any:
        assert isinstance(value, np.ndarray | np.generic) and np.isfinite(value).all()
        return value.tolist()

    text = json.dumps(take_state(env), default=to_json, allow_nan=False)
    assert json.loads(text)["layers"][-1]["class"].endswith("PendulumEnv")


def test_is_a_snapshot_that_can_be_restored_again() -> None:
    """Neither the environment's steps nor a restored one's change it."""
    env = make("LinearQuadratic-v0")
    env.reset(seed=0)
    state = take_state(env)
    before = bits(state)
    actions = actions_for(env, 30)
    seen = bits(advance(env, actions))
    for _ in range(2):
        restore_state(env, state)
        assert bits(advance(env, actions)) == seen
    assert bits(state) == before


def test_equal_runs_have_equal_states() -> None:
    """No time of day is in it."""
    states = []
    for _ in range(2):
        env = make("CartPole-v1")
        env.reset(seed=0)
        advance(env, actions_for(env, 50))
        states.append(bits(take_state(env)))
    assert states[0] == states[1]


def test_before_the_first_reset() -> None:
    """A restored environment still wants its reset, and then draws as an unseeded one would have."""
    env, other = make("Pendulum-v1"), make("Pendulum-v1")
    _ = env.unwrapped.np_random
    restore_state(other, through_file(take_state(env)))
    with pytest.raises(RuntimeError, match="needs reset"):
        other.step(np.zeros(1, np.float32))
    assert bits(env.reset()) == bits(other.reset())


def test_the_passive_checker_continues_after_a_reset() -> None:
    """Its first step after a restored reset compares with data that is not there, and does not mind."""
    env = gym.make("CartPole-v1")
    env.reset(seed=0)
    other = gym.make("CartPole-v1")
    restore_state(other, take_state(env))
    assert bits(other.step(1)) == bits(env.step(1))


def normalised(env: gym.Env) -> gym.Env:
    """Return an environment in many of Gymnasium's wrappers."""
    env = wrappers.ClipAction(wrappers.RescaleAction(env, -1, 1))
    env = wrappers.TimeAwareObservation(wrappers.FlattenObservation(env))
    env = wrappers.NormalizeReward(wrappers.NormalizeObservation(env))
    return Monitor(wrappers.TransformReward(env, lambda reward: 2 * reward))


def test_wrappers_keep_their_moments_and_times() -> None:
    """Normalisation and time-aware observations go on to the same bits."""
    env, other = (normalised(gym.make("Pendulum-v1", max_episode_steps=LIMIT)) for _ in range(2))
    env.reset(seed=0)
    actions = list(np.random.default_rng(0).normal(size=(70, 1)).astype(np.float32))
    advance(env, actions[:27])
    restore_state(other, through_file(take_state(env)))
    assert bits(advance(other, actions[27:])) == bits(advance(env, actions[27:]))


class Walk(gym.Env):
    """A random walk on a dict, which tells its state itself; its action space draws too."""

    def __init__(self) -> None:
        self.observation_space = spaces.Dict({"place": spaces.Box(-9, 9, (2,)), "coin": spaces.Discrete(9)})
        self.action_space = spaces.Discrete(2)
        self.place = (np.float32(0), 0.0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Stay, and make a new generator of another kind."""
        super().reset(seed=seed)
        if seed is not None:
            self.np_random = np.random.Generator(np.random.Philox(seed))
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        """Walk."""
        self.place = (self.place[0] + np.float32(self.np_random.normal()), self.place[1] + 0.1)
        return self.observation_space.sample(), float(self.place[0] * self.place[1]), False, False, {}

    def get_state(self) -> Any:
        """Tell the place."""
        return {"place": self.place}

    def set_state(self, state: Any) -> None:
        """Go there, carelessly drawing on the way."""
        self.reset()
        self.np_random.normal()
        self.place = state["place"]


class Momentum(gym.Wrapper):
    """Adds up rewards, and tells so."""

    total = 0.0

    def step(self, action: Any) -> Any:
        """Add."""
        observation, reward, *rest = self.env.step(action)
        self.total += reward
        return observation, self.total, *rest

    def get_state(self) -> Any:
        """Tell the sum."""
        return self.total

    def set_state(self, state: Any) -> None:
        """Set the sum."""
        self.total = state


def test_classes_may_tell_their_state_themselves() -> None:
    """By get_state and set_state, with tuples and NumPy's scalars; all generators are cared for."""
    env, other = (wrappers.TimeLimit(Momentum(Walk()), LIMIT) for _ in range(2))
    env.reset(seed=5)
    env.action_space.seed(6)
    advance(env, [0] * 7)
    restore_state(other, through_file(take_state(env)))
    assert bits(advance(other, [0] * 50)) == bits(advance(env, [0] * 50))
    samples = [[each.action_space.sample() for _ in range(30)] for each in (env, other)]
    assert samples[0] == samples[1]


class Difference(gym.ObservationWrapper):
    """Shows how much the last two observations differ, with an attribute that a step makes."""

    def __init__(self, env: gym.Env, scale: float = 2.0):
        super().__init__(env)
        self.scale = scale

    def observation(self, observation: Any) -> Any:
        """Compare."""
        before = getattr(self, "before", np.zeros_like(observation))
        self.before = np.array(observation)
        return self.scale * (observation - before)


def test_wrappers_that_convert_need_no_methods() -> None:
    """Their attributes are their state, even those that the new wrapper does not have yet."""
    env, other = (Difference(gym.make("CartPole-v1")) for _ in range(2))
    env.reset(seed=5)
    advance(env, [0] * 7)
    state = through_file(take_state(env))
    restore_state(other, state)
    assert bits(advance(other, [0] * 50)) == bits(advance(env, [0] * 50))
    state["layers"][0]["attributes"]["observation"] = 1.0
    with pytest.raises(ValueError, match="expected attributes"):
        restore_state(other, state)
    env.before = object()
    with pytest.raises(StateUnavailableError, match="Difference is not plain data"):
        take_state(env)


def test_unknown_classes_are_rejected_by_name() -> None:
    """Environments, subclasses of known ones, and wrappers; none is taken for stateless."""

    class Slippery(CartPoleEnv):
        pass

    class Silent(gym.Wrapper):
        pass

    cartpole = gym.make("CartPole-v1")
    for env, name in (
        (gym.make("CliffWalking-v1"), "CliffWalkingEnv"),
        (Slippery(), "Slippery"),
        (wrappers.TimeLimit(Silent(cartpole), 5), "Silent"),
        (wrappers.RecordEpisodeStatistics(cartpole), "RecordEpisodeStatistics"),
        (wrappers.FrameStackObservation(cartpole, 2), "FrameStackObservation"),
    ):
        with pytest.raises(StateUnavailableError, match=rf"{name}.*get_state\(\) and set_state\(state\)"):
            take_state(env)


@pytest.mark.mujoco
def test_a_mujoco_subclass_has_another_set_state() -> None:
    """Gymnasium's set_state(qpos, qvel) is not taken for ours, even where a get_state comes beside it."""
    from gymnasium.envs.mujoco.hopper_v5 import HopperEnv

    class Hopper(HopperEnv):
        def get_state(self) -> Any:
            return self.data.qpos.copy()

    with pytest.raises(StateUnavailableError, match="Hopper"):
        take_state(Hopper())


def test_what_is_not_plain_is_rejected_with_its_place(tmp_path: Any) -> None:
    """An object in a state, a legacy generator, and a file that a state cannot rewind."""

    class Odd(Walk):
        def get_state(self) -> Any:
            return {"walk": [1, object()]}

    with pytest.raises(StateUnavailableError, match=r"Odd.*get_state\(\)\['walk'\]\[1\].*object"):
        take_state(Odd())
    legacy = Walk()
    legacy._np_random = np.random.RandomState(0)
    with pytest.raises(StateUnavailableError, match=r"Walk.*numpy.random.Generator"):
        take_state(legacy)
    with (
        Monitor(CartPoleEnv(), str(tmp_path / "log")) as monitor,
        pytest.raises(StateUnavailableError, match=r"log\.monitor\.csv.*filename=None"),
    ):
        take_state(monitor)


def test_a_state_of_another_build_is_rejected() -> None:
    """Other wrappers, another task, attributes that are not the class's own."""
    env = gym.make("CartPole-v1")
    env.reset(seed=0)
    state = take_state(env)
    with pytest.raises(ValueError, match=r"TimeLimit.*PendulumEnv, got.*CartPoleEnv"):
        restore_state(gym.make("Pendulum-v1"), state)
    with pytest.raises(ValueError, match="expected a state of"):
        restore_state(gym.make("CartPole-v1", disable_env_checker=True), state)
    state["layers"][-1]["attributes"]["step"] = 0
    with pytest.raises(ValueError, match="'step'"):
        restore_state(gym.make("CartPole-v1"), state)


@pytest.mark.mujoco
def test_physics_of_another_model_is_rejected() -> None:
    """Sizes are checked before MuJoCo sees a number, and names are MuJoCo's own."""
    env = gym.make("Hopper-v5")
    env.reset(seed=0)
    for change in (
        lambda physics: physics.update(integration=physics["integration"][1:]),
        lambda physics: physics["derived"].update(xpos=np.zeros((99, 3))),
        lambda physics: physics["derived"].update(model=np.zeros(1)),
        lambda physics: physics["derived"].pop("cvel"),
    ):
        state = take_state(env)
        change(state["layers"][-1]["physics"])
        with pytest.raises(ValueError, match="numbers of physics"):
            restore_state(env, state)


@pytest.mark.mujoco
def test_physics_is_kept_as_the_last_substep_left_it() -> None:
    """Positions in the world lag behind the joints by a substep; MuJoCo's forward would move them on."""
    import mujoco

    env, other = gym.make("Ant-v5"), gym.make("Ant-v5")
    env.reset(seed=0)
    advance(env, actions_for(env, 5))
    restore_state(other, through_file(take_state(env)))
    left = env.unwrapped.data.xpos.copy()
    assert np.array_equal(other.unwrapped.data.xpos, left)
    mujoco.mj_forward(env.unwrapped.model, env.unwrapped.data)
    assert not np.array_equal(env.unwrapped.data.xpos, left)


@pytest.mark.mujoco
def test_physics_with_sleeping_bodies_is_rejected() -> None:
    """MuJoCo's integration state does not tell who sleeps."""
    mujoco = pytest.importorskip("mujoco")
    if not hasattr(mujoco.mjtEnableBit, "mjENBL_SLEEP"):
        pytest.skip("this MuJoCo lets none sleep")
    env = gym.make("Hopper-v5")
    env.unwrapped.model.opt.enableflags |= int(mujoco.mjtEnableBit.mjENBL_SLEEP)
    with pytest.raises(StateUnavailableError, match="sleep"):
        take_state(env)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        2**127 + 1,
        0.1,
        "text",
        np.float32(0.1),
        np.int64(3),
        np.bool(True),
        np.array(1.5),
        np.arange(6, dtype=np.uint32).reshape(2, 3)[:, ::2],
        (1, (np.float32(2), [3.0, {"a": (), "b": {}}])),
    ],
)
def test_plain_data_keeps_types_and_bits(value: Any) -> None:
    """Scalars of NumPy, tuples, views and large integers come back from a file as they were."""
    assert bits(copy_plain(through_file(copy_plain(value)))) == bits(value)


@pytest.mark.parametrize("value", [{1: 2}, {"(tuple)": []}, np.array(["a"]), np.array([None]), {1}, 1j])
def test_plain_data_rejects_the_rest(value: Any) -> None:
    """Objects, texts in arrays, other keys, and keys that stand for something else."""
    with pytest.raises(TypeError, match="expected x to be plain data"):
        copy_plain(value, "x")


def test_states_of_version_0_1_are_converted() -> None:
    """It stored tuples and NumPy scalars as dicts with one reserved key, at any depth."""
    old = {
        "a": [{"(tuple)": [1, {"(scalar)": np.array(0.1, np.float32)}]}, np.arange(2)],
        "b": {"(tuple)": []},
    }
    new = {"a": [(1, np.float32(0.1)), np.arange(2)], "b": ()}
    assert bits(convert_tags(old)) == bits(new)
    assert bits(convert_tags(new)) == bits(new)


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_every_generator_of_numpy_continues(kind: str) -> None:
    """Into an environment with another kind, and in place where the kind is the same."""
    env, other = Walk(), Walk()
    env.np_random = np.random.Generator(getattr(np.random, kind)(3))
    env.np_random.integers(9, dtype=np.uint8, size=3)
    state = through_file(take_state(env))
    expected = bits(env.np_random.normal(size=5))
    for _ in range(2):
        restore_state(other, state)
        held = other.np_random
        assert bits(held.normal(size=5)) == expected
        restore_state(other, state)
        assert other.np_random is held


@pytest.mark.parametrize("steps", [60, 3000])
def test_the_size_does_not_grow_with_the_number_of_episodes(steps: int) -> None:
    """Monitor's lists of all returns are left out; the counts of the current episode are not."""
    env = make("GaussianBandit-v0")
    env.reset(seed=0)
    before = len(to_bytes(take_state(env)))
    advance(env, [env.action_space.sample()] * steps)
    assert len(env.get_episode_rewards()) >= steps // LIMIT
    assert abs(len(to_bytes(take_state(env))) - before) < 300
    restore_state(env, take_state(env))
    assert env.get_episode_rewards() == env.get_episode_lengths() == env.get_episode_times() == []
    assert env.total_steps == steps


def test_a_state_with_the_lists_of_version_0_1_is_restored() -> None:
    """Without them."""
    env = make("TwoStateChain-v0")
    env.reset(seed=0)
    advance(env, [0] * (LIMIT + 3))
    state = take_state(env)
    state["layers"][0]["attributes"] |= {"episode_returns": [1.0], "episode_lengths": [LIMIT]}
    other = make("TwoStateChain-v0")
    restore_state(other, state)
    assert bits(advance(other, [0, 1])) == bits(advance(env, [0, 1]))


def test_checks_around_an_environment_are_no_layer_of_its_state() -> None:
    """A state taken without them is restored with them, and vice versa."""
    plain, checked = make("LinearQuadratic-v0"), Monitor(CheckedEnv(make("LinearQuadratic-v0").env, repr))
    plain.reset(seed=0)
    advance(plain, actions := actions_for(plain, 30))
    restore_state(checked, take_state(plain))
    assert bits(take_state(checked)) == bits(take_state(plain))
    assert bits([(o, r) for o, r, *_ in advance(checked, actions[:9])]) == bits(
        [(o, r) for o, r, *_ in advance(plain, actions[:9])]
    )
