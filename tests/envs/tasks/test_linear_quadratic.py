"""The linear-quadratic regulator: its closed forms against each other and against sampling."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import envs
from envs import LinearQuadratic

GAMMAS = [0.9, 0.95, 0.99]


def random_problem(seed: int) -> LinearQuadratic:
    """Return a problem with three states and two actions, as unstable as 1.2 at most."""
    rng = np.random.default_rng(seed)
    A, B, factor = rng.normal(size=(3, 3)), rng.normal(size=(3, 2)), rng.normal(size=(3, 3))
    A *= 1.2 / np.abs(np.linalg.eigvals(A)).max()
    return LinearQuadratic(A=A, B=B, Q=factor @ factor.T, R=np.diag([0.5, 2.0]))


PROBLEMS = [LinearQuadratic(), random_problem(0), random_problem(1)]


@pytest.mark.parametrize("env_id", ["LinearQuadratic-v0", "GaussianBandit-v0", "TwoStateChain-v0"])
@pytest.mark.filterwarnings("ignore:.*Box.*:UserWarning")
def test_tasks_pass_gymnasiums_checker(env_id):
    """Every task of this package passes Gymnasium's own checker."""
    assert env_id in gym.registry and envs
    check_env(gym.make(env_id).unwrapped)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_riccati_is_a_fixed_point(problem, gamma):
    """P is symmetric positive definite and solves the discounted Riccati equation."""
    A, B, P = problem.A, problem.B, problem.riccati(gamma)
    correction = np.linalg.inv(problem.R + gamma * B.T @ P @ B)
    right = problem.Q + gamma * A.T @ P @ A
    right -= gamma**2 * A.T @ P @ B @ correction @ B.T @ P @ A
    np.testing.assert_allclose(P, right, rtol=1e-8)
    np.testing.assert_allclose(P, P.T)
    assert np.linalg.eigvalsh(P).min() > 0


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_two_equations_give_one_optimal_cost(problem, gamma):
    """The Lyapunov equation at the optimal gain gives the cost that the Riccati one gives."""
    P = problem.riccati(gamma)
    per_step = gamma / (1 - gamma) * problem.noise**2
    expected = (problem.initial_scale**2 + per_step) * np.trace(P)
    assert problem.optimal_cost(gamma) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_any_other_gain_costs_more(problem, gamma):
    """A step from the optimal gain in any direction raises the cost, to second order only."""
    gain, best = problem.optimal_gain(gamma), problem.optimal_cost(gamma)
    rng = np.random.default_rng(0)
    for direction in rng.normal(size=(20, *gain.shape)):
        rises = [problem.cost(gain + step * direction, gamma) - best for step in (1e-2, -1e-2)]
        assert min(rises) > 0
        slope = problem.cost(gain + 1e-5 * direction, gamma) - best
        assert abs(slope) < 1e-5 * 1e-2 * best


@pytest.mark.parametrize("gamma", GAMMAS)
def test_learning_is_visible_on_the_defaults(gamma):
    """Doing nothing costs at least three times the optimum, and exploring stays finite."""
    problem = LinearQuadratic()
    nothing = np.zeros((1, 2))
    assert problem.cost(nothing, gamma) > 3 * problem.optimal_cost(gamma)
    assert problem.cost(nothing, gamma, action_std=1.0) < 1e3


@pytest.mark.parametrize("optimal, action_std", [(True, 0.0), (True, 0.5), (False, 1.0)])
def test_cost_is_what_episodes_cost(optimal, action_std):
    """The closed form is the mean discounted cost of sampled episodes, within 4 std errors."""
    gamma, episodes, steps = 0.9, 400, 110  # 0.9^110 < 1e-5: the cut tail is far below the noise
    problem = LinearQuadratic()
    gain = problem.optimal_gain(gamma) if optimal else np.zeros((1, 2))
    rng = np.random.default_rng(1)
    costs = np.zeros(episodes)
    for episode in range(episodes):
        x, _ = problem.reset(seed=episode)
        for t in range(steps):
            x, reward, *_ = problem.step(-gain @ x + action_std * rng.standard_normal(1))
            costs[episode] -= gamma**t * reward
    standard_error = costs.std(ddof=1) / np.sqrt(episodes)
    exact = problem.cost(gain, gamma, action_std=action_std)
    assert abs(costs.mean() - exact) < 4 * standard_error


