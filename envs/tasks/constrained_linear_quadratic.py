"""The linear-quadratic regulator with a limit on the control energy of an episode."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from envs.tasks.linear_quadratic import Array, LinearQuadratic, Observation

LARGEST_PRICE = 1e9  # of energy; the largest multiplier that is tried


class ConstrainedLinearQuadratic(LinearQuadratic):
    """`LinearQuadratic` in episodes of T steps, whose info["cost"] is the control energy uᵀu.

    The task is to maximise the expected return E Σ -(xᵀQx + uᵀRu) of an episode, without a discount, subject
    to a limit on its expected energy E Σ uᵀu. For a price ν ≥ 0 of energy, the policy that maximises
    return - ν · energy is u_t = -K_t x_t with the gains of the Riccati recursion with R + νI. Expected return
    and energy are linear in the second moments of states and actions, over which the problem is convex. So
    the constrained optimum is the policy of the price at which the energy equals the limit, or of ν = 0 if
    that satisfies it already (Lagrangian duality; see `optimum`).

    The defaults need an energy of 164 without a limit and have a return of -121.4; with a limit of 100, the
    best return is -126.5. A constant gain can come within 0.4 % of that. The noise is larger than that of
    `LinearQuadratic`, so an episode's energy depends less on its first state: it varies by a sixth.
    """

    def __init__(self, *, steps: int = 200, noise: float = 0.3, **problem: Any) -> None:
        """Set the problem.

        Args:
            steps: T, which must be the time limit of Gymnasium.
            noise: As for `LinearQuadratic`.
            problem: Its other keyword arguments.
        """
        super().__init__(noise=noise, **problem)
        self.steps = steps

    def step(self, action: Observation) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Apply u = `action`."""
        observation, reward, terminated, truncated, info = super().step(action)
        u = np.asarray(action, dtype=np.float64)
        return observation, reward, terminated, truncated, info | {"cost": float(u @ u)}

    def gains(self, price: float) -> list[Array]:
        """Return the K_t (m, n) of all steps that maximise return - price · energy."""
        R = self.R + price * np.eye(len(self.R))
        P = np.zeros_like(self.Q)  # nothing is paid after the last step
        gains: list[Array] = []
        for _ in range(self.steps):
            K: Any = np.linalg.solve(R + self.B.T @ P @ self.B, self.B.T @ P @ self.A)
            P = self.Q + self.A.T @ P @ (self.A - self.B @ K)
            gains.append(np.asarray(K, dtype=np.float64))
        return gains[::-1]

    def episode(
        self, gains: Sequence[ArrayLike], *, bias: ArrayLike | None = None, action_std: float = 0.0
    ) -> tuple[float, float]:
        """Return expected return and energy of an episode under u_t = -K_t x_t + b + action_std ε.

        Args:
            gains: the K_t of all steps, each of shape (m, n); a single one is used in all steps.
            bias: b, of shape (m,), zero by default.
            action_std: Standard deviation of each action's exploration noise ε ~ N(0, I).
        """
        n, m = self.B.shape
        b = np.zeros(m) if bias is None else np.asarray(bias, dtype=np.float64)
        gains = list(gains) * self.steps if len(gains) == 1 else gains
        mean, covariance = np.zeros(n), self.initial_scale**2 * np.eye(n)
        noise = action_std**2 * np.eye(m)
        total = energy = 0.0
        for K in map(np.asarray, gains):
            u = b - K @ mean
            actions = np.outer(u, u) + K @ covariance @ K.T + noise  # E uuᵀ
            states = np.outer(mean, mean) + covariance  # E xxᵀ
            total -= float(np.trace(self.Q @ states) + np.trace(self.R @ actions))
            energy += float(np.trace(actions))
            closed = self.A - self.B @ K
            mean = self.A @ mean + self.B @ u
            covariance = (
                closed @ covariance @ closed.T + self.B @ noise @ self.B.T + self.noise**2 * np.eye(n)
            )
        return total, energy

    def optimum(self, limit: float) -> tuple[float, float]:
        """Return the largest expected return with an expected energy of at most `limit`, and the price ν.

        Raises:
            ValueError: If the limit is not positive: no policy but u = 0 has an energy of 0.
        """
        if not limit > 0:
            raise ValueError(f"expected limit > 0, got {limit}; only u = 0 needs no energy.")

        def excess(price: float) -> float:
            return self.episode(self.gains(price))[1] - limit

        price = 0.0 if excess(0.0) <= 0 else float(brentq(excess, 0.0, LARGEST_PRICE, xtol=1e-12))
        return self.episode(self.gains(price))[0], price
