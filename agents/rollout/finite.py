"""Check that the numbers of a rollout are finite, and restore the statistics of `VecNormalize` if not."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.rollout.infos import Info, episode_of
from agents.rollout.trajectories import joined

# Attributes of VecNormalize; there is no obs_rms if observations are not normalised.
RUNNING_STATISTICS = ("obs_rms", "ret_rms", "returns")
# Parts of torch's error messages for invalid parameters, of distributions, multinomial and normal.
NO_DISTRIBUTION = ("to satisfy the constraint", "probability tensor", "elements of std")


class NonFiniteError(FloatingPointError, ValueError):
    """A number is NaN or infinite, which ends the run. Also a ValueError, so that RL Zoo prunes a trial."""


@contextmanager
def kept_statistics(agent: OnPolicyAlgorithm) -> Iterator[None]:
    """Restore the statistics of a `VecNormalize` if the block raises `NonFiniteError`.

    In that case the current episodes are abandoned: the next `learn` starts new ones.

    Raises:
        NonFiniteError: a square overflowed in the statistics, so everything would be normalised to 0.
    """
    normaliser = agent.get_vec_normalize_env()
    state = vars(normaliser) if normaliser else {}
    before = copy.deepcopy({key: state[key] for key in RUNNING_STATISTICS if key in state})
    try:
        yield
        check_statistics(agent, {key: state[key] for key in before})
    except NonFiniteError:
        state.update(before)
        agent._last_obs = agent._last_original_obs = None
        raise


def check_statistics(agent: OnPolicyAlgorithm, statistics: dict[str, Any]) -> None:
    """Check that the running statistics of a `VecNormalize` are finite.

    Raises:
        NonFiniteError: they are not; the message names them and the step.
    """
    for name, value in statistics.items():
        for moments in value.values() if isinstance(value, dict) else (value,):
            numbers = [moments] if name == "returns" else [moments.mean, moments.var]
            if not all(np.isfinite(number).all() for number in numbers):
                raise NonFiniteError(
                    f"{name} of VecNormalize overflowed before step {agent.num_timesteps}: "
                    f"{'an observation' if name == 'obs_rms' else 'a reward'} was too large to be squared. "
                    "No parameter has changed since the last update; check the environment."
                )


def check_ended(
    agent: OnPolicyAlgorithm, env: VecEnv, dones: np.ndarray, infos: list[Info], last: dict[int, Any]
) -> None:
    """Check that episodes' returns and last observations, which `new_obs` does not contain, are finite.

    Raises:
        NonFiniteError: one is not; the message names the environment and the step.
    """
    if last:
        check_finite(agent, env, "observation", joined([*last.values()], np.stack), [*last])
    episodes = {i: episode_of(infos[i]) for i in np.flatnonzero(dones).tolist()}
    returns = {i: episode["r"] for i, episode in episodes.items() if episode is not None}
    if returns:
        check_finite(agent, env, "return of an episode", np.array([*returns.values()]), [*returns])


def check_finite(
    agent: OnPolicyAlgorithm, env: VecEnv, what: str, values: Any, indices: list[int] | None = None
) -> None:
    """Check that the values (n, ...) of all environments, or of those at `indices`, are finite.

    Raises:
        NonFiniteError: one is not; the message names the environment and the step.
    """
    parts = values if isinstance(values, dict) else {"": values}
    for key, array in parts.items():
        finite = np.isfinite(array)
        if finite.all():
            continue
        row = int(np.argwhere(~finite)[0, 0])
        index = row if indices is None else indices[row]
        name = name_of(env, index)
        raise NonFiniteError(
            f"{name} (environment {index} of {env.num_envs}) met a non-finite {what}"
            f"{f' {key!r}' if key else ''} at step {agent.num_timesteps}: {array[row]}. No parameter "
            f"has changed since the last update; check the {'policy' if what == 'action' else 'environment'}."
        )


@contextmanager
def named_sampling_errors(agent: OnPolicyAlgorithm) -> Iterator[None]:
    """Turn torch's errors about the parameters of a distribution into `NonFiniteError`."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if not any(sign in str(error) for sign in NO_DISTRIBUTION):
            raise  # an error of the policy's own code
        raise no_distribution(agent, str(error)) from error


def no_distribution(agent: OnPolicyAlgorithm, reason: str) -> NonFiniteError:
    """Return the error that the policy's output is no valid parameter of a distribution."""
    return NonFiniteError(
        f"the policy gives no action distribution at step {agent.num_timesteps}; look for NaN among its "
        f"parameters, or for weights or log_std too large: {reason}"
    )


def name_of(env: VecEnv, index: int) -> str:
    """Return the id of a single environment, if it has one that the vector environment can return."""
    try:
        return str(env.get_attr("spec", index)[0].id)
    except (AttributeError, NotImplementedError, IndexError):  # AttributeError also if the spec is None
        return "an unregistered environment"
