"""The physics of pushing, in MuJoCo: a hand that is moved by forces, a puck on a table, a wall; its states and pictures.

Everything that meets is a sphere, a capsule, a box or a plane in the simulation, which MuJoCo intersects in closed form;
what is seen are cylinders. The puck stays on the table and slides against viscous friction; the hand is a thin cylinder
that can be lifted over puck and wall, and stays at its height where nothing moves it. Nothing is remembered from one step of
physics to the next but positions and velocities, so a state that is set goes on exactly as it did before.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import math
import weakref
from typing import Any

import numpy as np

from kpagent.envs.control import render_without_display
from kpagent.envs.pushing.scene import HAND_RADIUS, PUCK_RADIUS, TABLE, WALL_HALF_LENGTH, WALL_HALF_THICKNESS, Scene
from kpagent.errors import UsageError
from kpagent.frames import resize

SECONDS = 0.25
"""What one action lasts."""
SUBSTEPS = 20
"""Steps of physics in one action."""
FORCE = 20.0
"""Newton along one axis where an action is 1."""
SPEED = 1.0
"""Units a second that a free hand reaches under it; nine tenths of that after 0.12 s."""
HAND_MASS, PUCK_MASS = 1.0, 0.6
"""Kilograms."""
HAND_DRAG, PUCK_DRAG = FORCE / SPEED, 15.0
"""Newton of friction at one unit a second."""
LARGEST = 512
"""Greatest height and width of a picture."""
LIFTED = 0.2
"""Height of a lifted hand, above puck and wall."""
PUCK_COLOR, HAND_COLOR, WALL_COLOR, GOAL_COLOR, TABLE_COLOR = (
    (179, 89, 134), (45, 45, 50), (45, 85, 185), (70, 165, 85), (215, 210, 200)
)  # fmt: skip
"""RGB of all that is seen; nothing is shaded, so these are the very values of pixels that one thing covers."""

_PUCK_HEIGHT, _WALL_HEIGHT, _CAP_HEIGHT = 0.08, 0.1, 0.16
# Wide enough to be seen: the hand itself is 1.6 of 64 pixels across.
_CAP_RADIUS = 0.06
_CAMERA_HEIGHT = 3.0
_HIDDEN, _MARKED = 4, 3
# Along each axis of a pixel. Averaged here they cost 0.5 ms a frame, and 1.2 as MuJoCo's own multisampling, without a GPU.
_SAMPLES = 2


def require_mujoco() -> Any:
    """The module `mujoco`, set up to render without a display.

    Raises:
        UsageError: it is not installed.
    """
    render_without_display()
    try:
        return importlib.import_module("mujoco")
    except ImportError:
        raise UsageError("pushing needs mujoco: pip install 'kpagent[control]'") from None


class Simulation:
    """One table with a hand, a puck and a wall.

    A state is MuJoCo's `mjSTATE_FULLPHYSICS`: time, the positions (hand x, y, z; puck x, y, angle), their velocities. Where
    wall and goal are is not part of it: that is the scene's. A pickled copy has scene and state.

    Args:
        scene: what to begin with.

    Attributes:
        model: MuJoCo's `MjModel`, with the scene's wall in it, for `mujoco.rollout`.
        data: MuJoCo's `MjData`.

    Raises:
        UsageError: MuJoCo is not installed.
    """

    def __init__(self, scene: Scene) -> None:
        mujoco = require_mujoco()
        self.model = mujoco.MjModel.from_xml_string(_xml())
        self.data = mujoco.MjData(self.model)
        self._renderers: dict[int, Any] = {}
        self.begin(scene)

    def begin(self, scene: Scene) -> None:
        """Set up a scene: the puck at its start, the hand in the middle of the table, all at rest."""
        mujoco = require_mujoco()
        self._scene = scene
        wall, goal = self.model.body("wall").id, self.model.body("goal").id
        self.model.body_pos[wall, :2] = scene.wall
        self.model.body_quat[wall] = math.cos(scene.wall_angle / 2), 0, 0, math.sin(scene.wall_angle / 2)
        self.model.body_pos[goal, :2] = scene.goal
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[3:5] = scene.puck
        mujoco.mj_forward(self.model, self.data)

    @property
    def scene(self) -> Scene:
        """The task that is set up."""
        return self._scene

    @property
    def hand(self) -> np.ndarray:
        """(3,) place of the hand, z from 0 (on the table) up."""
        return self.data.qpos[:3].copy()

    @property
    def hand_velocity(self) -> np.ndarray:
        """(3,) of the hand, in units a second."""
        return self.data.qvel[:3].copy()

    @property
    def puck(self) -> np.ndarray:
        """(2,) place of the puck."""
        return self.data.qpos[3:5].copy()

    def step(self, action: np.ndarray) -> None:
        """Apply forces for `SECONDS`.

        Args:
            action: (3,) along x, y and z, in units of `FORCE`; clipped to [-1, 1].
        """
        self.data.ctrl[:] = np.clip(action, -1, 1)
        require_mujoco().mj_step(self.model, self.data, SUBSTEPS)

    def get_state(self) -> np.ndarray:
        """(S,) float64: MuJoCo's full physics state."""
        mujoco = require_mujoco()
        kind = mujoco.mjtState.mjSTATE_FULLPHYSICS
        state = np.empty(mujoco.mj_stateSize(self.model, kind))
        mujoco.mj_getState(self.model, self.data, state, kind)
        return state

    def set_state(self, state: np.ndarray) -> None:
        """Go on from a state that `get_state` gave, in a scene with the same wall.

        Raises:
            ValueError: another shape.
        """
        mujoco = require_mujoco()
        kind = mujoco.mjtState.mjSTATE_FULLPHYSICS
        size = mujoco.mj_stateSize(self.model, kind)
        if np.shape(state) != (size,):
            raise ValueError(f"a state must be ({size},), not {np.shape(state)}")
        mujoco.mj_setState(self.model, self.data, np.asarray(state, float), kind)
        mujoco.mj_forward(self.model, self.data)

    def render(self, size: int, *, show_goal: bool = True) -> np.ndarray:
        """The table from above, from edge to edge.

        Args:
            size: height and width, at most `LARGEST`.
            show_goal: draw the goal as a disc on the table.

        Returns:
            (size, size, 3) uint8.
        """
        renderer, options = self._renderer(size)
        options.geomgroup[_MARKED] = show_goal
        renderer.update_scene(self.data, "above", options)
        return resize(renderer.render(), size)

    def close(self) -> None:
        """Give back what renders; rendering again takes it anew."""
        for _, _, close in self._renderers.values():
            close()
            atexit.unregister(close)
        self._renderers.clear()

    def _renderer(self, size: int) -> tuple[Any, Any]:
        if size not in self._renderers:
            mujoco = require_mujoco()
            renderer = mujoco.Renderer(self.model, _SAMPLES * size, _SAMPLES * size)
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                renderer.scene.flags[flag] = 0
            options = mujoco.MjvOption()
            options.geomgroup[_HIDDEN] = 0
            close = weakref.finalize(self, renderer.close)
            # At the interpreter's end it must go before EGL does, which had its own end registered just now.
            close.atexit = False
            atexit.register(close)
            self._renderers[size] = renderer, options, close
        return self._renderers[size][:2]

    def __getstate__(self) -> dict[str, Any]:
        return {"scene": self._scene, "state": self.get_state()}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        Simulation.__init__(self, kept["scene"])
        self.set_state(kept["state"])


