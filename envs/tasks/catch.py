"""A small image task: catch a falling ball."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

LEFT, STAY, RIGHT = 0, 1, 2
WHITE = 255


class Catch(gym.Env[Image, np.int64]):
    """A ball falls straight through a grid; a paddle in the bottom row must be below it at the end.

    The rules are those of bsuite's catch (Osband et al. 2020, "Behaviour suite for reinforcement learning").
    The ball starts in the top row, in a uniformly random column, and falls one row per step. The paddle
    starts in the middle and moves left (0), stays (1) or moves right (2); walls stop it. An episode has
    rows - 1 steps. The reward of the last step is +1 if the ball is caught and -1 if not; all others are 0.

    The observation is an image (rows · cell, columns · cell, 1) of uint8: every cell of the grid is a
    square of pixels, white for ball and paddle, black elsewhere. The defaults give 80 by 40 pixels;
    SB3's NatureCNN needs 36 by 36. One image shows the full state, since only the paddle moves sideways.

    Two returns are known exactly (see `optimal_return` and `blind_return`): a policy that uses the image can
    always get +1; one that does not, e.g. a random one, gets 2 / columns - 1 in expectation, by default -0.6.
    So any significantly higher return was learnt from the pixels.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (as gym.Env)

    def __init__(
        self, *, rows: int = 10, columns: int = 5, cell: int = 8, render_mode: str | None = None
    ) -> None:
        """Set the size of grid and image.

        Args:
            rows: Rows of the grid, at least 2.
            columns: Columns of the grid, at least 1 and at most 2 · rows - 1, so that every ball can be
                reached in time.
            cell: The side of a cell in pixels, at least 1.
            render_mode: None or ``"rgb_array"``.

        Raises:
            ValueError: If a size is out of range, or the render mode is unknown.
        """
        if not (rows >= 2 and 1 <= columns <= 2 * rows - 1 and cell >= 1):
            raise ValueError(
                "expected rows >= 2, 1 <= columns <= 2 * rows - 1 and cell >= 1, "
                f"got rows={rows}, columns={columns}, cell={cell}; a paddle must reach both walls in time."
            )
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"expected render_mode None or 'rgb_array', got {render_mode!r}.")
        self.rows, self.columns, self.cell = rows, columns, cell
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0, WHITE, (rows * cell, columns * cell, 1), np.uint8)
        self.action_space = gym.spaces.Discrete(3)
        self._ball_row = self._ball_column = 0
        self._paddle = columns // 2

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Image, dict[str, Any]]:
        """Place a new ball; `options` is not used."""
        super().reset(seed=seed)
        self._ball_row, self._ball_column = 0, int(self.np_random.integers(self.columns))
        self._paddle = self.columns // 2
        return self._image(), {}

    def step(self, action: np.int64) -> tuple[Image, float, bool, bool, dict[str, Any]]:
        """Move the paddle, then the ball."""
        self._paddle = min(max(self._paddle + int(action) - STAY, 0), self.columns - 1)
        self._ball_row += 1
        terminated = self._ball_row == self.rows - 1
        reward = 0.0
        if terminated:
            reward = 1.0 if self._paddle == self._ball_column else -1.0
        return self._image(), reward, terminated, False, {}

    def render(self) -> Image | None:  # type: ignore[override]  # gym.Env knows only its own frame type
        """Return the image (rows · cell, columns · cell, 3), or None without a render mode."""
        return None if self.render_mode is None else np.repeat(self._image(), 3, axis=2)

    def _image(self) -> Image:
        grid = np.zeros((self.rows, self.columns), dtype=np.uint8)
        grid[self._ball_row, self._ball_column] = WHITE
        grid[-1, self._paddle] = WHITE
        return grid.repeat(self.cell, axis=0).repeat(self.cell, axis=1)[..., np.newaxis]

    @property
    def optimal_return(self) -> float:
        """The return of the best policy, in every episode: in rows - 1 steps it can reach either wall."""
        return 1.0

    @property
    def blind_return(self) -> float:
        """The expected return of any policy that does not use the image, e.g. a random one.

        The ball's column is uniform and independent of the paddle's final column, so the two are equal with
        probability 1 / columns.
        """
        return 2 / self.columns - 1
