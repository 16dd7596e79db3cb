"""Kakade's two-state chain, on which the plain policy gradient stalls but the natural gradient does not."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

STAY, MOVE = 0, 1
STAY_REWARDS = (1.0, 2.0)


class TwoStateChain(gym.Env[np.int64, np.int64]):
    """Two states, each with a self-loop: the reward for staying is 1 in state 0 and 2 in state 1.

    Action 0 stays; action 1 moves to the other state, with reward 0. The best policy moves
    to state 1 and stays there, for an average reward of 2. The plain gradient weights each state
    by how often it is visited: it first learns to stay in state 0, which makes visits to
    state 1 rare, and remains near an average reward of 1 for a long time. The natural gradient divides
    that weight out (the two-state MDP in S. Kakade, A Natural Policy Gradient, NIPS 14, 2001).

    The functions take ``stay`` (2,), the probability of staying in each state; in the logit
    parametrisation stay = sigmoid(theta), with one parameter per state. Every episode starts in state 0 and
    never terminates.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (declared so by gym.Env)

    def __init__(self) -> None:
        """Start in state 0."""
        self.observation_space = gym.spaces.Discrete(2)
        self.action_space = gym.spaces.Discrete(2)
        self._state = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """Return to state 0; `options` is not used."""
        super().reset(seed=seed)
        self._state = 0
        return np.int64(self._state), {}

    def step(self, action: np.int64) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """Stay (0) or move (1)."""
        reward = STAY_REWARDS[self._state] if action == STAY else 0.0
        self._state = self._state if action == STAY else 1 - self._state
        return np.int64(self._state), reward, False, False, {}

    @staticmethod
    def stationary_distribution(stay: ArrayLike) -> Array:
        """Return the long-run fraction of steps in each state, (2,).

        The flow from state 0 to 1 equals that from 1 to 0, so the fractions are proportional to
        (1 - stay[1], 1 - stay[0]).

        Raises:
            ValueError: If `stay` is not two probabilities, or if both are 1, so that the chain never leaves
                its first state.
        """
        p = np.asarray(stay, dtype=np.float64)
        if p.shape != (2,) or not np.all((p >= 0) & (p <= 1)) or np.all(p == 1):
            raise ValueError(
                f"expected two probabilities of staying, not both 1, got {p.tolist()}; "
                "pass pi(stay|state) for states 0 and 1."
            )
        leave = 1 - p
        return leave[::-1] / leave.sum()

    @staticmethod
    def average_reward(stay: ArrayLike) -> float:
        """Return the long-run reward per step, eta = Σ rho(s) pi(stay|s) r(s).

        Raises:
            ValueError: See `stationary_distribution`.
        """
        rho = TwoStateChain.stationary_distribution(stay)
        return float(rho @ (np.asarray(stay) * STAY_REWARDS))

    @staticmethod
    def average_reward_gradient(stay: ArrayLike) -> Array:
        """Return deta/dtheta (2,) for the logits of staying, theta = log(stay / (1 - stay)).

        Raises:
            ValueError: See `stationary_distribution`.
        """
        # With p = stay, q = 1 - p and rewards r, eta = N / D for N = q1 p0 r0 + q0 p1 r1 and
        # D = q0 + q1. As dN/dp0 = q1 r0 - p1 r1 and dD/dp0 = -1, deta/dp0 = (dN/dp0 + eta) / D;
        # state 1 likewise with the indices swapped; dp/dtheta = p q.
        eta = TwoStateChain.average_reward(stay)
        p, r = np.asarray(stay, dtype=np.float64), np.asarray(STAY_REWARDS)
        q = 1 - p
        numerator_slope = q[::-1] * r - (p * r)[::-1]
        return p * q * (numerator_slope + eta) / q.sum()
