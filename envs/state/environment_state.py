"""The full state of one environment and its wrappers: a restored environment continues bitwise equal."""

import inspect
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import gymnasium as gym
from gymnasium import wrappers
from gymnasium.envs import classic_control
from stable_baselines3.common import atari_wrappers
from stable_baselines3.common.monitor import Monitor

from envs.checked_env import CheckedEnv
from envs.masks import ActionMasker, AllowedActions
from envs.state.generator_state import restore_generator, restore_spaces, take_generator, take_spaces
from envs.state.physics_state import is_physics, restore_physics, take_physics
from envs.state.plain_data import Plain, copy_plain
from envs.tasks.catch import Catch
from envs.tasks.constrained_linear_quadratic import ConstrainedLinearQuadratic
from envs.tasks.gaussian_bandit import GaussianBandit
from envs.tasks.hidden_velocity import CartPoleHiddenVelocity
from envs.tasks.linear_quadratic import LinearQuadratic
from envs.tasks.point_hazard import PointHazard
from envs.tasks.two_state_chain import TwoStateChain
from envs.wrapped_episodes import WrappedEpisodes

State = dict[str, Plain]

# {class: attributes, besides the generator, that a step or reset writes and a later one reads}. Subclasses
# may have more of them, so only these exact classes are known.
_ENVIRONMENTS: dict[type, tuple[str, ...]] = {
    classic_control.AcrobotEnv: ("state",),
    classic_control.CartPoleEnv: ("state", "steps_beyond_terminated"),
    classic_control.Continuous_MountainCarEnv: ("state",),
    classic_control.MountainCarEnv: ("state",),
    classic_control.PendulumEnv: ("state", "last_u"),
    Catch: ("_ball_row", "_ball_column", "_paddle"),
    CartPoleHiddenVelocity: ("state", "steps_beyond_terminated"),
    ConstrainedLinearQuadratic: ("_state",),
    GaussianBandit: (),
    LinearQuadratic: ("_state",),
    PointHazard: ("_position",),
    TwoStateChain: ("_state",),
}
_PHYSICS = ("init_qpos", "goal", "goal_pos", "cylinder_pos")  # Pusher modifies init_qpos too
_CHECKER = ("checked_reset", "checked_step", "checked_render", "close_called", "checked_data_reuse")
_WRAPPERS: dict[type, tuple[str, ...]] = {
    Monitor: ("rewards", "needs_reset", "total_steps", "current_reset_info"),
    wrappers.Autoreset: ("autoreset",),
    wrappers.NormalizeObservation: ("obs_rms.mean", "obs_rms.var", "obs_rms.count", "_update_running_mean"),
    wrappers.NormalizeReward: (
        "return_rms.mean",
        "return_rms.var",
        "return_rms.count",
        "discounted_reward",
        "_update_running_mean",
    ),
    wrappers.OrderEnforcing: ("_has_reset",),
    wrappers.PassiveEnvChecker: _CHECKER,
    wrappers.TimeAwareObservation: ("timesteps",),
    wrappers.TimeLimit: ("_elapsed_steps",),
    atari_wrappers.EpisodicLifeEnv: ("lives", "was_real_done"),
    atari_wrappers.MaxAndSkipEnv: ("_obs_buffer",),
    atari_wrappers.StickyActionEnv: ("_sticky_action",),
} | dict.fromkeys(
    (  # no attributes; functions passed to them must be stateless too
        ActionMasker,
        atari_wrappers.AtariWrapper,
        atari_wrappers.ClipRewardEnv,
        atari_wrappers.FireResetEnv,
        atari_wrappers.NoopResetEnv,
        atari_wrappers.WarpFrame,
        wrappers.AddRenderObservation,
        wrappers.ClipAction,
        wrappers.ClipReward,
        wrappers.DtypeObservation,
        wrappers.FilterObservation,
        wrappers.FlattenObservation,
        wrappers.GrayscaleObservation,
        wrappers.RescaleAction,
        wrappers.RescaleObservation,
        wrappers.ReshapeObservation,
        wrappers.ResizeObservation,
        wrappers.TransformAction,
        wrappers.TransformObservation,
        wrappers.TransformReward,
    ),
    (),
)


