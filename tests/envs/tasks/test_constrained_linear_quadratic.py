"""The constrained linear-quadratic regulator: closed forms against sampling, optimum against SciPy."""

from collections.abc import Sequence

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from scipy.optimize import minimize

from envs import ConstrainedLinearQuadratic


@pytest.mark.filterwarnings("ignore:.*Box.*:UserWarning")
def test_it_passes_gymnasiums_checker() -> None:
    """And its time limit is its number of steps, which the closed forms are for."""
    env = gym.make("ConstrainedLinearQuadratic-v0")
    check_env(env.unwrapped)
    assert env.spec is not None and env.spec.max_episode_steps == env.unwrapped.steps  # type: ignore[attr-defined]


def test_reward_and_cost_of_a_step_by_hand() -> None:
    """The cost is uᵀu; the reward is that of the plain regulator."""
    env = ConstrainedLinearQuadratic(R=[[2.0]], noise=0.0)
    state, _ = env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(np.array([-3.0], np.float32))
    assert info == {"cost": 9.0} and not terminated and not truncated
    assert reward == pytest.approx(-float(state @ state) - 2 * 9.0, rel=1e-6)


def sampled(
    problem: ConstrainedLinearQuadratic, gains: Sequence[np.ndarray], bias: float, std: float, episodes: int
) -> np.ndarray:
    """Return return and energy of episodes, (episodes, 2), from the environment's own steps."""
    rng, results = np.random.default_rng(0), []
    problem.reset(seed=0)
    for _ in range(episodes):
        state, _ = problem.reset()
        total = np.zeros(2)
        for gain in gains:
            action = -gain @ state + bias + std * rng.standard_normal(1)
            state, reward, _, _, info = problem.step(action)
            total += reward, info["cost"]
        results.append(total)
    return np.array(results)


def test_closed_forms_are_what_episodes_give() -> None:
    """Return and energy of a policy with noise and a bias, within 4 standard errors of sampled means."""
    problem = ConstrainedLinearQuadratic(steps=15)
    gains = problem.gains(0.5)
    results = sampled(problem, gains, 0.2, 1.0, 600)
    errors = results.std(axis=0, ddof=1) / np.sqrt(len(results))
    expected = problem.episode(gains, bias=[0.2], action_std=1.0)
    assert (np.abs(results.mean(axis=0) - expected) < 4 * errors).all()
    assert (errors < 0.05 * np.abs(expected)).all()  # so that the comparison means something


def test_the_optimum_is_scipys() -> None:
    """A general solver, which knows nothing of prices, finds the same best gains under the limit."""
    problem, limit = ConstrainedLinearQuadratic(steps=4), 1.0
    best, price = problem.optimum(limit)
    assert price > 0 and problem.episode(problem.gains(price))[1] == pytest.approx(limit)

    def of(flat: np.ndarray) -> tuple[float, float]:
        return problem.episode(flat.reshape(4, 1, 2))

    found = minimize(
        lambda flat: -of(flat)[0],
        np.zeros(8),
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda flat: limit - of(flat)[1]},
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert found.success and -found.fun == pytest.approx(best, rel=1e-7)
    assert of(found.x)[1] < limit + 1e-6
    more, less = (problem.optimum(limit + change)[0] for change in (1e-4, -1e-4))
    assert (more - less) / 2e-4 == pytest.approx(price, rel=1e-5)  # what a unit of energy is worth


def test_a_loose_limit_costs_nothing_and_an_impossible_one_is_refused() -> None:
    """Price 0 above the energy that the unconstrained optimum needs."""
    problem = ConstrainedLinearQuadratic(steps=10)
    free, energy = problem.episode(problem.gains(0.0))
    assert problem.optimum(2 * energy) == (free, 0.0)
    assert problem.optimum(energy / 2)[0] < free
    with pytest.raises(ValueError, match="expected limit > 0"):
        problem.optimum(0.0)
