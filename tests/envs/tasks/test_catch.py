"""Catch: its rules and its image, and both ends of its scale against enumeration and simulation."""

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import envs
from envs import Catch, make_vec_env
from envs.tasks.catch import LEFT, RIGHT, STAY

SIZES = [(10, 5), (3, 5), (4, 1), (5, 4), (2, 3)]


def value(rows: int, columns: int, backup: Callable[[np.ndarray], np.ndarray]) -> float:
    """Return the expected return by dynamic programming over (ball column, paddle column).

    Args:
        rows: Of the grid.
        columns: Of the grid.
        backup: Maps the values of the three actions (3, ball, paddle) to those of the state.
    """
    values = 2 * np.eye(columns) - 1  # after the last step, the ball's row is the paddle's
    paddle = np.arange(columns)
    moved = np.stack([np.clip(paddle + dx, 0, columns - 1) for dx in (-1, 0, 1)])
    for _ in range(rows - 1):
        values = backup(np.stack([values[:, columns_after] for columns_after in moved]))
    return values[:, columns // 2].mean()


def play(env: Catch, policy: Callable[[np.ndarray], int], episodes: int) -> np.ndarray:
    """Return the returns (episodes,) of a policy that sees the image."""
    env.reset(seed=0)
    returns = np.zeros(episodes)
    for episode in range(episodes):
        image, terminated = env.reset()[0], False
        while not terminated:
            image, reward, terminated, _, _ = env.step(policy(image))
            returns[episode] += reward
    return returns


def cells(image: np.ndarray, cell: int = 8) -> np.ndarray:
    """Return the grid behind an image, having checked that every cell has one shade."""
    rows, columns = image.shape[0] // cell, image.shape[1] // cell
    squares = image.reshape(rows, cell, columns, cell)
    grid = squares[:, 0, :, 0]
    assert np.array_equal(squares, np.broadcast_to(grid[:, None, :, None], squares.shape))
    return grid


def towards_the_ball(image: np.ndarray) -> int:
    """Return the best action, read off the pixels of a grid with the ball above its last row."""
    grid = cells(image)
    ball, paddle = grid[:-1].any(axis=0).argmax(), grid[-1].argmax()
    return STAY + int(np.sign(int(ball) - int(paddle)))


@pytest.mark.filterwarnings("ignore:.*env_checker.*:UserWarning")
def test_passes_both_checkers() -> None:
    """Gymnasium's checker and SB3's, by the registered id, with rendering."""
    assert envs
    env = gym.make("Catch-v0", render_mode="rgb_array").unwrapped
    check_env(env)
    sb3_check_env(env, warn=True)


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_the_known_returns_are_those_of_dynamic_programming(rows: int, columns: int) -> None:
    """Enumerated over every state: the optimum is +1, the uniformly random policy earns 2/columns - 1."""
    catch = Catch(rows=rows, columns=columns)
    assert value(rows, columns, lambda q: q.max(axis=0)) == catch.optimal_return
    assert value(rows, columns, lambda q: q.mean(axis=0)) == pytest.approx(catch.blind_return, abs=1e-12)


@pytest.mark.parametrize("action", [LEFT, STAY, RIGHT])
def test_every_blind_policy_earns_the_same(action: int) -> None:
    """Not seeing the ball costs the same whatever the paddle does, its walls included."""
    assert value(10, 5, lambda q: q[action]) == pytest.approx(Catch().blind_return)


def test_random_play_earns_what_was_computed() -> None:
    """The mean of 2000 random episodes is -0.6 within 4 standard errors."""
    env, rng = Catch(), np.random.default_rng(0)
    returns = play(env, lambda image: int(rng.integers(3)), 2000)
    assert set(returns) == {-1.0, 1.0}
    standard_error = returns.std(ddof=1) / np.sqrt(len(returns))
    assert env.blind_return == pytest.approx(-0.6)
    assert abs(returns.mean() - env.blind_return) < 4 * standard_error


def test_the_image_is_enough_to_catch_every_ball() -> None:
    """A policy of the pixels alone earns +1 in every episode."""
    assert (play(Catch(), towards_the_ball, 50) == 1).all()


def test_image_shows_ball_and_paddle_as_squares() -> None:
    """80 x 40 x 1 bytes; the ball falls a row a step, the paddle goes where it is sent and stops at walls."""
    env = Catch()
    image, _ = env.reset(seed=3)
    assert image.shape == (80, 40, 1) and image.dtype == np.uint8
    start = cells(image)
    column = int(start[0].argmax())
    assert start[-1].argmax() == 2 and (start != 0).sum() == 2 and start.max() == 255
    paddles = [1, 0, 0, 0, 1, 2, 3, 4, 4]
    for step, (action, paddle) in enumerate(zip([LEFT] * 4 + [RIGHT] * 5, paddles, strict=True), start=1):
        image, reward, terminated, truncated, _ = env.step(np.int64(action))
        expected = np.zeros((10, 5))
        expected[step, column] = expected[9, paddle] = 255
        assert np.array_equal(cells(image), expected)
        assert (terminated, truncated) == (step == 9, False)
        assert reward == (0 if step < 9 else 1 if column == 4 else -1)


def test_balls_are_uniform_and_seeded() -> None:
    """Every column comes up, within 4 standard errors of as often; a seed repeats the sequence."""

    def columns(seed: int, balls: int) -> list[int]:
        env = Catch()
        env.reset(seed=seed)
        return [int(cells(env.reset()[0])[0].argmax()) for _ in range(balls)]

    counts = np.bincount(columns(0, 2000), minlength=5)
    assert np.abs(counts - 400).max() < 4 * np.sqrt(2000 * 0.2 * 0.8)
    assert columns(1, 20) == columns(1, 20) != columns(2, 20)


def test_render_is_the_observation_in_colour() -> None:
    """rgb_array is the image three times over; without a render mode there is none."""
    env = Catch(render_mode="rgb_array")
    image, _ = env.reset(seed=0)
    assert np.array_equal(env.render(), np.repeat(image, 3, axis=2))
    assert Catch().render() is None


def test_factory_builds_it() -> None:
    """`make_vec_env` knows the id; SB3 counts 9 steps an episode."""
    vec_env = make_vec_env("Catch-v0", 2, seed=0)
    assert vec_env.reset().shape == (2, 80, 40, 1)
    dones = [vec_env.step(np.full(2, STAY))[2].all() for _ in range(9)]
    assert dones == [False] * 8 + [True]
    vec_env.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 1}, "expected rows >= 2"),
        ({"columns": 0}, "got rows=10, columns=0, cell=8"),
        ({"rows": 2, "columns": 4}, "must reach both walls in time"),
        ({"cell": 0}, "cell=0"),
        ({"render_mode": "human"}, "expected render_mode None or 'rgb_array', got 'human'"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    """A grid that some ball wins, or an image without pixels, is an error."""
    with pytest.raises(ValueError, match=message):
        Catch(**options)
