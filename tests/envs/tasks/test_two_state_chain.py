"""Kakade's two-state chain: closed forms, and the plateau of the plain gradient."""

import numpy as np
import pytest

from envs import TwoStateChain
from envs.tasks.two_state_chain import MOVE, STAY

# Both gradients start from here in Kakade (2001): state 0 is visited 0.8 of the time.
START = np.array([0.8, 0.2])
POLICIES = [START, np.array([0.5, 0.5]), np.array([0.99, 0.3]), np.array([0.1, 0.95])]


def logit(p):
    """Return the parameter whose sigmoid is p."""
    return np.log(p / (1 - p))


def sigmoid(theta):
    """Return the probability of staying, elementwise."""
    return 1 / (1 + np.exp(-theta))


def model(stay):
    """Return transitions (state, action, next), rewards (state, action), policy of the same."""
    transitions = np.zeros((2, 2, 2))
    transitions[:, STAY], transitions[:, MOVE] = np.eye(2), np.eye(2)[::-1]
    rewards = np.array([[1.0, 0.0], [2.0, 0.0]])
    return transitions, rewards, np.stack([stay, 1 - stay], axis=1)


def action_values(stay):
    """Return Q (state, action), by solving the average-reward Bellman equation."""
    transitions, rewards, policy = model(stay)
    rho, eta = TwoStateChain.stationary_distribution(stay), TwoStateChain.average_reward(stay)
    chain = np.einsum("sa,sat->st", policy, transitions)
    # V solves (I - P) V = r - eta; asking also for rho·V = 0 makes the solution unique.
    V = np.linalg.solve(np.eye(2) - chain + rho, (policy * rewards).sum(axis=1) - eta)
    return rewards - eta + transitions @ V


def scores(stay):
    """Return d log pi(action|state) / d theta as (state, action, parameter)."""
    result = np.zeros((2, 2, 2))
    for state in range(2):
        result[state, STAY, state], result[state, MOVE, state] = 1 - stay[state], -stay[state]
    return result


def fisher(stay):
    """Return the Fisher matrix (2, 2), enumerated: E[score scoreᵀ] over states and actions."""
    rho = TwoStateChain.stationary_distribution(stay)
    weights = rho[:, None] * model(stay)[2]
    return np.einsum("sa,sai,saj->ij", weights, scores(stay), scores(stay))


@pytest.mark.parametrize("stay", POLICIES)
def test_stationary_distribution_is_invariant(stay):
    """The distribution sums to one and is left as it is by a step of the chain."""
    transitions, _, policy = model(stay)
    rho = TwoStateChain.stationary_distribution(stay)
    assert rho.sum() == pytest.approx(1)
    np.testing.assert_allclose(np.einsum("s,sa,sat->t", rho, policy, transitions), rho)


def test_start_of_the_paper():
    """At stay = (0.8, 0.2) the states are visited 0.8 and 0.2 of the time."""
    np.testing.assert_allclose(TwoStateChain.stationary_distribution(START), [0.8, 0.2])
    assert TwoStateChain.average_reward(START) == pytest.approx(0.8 * 0.8 * 1 + 0.2 * 0.2 * 2)


@pytest.mark.parametrize("stay", POLICIES)
def test_gradient_matches_finite_differences(stay):
    """The analytic gradient in the logits is that of central differences."""
    h, theta = 1e-6, logit(stay)
    eta = TwoStateChain.average_reward
    expected = [(eta(sigmoid(theta + unit)) - eta(sigmoid(theta - unit))) / (2 * h) for unit in h * np.eye(2)]
    np.testing.assert_allclose(TwoStateChain.average_reward_gradient(stay), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("stay", POLICIES)
def test_gradient_is_that_of_the_policy_gradient_theorem(stay):
    """The analytic gradient is E[score Q], with Q from the average-reward Bellman equation."""
    rho, policy = TwoStateChain.stationary_distribution(stay), model(stay)[2]
    expected = np.einsum("s,sa,sa,sai->i", rho, policy, action_values(stay), scores(stay))
    np.testing.assert_allclose(TwoStateChain.average_reward_gradient(stay), expected, rtol=1e-9)


def ascend(natural: bool, most_steps: int, learning_rate: float = 0.1) -> np.ndarray:
    """Return the policy (steps, 2) after each exact gradient step, until its reward is 1.9."""
    theta, history = logit(START), []
    for _ in range(most_steps):
        stay = sigmoid(theta)
        gradient = TwoStateChain.average_reward_gradient(stay)
        theta = theta + learning_rate * (np.linalg.solve(fisher(stay), gradient) if natural else gradient)
        history.append(sigmoid(theta))
        if TwoStateChain.average_reward(history[-1]) > 1.9:
            break
    return np.array(history)


def test_plain_gradient_stalls_where_the_natural_gradient_does_not():
    """At one learning rate the plateau at 1 outlasts a hundred times the natural ascent."""
    natural = ascend(natural=True, most_steps=25)
    assert TwoStateChain.average_reward(natural[-1]) > 1.9

    plain = ascend(natural=False, most_steps=2500)
    rewards = [TwoStateChain.average_reward(stay) for stay in plain]
    assert len(plain) == 2500 and max(rewards) < 1.05
    assert min(rewards[1000:]) > 0.95  # it lingers at 1, rather than climbing slowly
    # The cause: visits to state 1, the weight of its gradient, have all but vanished.
    visits = [TwoStateChain.stationary_distribution(stay)[1] for stay in (START, plain[-1])]
    assert visits[0] == pytest.approx(0.2) and visits[1] < 0.03


@pytest.mark.parametrize("stay", POLICIES)
def test_natural_gradient_does_not_weigh_states_by_their_visits(stay):
    """The natural gradient is the advantage of staying over moving in each state."""
    Q = action_values(stay)
    natural = np.linalg.solve(fisher(stay), TwoStateChain.average_reward_gradient(stay))
    np.testing.assert_allclose(natural, Q[:, STAY] - Q[:, MOVE], rtol=1e-9)


def test_steps_follow_the_model():
    """Every transition and reward of the environment is that of the model, from state 0."""
    transitions, rewards, _ = model(START)
    chain, rng = TwoStateChain(), np.random.default_rng(0)
    state, _ = chain.reset(seed=0)
    assert state == 0
    for action in rng.integers(2, size=50):
        following, reward, terminated, truncated, _ = chain.step(action)
        assert transitions[state, action, following] == 1
        assert reward == rewards[state, action]
        assert not terminated and not truncated
        state = following


@pytest.mark.parametrize("stay", [[1.0, 1.0], [0.5], [-0.1, 0.5], [0.5, 1.1], [0.5, np.nan]])
def test_wrong_probabilities_are_named(stay):
    """Two non-probabilities, or a chain that never leaves its first state, are an error."""
    for closed_form in (
        TwoStateChain.stationary_distribution,
        TwoStateChain.average_reward,
        TwoStateChain.average_reward_gradient,
    ):
        with pytest.raises(ValueError, match="expected two probabilities of staying"):
            closed_form(stay)