def test_scalar_problem_by_hand():
    """With one state, A = B = Q = R = 1 and K = 1 the state is forgotten at once."""
    problem = LinearQuadratic(A=[[1]], B=[[1]], Q=[[1]], R=[[1]], noise=0.5, initial_scale=2)
    # Each step costs x² + u² = 2x²: E x² is 4 at first, and noise² = 1/4 at every later step.
    assert problem.cost([[1]], 0.9) == pytest.approx(2 * (4 + 0.25 * 0.9 / 0.1))


def test_bias_moves_the_mean_by_hand():
    """With A = 0, K = 0 and one state, u = b costs Rb² a step and Q(Bb)² from the second step on."""
    problem = LinearQuadratic(A=[[0]], B=[[2]], Q=[[3]], R=[[5]], noise=0, initial_scale=0)
    expected = 5 * 0.5**2 / (1 - 0.9) + 0.9 * 3 * (2 * 0.5) ** 2 / (1 - 0.9)
    assert problem.cost([[0]], 0.9, bias=[0.5]) == pytest.approx(expected)


def test_unstable_gain_costs_infinity():
    """A gain that the discount cannot tame has infinite cost; one that it can, finite."""
    problem = LinearQuadratic(A=[[1.05]], B=[[1]], Q=[[1]], R=[[1]])
    assert problem.cost([[0]], 0.95) == np.inf  # 0.95 * 1.05² > 1
    assert problem.cost([[0]], 0.90) < np.inf  # 0.90 * 1.05² < 1


def test_never_terminates_only_the_time_limit_truncates():
    """The last step of an episode is a truncation, so that agents have to bootstrap."""
    env = gym.make("LinearQuadratic-v0")
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(100)]
    assert ends == [(False, False)] * 99 + [(False, True)]


def test_action_bounds_do_not_bind():
    """The optimal policy with unit exploration noise stays well inside the action space."""
    problem = LinearQuadratic()
    gain = problem.optimal_gain(0.99)
    x = problem.initial_scale * np.linalg.norm(gain)
    assert 5 * np.hypot(x, 1.0) < problem.action_space.high[0]


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"B": [0.0, 0.3]}, "expected B of shape"),
        ({"A": [[1.0]]}, r"expected A of shape \(2, 2\)"),
        ({"Q": [[1, 0], [0, -1]]}, "expected Q symmetric positive semi-definite"),
        ({"Q": [[1, 1], [0, 1]]}, "expected Q symmetric"),
        ({"R": [[0.0]]}, "expected R symmetric positive definite"),
        ({"noise": -1.0}, "expected noise >= 0"),
        ({"action_bound": np.inf}, "finite action_bound"),
    ],
)
def test_wrong_problem_is_named(kwargs, message):
    """A matrix or scale that makes no regulator is an error that names it."""
    with pytest.raises(ValueError, match=message):
        LinearQuadratic(**kwargs)


@pytest.mark.parametrize("gamma", [0.0, 1.0, np.nan])
def test_wrong_discount_is_named(gamma):
    """A discount outside (0, 1) has no infinite-horizon cost."""
    problem = LinearQuadratic()
    for closed_form in (problem.riccati, problem.optimal_gain, problem.optimal_cost):
        with pytest.raises(ValueError, match="expected 0 < gamma < 1"):
            closed_form(gamma)


def test_wrong_gain_shape_is_named():
    """A transposed gain is an error and no broadcast."""
    with pytest.raises(ValueError, match=r"a gain of shape \(1, 2\) .*, got \(2, 1\)"):
        LinearQuadratic().cost([[1.0], [1.0]], 0.9)