# As above, but of a package that may not be installed.
_OPTIONAL = {"sb3_contrib.common.wrappers.action_masker.ActionMasker"}

# Wrappers that only convert something store little: attributes of their own are their state if they are plain
# data. Other wrappers may depend on more, e.g. on the environment that they step themselves.
_CONVERTERS = (gym.ObservationWrapper, gym.ActionWrapper, gym.RewardWrapper)
_BASE = frozenset(vars(gym.Wrapper(gym.Env())))  # attributes of every wrapper
# Lists of all past episodes, which would make states grow without bound. States of version 0.1 have two of
# them.
_MONITOR_HISTORY = ("episode_returns", "episode_lengths", "episode_times")


class StateUnavailableError(RuntimeError):
    """Raised when a state cannot be taken, or cannot be restored here; reset the environment instead."""


def take_state(env: gym.Env[Any, Any]) -> State:
    """Return everything that the next steps and resets of an environment depend on, as plain data.

    This works for Gymnasium's classic control and MuJoCo tasks, this package's tasks, SB3's ``Monitor`` and
    Atari wrappers, those of Gymnasium's wrappers that store little or nothing, and subclasses of
    ``ObservationWrapper``, ``ActionWrapper`` and ``RewardWrapper`` whose attributes are plain data. **Any
    other environment or wrapper** needs two methods: ``get_state() -> state``, which returns plain data as
    `copy_plain` accepts it, and ``set_state(state)``. They handle what their own class stores; ``np_random``,
    the spaces' generators, and the wrapped environment are handled here. Settings are not part of the state:
    make the environment to be restored with the same arguments, and repeat later changes from outside, e.g.
    by ``set_attr``. Wall-clock times are left out, so that equal runs have equal states.

    Args:
        env: The environment, between two steps.

    Raises:
        StateUnavailableError: If an environment or wrapper is of another class and lacks the two methods.
    """
    return {"layers": [_take_layer(layer) for layer in _layers(env)]}


def restore_state(env: gym.Env[Any, Any], state: State) -> None:
    """Restore an environment, e.g. a newly made one, from a state of `take_state`.

    A ``Monitor`` loses its lists of past episodes (``get_episode_rewards`` starts with an empty list), and
    ``PassiveEnvChecker`` does not repeat its checks of the first step.

    Args:
        env: An environment made with the same arguments, and the same versions of packages.
        state: What `take_state` returned; it is not changed, and shares no memory with the environment.

    Raises:
        ValueError: If the state is of an environment that was made differently. After any error, reset the
            environment.
    """
    layers, kept = list(_layers(env)), state["layers"]
    names, expected = [kept_layer["class"] for kept_layer in kept], [class_name(layer) for layer in layers]
    if names != expected:
        raise ValueError(
            f"expected a state of {' around '.join(expected)}, got one of {' around '.join(names)}; "
            "make the environment with the arguments and wrappers that it had when the state was taken"
        )
    for layer, kept_layer in zip(layers, kept, strict=True):
        _restore_layer(layer, kept_layer)


