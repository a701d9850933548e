"""Pushing as a Gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from kpagent.envs.pushing.scene import SUCCESS, Scene, draw_scene, path_length
from kpagent.envs.pushing.simulation import LARGEST, Simulation
from kpagent.errors import UsageError

PUSHING_ID = "kpagent/Pushing-v0"
STEPS = 60
"""Actions of an episode, as in KeyIn Table 3."""


def register_pushing() -> None:
    """Make `kpagent/Pushing-v0` known to Gymnasium; MuJoCo is not imported before it is made."""
    if PUSHING_ID not in gym.registry:
        gym.register(PUSHING_ID, entry_point="kpagent.envs.pushing.environment:Pushing", max_episode_steps=STEPS)


class Pushing(gym.Env[np.ndarray, np.ndarray]):
    """A hand on a table pushes a puck around a wall to its goal (KeyIn sections 4 and 7).

    The observation is the table from above, (S, S, 3) uint8. An action is (3,) in [-1, 1], forces on the hand along x (right
    in the picture), y (up in the picture) and z (up from the table), where 1 is 20 N; it lasts 0.25 s. Against the hand's
    friction that is a speed of 1 unit a second, on a table of 2.4 units, and 0.57 with the puck before it. At z 0.2 the hand
    is above puck and wall; it has no weight and stays where it is. Episodes have 60 actions, which `gymnasium.make` counts.

    The reward is the negative length of the shortest path of the puck to its goal around the wall, in units of the table;
    there is no other end than the last action. `info` holds, all in units of the table:

    | key | what |
    |---|---|
    | `puck`, `goal` | (2,) place |
    | `hand` | (3,) place |
    | `wall` | (3,) place of its middle, angle of its line in radians |
    | `distance` | length of the puck's shortest path to the goal |
    | `success` | whether that is under 0.3 |

    `reset` draws a task from its seed, or takes `options={"scene": Scene(...)}`. A planner reads and sets the state of the
    physics with `get_state` and `set_state`, and hands `simulation` to `rollouts.Rollouts`. A pickled copy goes on from
    where the environment was.

    Args:
        render_mode: "rgb_array", which gives the observation once more, or None.
        image_size: S.
        show_goal: draw the goal as a disc on the table.

    Raises:
        UsageError: another render mode or size, or MuJoCo is not installed.
    """

    # Of frames, four of which are a second.
    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (Gymnasium's own)

    def __init__(self, *, render_mode: str | None = None, image_size: int = 64, show_goal: bool = True) -> None:
        if render_mode not in ("rgb_array", None):
            raise UsageError(f"{PUSHING_ID} renders as 'rgb_array' only, not as {render_mode!r}")
        if not isinstance(image_size, int) or not 16 <= image_size <= LARGEST:
            raise UsageError(f"image_size must be from 16 to {LARGEST}; got {image_size!r}")
        self.render_mode = render_mode
        self.image_size, self.show_goal = image_size, show_goal
        self.observation_space = gym.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.action_space = gym.spaces.Box(-1, 1, (3,), np.float32)
        self.simulation = Simulation(draw_scene(np.random.default_rng(0)))

    @property
    def scene(self) -> Scene:
        """The task."""
        return self.simulation.scene

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a task, drawn at random or `options["scene"]`.

        Raises:
            UsageError: `options["scene"]` is no `Scene`.
        """
        super().reset(seed=seed)
        scene = (options or {}).get("scene")
        if scene is not None and not isinstance(scene, Scene):
            raise UsageError(f"options['scene'] must be a Scene, not {type(scene).__name__}")
        self.simulation.begin(draw_scene(self.np_random) if scene is None else scene)
        return self._frame(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply forces for 0.25 s.

        Raises:
            ValueError: an action of another shape, or with NaN.
        """
        action = np.asarray(action, float)
        if action.shape != (3,) or np.isnan(action).any():
            raise ValueError(f"an action must be three numbers, not {action!r}")
        self.simulation.step(action)
        info = self._info()
        return self._frame(), -info["distance"], False, False, info

    def render(self) -> np.ndarray | None:
        """The observation, where the render mode is "rgb_array"."""
        return self._frame() if self.render_mode == "rgb_array" else None

    def goal_image(self) -> np.ndarray:
        """The table with the puck at its goal and the hand where it begins, (S, S, 3) uint8."""
        state = self.simulation.get_state()
        reached = Scene(self.scene.goal, self.scene.goal, self.scene.wall, self.scene.wall_angle)
        scene = self.scene
        self.simulation.begin(reached)
        image = self._frame()
        self.simulation.begin(scene)
        self.simulation.set_state(state)
        return image

    def get_state(self) -> np.ndarray:
        """(S,) float64: MuJoCo's full physics state; `Simulation` says what is in it."""
        return self.simulation.get_state()

    def set_state(self, state: np.ndarray) -> None:
        """Go on from a state of `get_state`, in the same scene; the count of actions is not part of it.

        Raises:
            ValueError: another shape.
        """
        self.simulation.set_state(state)

    def close(self) -> None:
        """Give back what renders."""
        self.simulation.close()

    def _frame(self) -> np.ndarray:
        return self.simulation.render(self.image_size, show_goal=self.show_goal)

    def _info(self) -> dict[str, Any]:
        scene, puck = self.scene, self.simulation.puck
        distance = float(path_length(scene, puck, scene.goal))
        return {
            "puck": puck,
            "hand": self.simulation.hand,
            "goal": np.array(scene.goal),
            "wall": np.array([*scene.wall, scene.wall_angle]),
            "distance": distance,
            "success": distance < SUCCESS,
        }
