"""The discounted linear-quadratic regulator: a continuous task with a known optimal policy."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve, solve_discrete_are, solve_discrete_lyapunov

Array = NDArray[np.float64]
Observation = NDArray[np.float32]

# A double integrator with decay: without actions, position and velocity decay slowly (spectral radius 0.95),
# so zero actions have a finite cost at every discount. The cost of the optimal policy is 6 times (gamma 0.95)
# to 10 times (gamma 0.99) lower.
_A = ((0.95, 0.3), (0.0, 0.9))
_B = ((0.0,), (0.3,))
_Q = ((1.0, 0.0), (0.0, 1.0))
_R = ((0.1,),)


class LinearQuadratic(gym.Env[Observation, Observation]):
    """A linear system with a quadratic cost and Gaussian noise; it never terminates.

    The state x (n,) starts at N(0, initial_scale² I) and follows x' = A x + B u + w with
    w ~ N(0, noise² I); the reward of a step is -(xᵀQx + uᵀRu). The observation is x. The
    action u (m,) is not clipped: the bounds of the action space are wide enough that
    clipping would change nothing in practice, so the closed forms below hold.

    An episode ends only by truncation, at Gymnasium's time limit: an agent that does not
    bootstrap from the last state does not reach the optimum.

    The closed forms follow Bertsekas, Dynamic Programming and Optimal Control, vol. II: a problem with
    discount gamma is equivalent to the undiscounted one with sqrt(gamma) A and sqrt(gamma) B.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (declared so by gym.Env)

    def __init__(
        self,
        *,
        A: ArrayLike = _A,
        B: ArrayLike = _B,
        Q: ArrayLike = _Q,
        R: ArrayLike = _R,
        noise: float = 0.1,
        initial_scale: float = 1.0,
        action_bound: float = 20.0,
    ) -> None:
        """Set the problem.

        Args:
            A: State transition, (n, n).
            B: Effect of the action, (n, m).
            Q: State cost, (n, n), symmetric positive semi-definite.
            R: Action cost, (m, m), symmetric positive definite.
            noise: Standard deviation of each coordinate of w, at least 0.
            initial_scale: Standard deviation of each coordinate of the first state.
            action_bound: The action space is [-action_bound, action_bound]^m.

        Raises:
            ValueError: If shapes do not match, Q or R is not as above, or a scale is negative.
        """
        self.A, self.B, self.Q, self.R = (np.array(M, dtype=np.float64) for M in (A, B, Q, R))
        self.noise, self.initial_scale = float(noise), float(initial_scale)
        self._validate(action_bound)
        n, m = self.B.shape
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (n,), np.float32)
        self.action_space = gym.spaces.Box(-action_bound, action_bound, (m,), np.float32)
        self._state: Array = np.zeros(n)

    def _validate(self, action_bound: float) -> None:
        if self.B.ndim != 2:
            raise ValueError(f"expected B of shape (n, m), got {self.B.shape}; pass a matrix.")
        n, m = self.B.shape
        for name, matrix, size in (("A", self.A, n), ("Q", self.Q, n), ("R", self.R, m)):
            if matrix.shape != (size, size):
                raise ValueError(
                    f"expected {name} of shape ({size}, {size}), got {matrix.shape}; "
                    f"B {self.B.shape} sets n = {n} states and m = {m} actions."
                )
        for name, matrix, least in (("Q", self.Q, -1e-12), ("R", self.R, 1e-12)):
            if not np.allclose(matrix, matrix.T) or np.linalg.eigvalsh(matrix).min() < least:
                kind = "semi-definite" if name == "Q" else "definite"
                raise ValueError(
                    f"expected {name} symmetric positive {kind}, got {matrix.tolist()}; "
                    "a cost that can be negative has no optimum."
                )
        if self.noise < 0 or self.initial_scale < 0 or not 0 < action_bound < np.inf:
            raise ValueError(
                "expected noise >= 0, initial_scale >= 0 and a finite action_bound > 0, "
                f"got {self.noise}, {self.initial_scale}, {action_bound}; pass valid ones."
            )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw an initial state; `options` is not used."""
        super().reset(seed=seed)
        self._state = self.initial_scale * self.np_random.standard_normal(len(self.A))
        return self._state.astype(np.float32), {}

    def step(self, action: Observation) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Apply u = `action`; the reward is that of the state before the transition."""
        x, u = self._state, np.asarray(action, dtype=np.float64)
        reward = -float(x @ self.Q @ x + u @ self.R @ u)
        w = self.noise * self.np_random.standard_normal(len(x))
        self._state = self.A @ x + self.B @ u + w
        return self._state.astype(np.float32), reward, False, False, {}

    def riccati(self, gamma: float) -> Array:
        """Return P (n, n): the optimal cost-to-go is xᵀPx plus a constant for the noise.

        It solves P = Q + gamma AᵀPA - gamma² AᵀPB (R + gamma BᵀPB)⁻¹ BᵀPA.

        Raises:
            ValueError: If `gamma` is not in (0, 1).
            numpy.linalg.LinAlgError: If no gain stabilises the discounted system.
        """
        _check_discount(gamma)
        return solve_discrete_are(np.sqrt(gamma) * self.A, np.sqrt(gamma) * self.B, self.Q, self.R)

    def optimal_gain(self, gamma: float) -> Array:
        """Return the K (m, n) of the optimal policy u = -K x.

        K = gamma (R + gamma BᵀPB)⁻¹ BᵀPA, with P from `riccati`, which documents the exceptions.
        """
        P = self.riccati(gamma)
        inner = self.R + gamma * self.B.T @ P @ self.B
        return gamma * solve(inner, self.B.T @ P @ self.A, assume_a="pos")

    def cost(
        self, gain: ArrayLike, gamma: float, *, bias: ArrayLike | None = None, action_std: float = 0.0
    ) -> float:
        """Return the expected discounted cost E Σ gammaᵗ (xᵀQx + uᵀRu) of an infinite episode.

        The policy is u = -K x + b + action_std ε with ε ~ N(0, I). With a 1 appended to the state,
        z = (x, 1), the policy is linear, and so is the closed loop z' = M z. Its cost-to-go is zᵀPz plus a
        constant, where P = C + gamma MᵀPM with the stage cost C. Noise with the covariance
        W = noise² I + action_std² BBᵀ is added to the state in every step, and costs tr(PW) from the next
        step on.

        Args:
            gain: K, of shape (m, n).
            gamma: The discount, in (0, 1).
            bias: b, of shape (m,), zero by default.
            action_std: Standard deviation of each action's exploration noise.

        Returns:
            The cost, in expectation over the initial state; ``inf`` if sqrt(gamma) (A - BK)
            is not stable.

        Raises:
            ValueError: If `gamma` is not in (0, 1) or a shape is wrong.
        """
        _check_discount(gamma)
        K = np.asarray(gain, dtype=np.float64)
        n, m = self.B.shape
        b = np.zeros(m) if bias is None else np.asarray(bias, dtype=np.float64)
        if K.shape != (m, n) or b.shape != (m,):
            raise ValueError(
                f"expected a gain of shape {(m, n)} and a bias of shape {(m,)}, got {K.shape} and {b.shape}; "
                "the policy is u = -K x + b."
            )
        if np.sqrt(gamma) * np.abs(np.linalg.eigvals(self.A - self.B @ K)).max() >= 1:
            return float("inf")
        policy = np.column_stack([-K, b])  # u = policy @ (x, 1)
        M = np.eye(n + 1)
        M[:n] = np.column_stack([self.A, np.zeros(n)]) + self.B @ policy
        C = policy.T @ self.R @ policy
        C[:n, :n] += self.Q
        P: Array = solve_discrete_lyapunov(np.sqrt(gamma) * M.T, C)
        W = self.noise**2 * np.eye(n) + action_std**2 * self.B @ self.B.T
        per_step = gamma * np.trace(P[:n, :n] @ W) + action_std**2 * np.trace(self.R)
        return float(self.initial_scale**2 * np.trace(P[:n, :n]) + P[n, n] + per_step / (1 - gamma))

    def optimal_cost(self, gamma: float) -> float:
        """Return the lowest expected discounted cost of any policy (see `cost`)."""
        return self.cost(self.optimal_gain(gamma), gamma)


def _check_discount(gamma: float) -> None:
    if not 0 < gamma < 1:
        raise ValueError(f"expected 0 < gamma < 1, got {gamma}; pass the agent's discount.")