def has_state_methods(thing: object) -> bool:
    """Return whether an object's class has the methods ``get_state()`` and ``set_state(state)``."""
    get, set_ = getattr(type(thing), "get_state", None), getattr(type(thing), "set_state", None)
    try:  # set_state of Gymnasium's MuJoCo tasks differs: it takes positions and velocities
        inspect.signature(get).bind(thing)  # type: ignore[arg-type]
        inspect.signature(set_).bind(thing, None)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def class_name(thing: object) -> str:
    """Return the full name of an object's class."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _layers(env: gym.Env[Any, Any]) -> Iterator[Any]:
    """Yield the wrappers, outermost first and without those that have no state, then the environment."""
    while isinstance(env, gym.Wrapper):
        if type(env) not in (AllowedActions, CheckedEnv, WrappedEpisodes):
            yield env
        env = env.env
    yield env


def _take_layer(layer: Any) -> State:
    try:
        state: State = {"class": class_name(layer), "spaces": take_spaces(_spaces(layer))}
        if not isinstance(layer, gym.Wrapper):
            state["np_random"] = take_generator(layer._np_random)
            state["np_random_seed"] = copy_plain(layer._np_random_seed, "np_random_seed")
        if has_state_methods(layer):
            return {**state, "own": copy_plain(layer.get_state(), "get_state()")}
        if not isinstance(layer, gym.Wrapper) and is_physics(layer):
            state["physics"] = take_physics(layer)
        return {**state, "attributes": _take_attributes(layer, _attribute_names(layer))}
    except TypeError as error:
        raise StateUnavailableError(f"the state of {class_name(layer)} is not plain data: {error}") from error


def _restore_layer(layer: Any, state: State) -> None:
    if "own" in state:
        layer.set_state(copy_plain(state["own"]))
    else:
        names = _attribute_names(layer)
        for name, value in state["attributes"].items():
            if isinstance(layer, Monitor) and name in _MONITOR_HISTORY:
                continue
            own = isinstance(layer, _CONVERTERS) and not hasattr(layer, name)  # made by a step or reset
            if name not in names and not own:
                raise ValueError(f"expected attributes {names} of {class_name(layer)}, got {name!r}.")
            owner, _, attribute = name.rpartition(".")
            setattr(attrgetter(owner)(layer) if owner else layer, attribute, copy_plain(value))
    if "physics" in state:
        restore_physics(layer, state["physics"])
    if isinstance(layer, Monitor):
        for name in _MONITOR_HISTORY:
            setattr(layer, name, [])
    if isinstance(layer, wrappers.PassiveEnvChecker):
        layer._previous_data = (None, {})  # so that the check for reused data compares with nothing older
    # Restore the generators last: the environment's set_state may have drawn numbers, or reset.
    if not isinstance(layer, gym.Wrapper):
        layer._np_random = restore_generator(layer._np_random, state["np_random"])
        layer._np_random_seed = copy_plain(state["np_random_seed"])
    restore_spaces(_spaces(layer), state["spaces"])


def _take_attributes(layer: Any, names: tuple[str, ...]) -> State:
    """Return {name: value} of the attributes that exist; before the first reset, some do not."""
    existing = [name for name in names if hasattr(layer, name.partition(".")[0])]
    return {name: copy_plain(attrgetter(name)(layer), name) for name in existing}


def _attribute_names(layer: Any) -> tuple[str, ...]:
    """Return the names of the attributes that make up the state of a known class.

    Raises:
        StateUnavailableError: If the class is unknown.
    """
    if not isinstance(layer, gym.Wrapper) and is_physics(layer):
        return _PHYSICS
    if isinstance(layer, Monitor) and layer.results_writer is not None:
        raise StateUnavailableError(
            f"the Monitor writes its episodes to {layer.results_writer.file_handler.name}, "
            "and restoring a state would not remove lines from it; pass filename=None"
        )
    if class_name(layer) in _OPTIONAL:
        return ()
    known = _WRAPPERS if isinstance(layer, gym.Wrapper) else _ENVIRONMENTS
    if type(layer) not in known and isinstance(layer, _CONVERTERS):
        return tuple(sorted(vars(layer).keys() - _BASE))
    if type(layer) not in known:
        raise StateUnavailableError(
            f"the attributes of {class_name(layer)} that change from step to step are not known. To resume "
            "without a reset, give the class the methods get_state() and set_state(state), or remove it"
        )
    return known[type(layer)]


def _spaces(layer: Any) -> tuple[Any, Any]:
    """Return a layer's own spaces; None for those that a wrapper only passes on from its environment."""
    if isinstance(layer, gym.Wrapper):
        return layer._action_space, layer._observation_space
    return getattr(layer, "action_space", None), getattr(layer, "observation_space", None)