def places(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where hand and puck are in states (..., S): (..., 3) and (..., 2)."""
    return states[..., 1:4], states[..., 4:6]


def to_image(xy: Any, height: Any = 0.0) -> np.ndarray:
    """Where places on the table are seen.

    Args:
        xy: (..., 2) places on the table.
        height: of what is seen, above the table.

    Returns:
        (..., 2) float32 coordinates (x to the right, y down); [-1, 1] is the picture.
    """
    nearer = _CAMERA_HEIGHT / (_CAMERA_HEIGHT - height)
    return (np.asarray(xy, float) * nearer / TABLE * (1, -1)).astype(np.float32)


def seen(hand: np.ndarray, puck: np.ndarray) -> np.ndarray:
    """Coordinates in the picture of the centres of the puck and of the hand's cap.

    Args:
        hand: (..., 3).
        puck: (..., 2).

    Returns:
        (..., 2, 2) float32: puck and hand, (x, y) in [-1, 1].
    """
    return np.stack([to_image(puck, _PUCK_HEIGHT), to_image(hand[..., :2], hand[..., 2:] + _CAP_HEIGHT)], axis=-2)


@functools.cache
def _xml() -> str:
    def rgba(color: tuple[int, int, int]) -> str:
        return " ".join(f"{value / 255:.6f}" for value in color) + " 1"

    table = 1.2 * TABLE
    border = "".join(
        f'<geom type="plane" size="{table} {table} 0.1" pos="{-x * TABLE} {-y * TABLE} 0" zaxis="{x} {y} 0"'
        f' group="{_HIDDEN}" contype="1" conaffinity="2"/>'
        for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1))
    )
    seen_only = 'contype="0" conaffinity="0" mass="0"'
    # Centres of capsule and sphere lie at heights at which their cross-sections, seen from above, are the true circles.
    return f"""
<mujoco>
  <option timestep="{SECONDS / SUBSTEPS}" gravity="0 0 0" integrator="implicitfast" cone="pyramidal">
    <flag warmstart="disable"/>
  </option>
  <visual>
    <global offwidth="{_SAMPLES * LARGEST}" offheight="{_SAMPLES * LARGEST}" fovy="45"/>
    <headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/>
    <quality offsamples="0" shadowsize="0"/>
    <map znear="0.1" zfar="10"/>
  </visual>
  <default>
    <geom condim="1" solref="0.025 1" solimp="0.95 0.99 0.005"/>
  </default>
  <worldbody>
    <camera name="above" pos="0 0 {_CAMERA_HEIGHT}" fovy="{math.degrees(2 * math.atan(TABLE / _CAMERA_HEIGHT))}"/>
    <geom type="box" size="{table} {table} 0.01" pos="0 0 -0.011" rgba="{rgba(TABLE_COLOR)}" {seen_only}/>
    {border}
    <body name="goal" pos="0 0 0.001">
      <geom type="cylinder" size="{PUCK_RADIUS} 0.001" rgba="{rgba(GOAL_COLOR)}" group="{_MARKED}" {seen_only}/>
    </body>
    <body name="wall" pos="0 0 {_WALL_HEIGHT / 2}">
      <geom type="box" size="{WALL_HALF_LENGTH} {WALL_HALF_THICKNESS} {_WALL_HEIGHT / 2}" rgba="{rgba(WALL_COLOR)}"
        contype="1" conaffinity="2"/>
    </body>
    <body name="hand" pos="0 0 0">
      <joint name="hand_x" type="slide" axis="1 0 0" damping="{HAND_DRAG}"/>
      <joint name="hand_y" type="slide" axis="0 1 0" damping="{HAND_DRAG}"/>
      <joint name="hand_z" type="slide" axis="0 0 1" damping="{HAND_DRAG}" range="0 {LIFTED}" limited="true"
        solreflimit="0.025 1"/>
      <geom type="capsule" size="{HAND_RADIUS}" fromto="0 0 0.02 0 0 0.1" mass="{HAND_MASS}" group="{_HIDDEN}"
        contype="2" conaffinity="3"/>
      <geom type="cylinder" size="{HAND_RADIUS}" fromto="0 0 0.005 0 0 {_CAP_HEIGHT}" rgba="{rgba(HAND_COLOR)}" {seen_only}/>
      <geom type="cylinder" size="{_CAP_RADIUS}" fromto="0 0 {_CAP_HEIGHT - 0.02} 0 0 {_CAP_HEIGHT}"
        rgba="{rgba(HAND_COLOR)}" {seen_only}/>
    </body>
    <body name="puck" pos="0 0 0.05">
      <joint name="puck_x" type="slide" axis="1 0 0" damping="{PUCK_DRAG}"/>
      <joint name="puck_y" type="slide" axis="0 1 0" damping="{PUCK_DRAG}"/>
      <joint name="puck_turn" type="hinge" axis="0 0 1" damping="0.01"/>
      <geom type="sphere" size="{PUCK_RADIUS}" mass="{PUCK_MASS}" group="{_HIDDEN}" contype="2" conaffinity="3"/>
      <geom type="cylinder" size="{PUCK_RADIUS}" fromto="0 0 -0.04 0 0 {_PUCK_HEIGHT - 0.05}" rgba="{rgba(PUCK_COLOR)}"
        {seen_only}/>
    </body>
  </worldbody>
  <actuator>
    <motor joint="hand_x" gear="{FORCE}" ctrlrange="-1 1" ctrllimited="true"/>
    <motor joint="hand_y" gear="{FORCE}" ctrlrange="-1 1" ctrllimited="true"/>
    <motor joint="hand_z" gear="{FORCE}" ctrlrange="-1 1" ctrllimited="true"/>
  </actuator>
</mujoco>"""
