"""Navigate a point to a goal, past a hazard on the straight way."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Observation = NDArray[np.float32]

START, GOAL = np.array([-1.0, 0.0]), np.array([1.0, 0.0])
START_SPREAD, GOAL_RADIUS, HAZARD_RADIUS = 0.2, 0.15, 0.5
SPEED, REWARD, WALL = 0.1, -0.1, 2.0  # distances per step; reward per distance and step
SIDE = 200  # pixels of the image


class PointHazard(gym.Env[Observation, Observation]):
    """A point moves in the plane from the left to a goal on the right; a hazard lies in between.

    The action is the velocity (2,), of length at most 1 (longer ones are shortened); a step moves the point
    by a tenth of it. The reward is minus a tenth of the distance to the goal; an episode ends at the goal
    (within 0.15). info["cost"] is 1 at every step that ends inside the hazard, a disc of radius 0.5 around
    the origin, and 0 elsewhere. So the shortest way crosses the hazard, with a cost of about 10; the way
    around it is about a fifth longer and costs nothing.

    The start is (-1, 0), plus up to 0.2 in both coordinates; walls at ±2 stop the point. The observation is
    the position, which is all there is to know, in float32.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (as gym.Env)

    def __init__(self, *, render_mode: str | None = None) -> None:
        """Start in the middle of the possible starts.

        Args:
            render_mode: None or ``"rgb_array"``.
        """
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(-WALL, WALL, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._position = START.copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw a start; `options` is not used."""
        super().reset(seed=seed)
        self._position = START + self.np_random.uniform(-START_SPREAD, START_SPREAD, 2)
        return self._position.astype(np.float32), {}

    def step(self, action: Observation) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move the point."""
        velocity = np.asarray(action, dtype=np.float64)
        velocity = velocity / max(1.0, float(np.linalg.norm(velocity)))
        self._position = np.clip(self._position + SPEED * velocity, -WALL, WALL)
        distance = float(np.linalg.norm(GOAL - self._position))
        inside = float(np.linalg.norm(self._position)) < HAZARD_RADIUS
        observation = self._position.astype(np.float32)
        return observation, REWARD * distance, distance < GOAL_RADIUS, False, {"cost": float(inside)}

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]  # gym.Env knows only its own type
        """Return an image (200, 200, 3) with hazard, goal and point, or None without a render mode."""
        if self.render_mode is None:
            return None
        image = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
        centres = (np.arange(SIDE) + 0.5) / SIDE * 2 * WALL - WALL
        places = np.stack(np.meshgrid(centres, -centres), axis=-1)
        discs = ((np.zeros(2), HAZARD_RADIUS, (230, 120, 100)), (GOAL, GOAL_RADIUS, (100, 180, 120)))
        for centre, radius, colour in (*discs, (self._position, 0.06, (0, 0, 0))):
            image[np.linalg.norm(places - centre, axis=-1) < radius] = colour
        return image
