"""The point and its hazard: moves, rewards, costs and both ways to the goal."""

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from envs import PointHazard
from envs.tasks.point_hazard import GOAL, HAZARD_RADIUS

Policy = Callable[[np.ndarray], np.ndarray]


def at(x: float, y: float) -> PointHazard:
    """Return an environment with the point at a place."""
    env = PointHazard()
    env.reset(seed=0)
    env._position = np.array([x, y])
    return env


def test_it_passes_gymnasiums_checker() -> None:
    """With images, too."""
    check_env(gym.make("PointHazard-v0", render_mode="rgb_array").unwrapped)


@pytest.mark.parametrize("seed", range(5))
def test_starts_are_left_of_the_hazard(seed: int) -> None:
    """Within 0.2 of (-1, 0) in both coordinates, and different ones."""
    env = PointHazard()
    places = np.array([env.reset(seed=seed)[0], *(env.reset()[0] for _ in range(20))])
    assert (np.abs(places - [-1.0, 0.0]) <= 0.2).all() and places.std(axis=0).min() > 0.05


def test_a_step_by_hand() -> None:
    """A tenth of the velocity, of length 1 at most; the reward is minus a tenth of the distance."""
    position, reward, terminated, truncated, info = at(-1.0, 0.0).step(np.array([0.3, -0.4], np.float32))
    np.testing.assert_allclose(position, [-0.97, -0.04], rtol=1e-6)
    assert reward == pytest.approx(-0.1 * np.hypot(1.97, 0.04)) and info == {"cost": 0.0}
    assert not terminated and not truncated
    fast = at(-1.0, 0.0).step(np.array([3.0, 4.0], np.float32))[0]
    np.testing.assert_allclose(fast, [-0.94, 0.08], rtol=1e-6)
    np.testing.assert_allclose(at(1.98, -1.98).step(np.array([1.0, -1.0]))[0], [2.0, -2.0])  # walls


def test_the_cost_is_1_inside_the_hazard_and_the_goal_ends_the_episode() -> None:
    """By where a step ends, not where it begins."""
    right = np.array([1.0, 0.0])
    assert at(-0.55, 0.0).step(right)[4] == {"cost": 1.0}
    assert at(0.45, 0.0).step(right)[4] == {"cost": 0.0}
    assert at(0.8, 0.0).step(right)[2] and not at(0.7, 0.0).step(right)[2]


def play(policy: Policy) -> tuple[float, float, int]:
    """Return return, cost and length of an episode from (-1, 0)."""
    env = at(-1.0, 0.0)
    total = cost = steps = 0.0
    over, position = False, env._position
    while not over and steps < 60:
        position, reward, over, _, info = env.step(policy(position))
        total, cost, steps = total + float(reward), cost + info["cost"], steps + 1
    assert over
    return total, cost, int(steps)


def test_the_limit_matters() -> None:
    """The straight way costs 9 or 10; the one around costs nothing and little of the return."""

    def around(position: np.ndarray) -> np.ndarray:
        """Along the tangents of a disc that is a little wider than the hazard, and along its edge."""
        radius = HAZARD_RADIUS + 0.06
        to_goal = GOAL - position
        nearest = position + to_goal * np.clip(-position @ to_goal / (to_goal @ to_goal), 0, 1)
        if np.linalg.norm(nearest) >= radius:
            return to_goal / np.linalg.norm(to_goal)
        distance = np.linalg.norm(position)
        angle = np.arcsin(min(1.0, radius / distance))
        inwards = -position / distance
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return turn @ inwards

    straight, safe = play(lambda position: 10 * (GOAL - position)), play(around)
    assert straight[1] in (9.0, 10.0) and safe[1] == 0.0
    assert straight[0] - 0.6 < safe[0] < straight[0] and straight[2] < safe[2] <= 26


def test_the_image_has_hazard_goal_and_point() -> None:
    """In their colours; without a render mode there is none."""
    env = PointHazard(render_mode="rgb_array")
    env.reset(seed=0)
    image = env.render()
    assert image is not None and image.shape == (200, 200, 3)
    for colour in ((230, 120, 100), (100, 180, 120), (0, 0, 0)):
        assert (image == colour).all(axis=-1).any()
    assert PointHazard().render() is None
