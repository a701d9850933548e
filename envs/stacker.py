"""DeepMind Control's stacker with four boxes, filmed so that keypoints can be learned from it."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import RepeatAction

from kpagent.envs.control import require_control
from kpagent.errors import UsageError

STACKER_ID = "kpagent/Stacker4-v0"
ACTION_REPEAT = 4
CAMERA = 0
"""The fixed camera of the stacker, which looks at the plane of the arm from 16 m."""

_CENTRE = (0.05, 0.37)
"""Place (x, z) in metres that the camera looks at; boxes fall and stay to the right of the arm's root."""

_HEIGHT = 0.8
"""Metres that the picture shows from its lower to its upper edge."""


def register_stacker() -> None:
    """Make `kpagent/Stacker4-v0` known to Gymnasium; nothing of DeepMind Control is imported before it is made."""
    if STACKER_ID not in gym.registry:
        gym.register(STACKER_ID, entry_point="kpagent.envs.stacker:make_stacker")


def make_stacker(*, render_mode: str | None = "rgb_array", height: int = 84, width: int = 84) -> gym.Env[Any, Any]:
    """Stacker with four boxes: `dm_control/stacker-stack_4-v0`, each action repeated four times.

    An episode has 250 interactions of 0.04 s and is then truncated; its start is drawn from the seed of `reset`. The reward
    is the sum over the four steps, each in [0, 1]. Observations are DeepMind Control's; frames come from `render`.

    The camera is the suite's fixed one, moved and zoomed from 1.12 m to 0.8 m of the scene: x in [-0.35, 0.45] and z in
    [-0.03, 0.77], for a square picture. A box is then 4.6 of 84 pixels wide in place of 3.3. Under random actions each of
    the boxes and links was inside for at least 0.93 of 5,000 frames, 0.98 on average; any closer, and the hand is often
    outside. Shadows and reflections are off: a frame takes 6 ms in place of 22 on one core without a GPU.

    Args:
        render_mode: "rgb_array", or None for an environment that cannot render.
        height: rows of a frame.
        width: columns of a frame.

    Raises:
        UsageError: the extra `control` is not installed, another render mode, or a frame without pixels.
    """
    if render_mode not in ("rgb_array", None):
        raise UsageError(f"{STACKER_ID} renders as 'rgb_array' only, not as {render_mode!r}")
    if height < 1 or width < 1:
        raise UsageError(f"a frame must have at least one row and one column, not {height} and {width}")
    require_control(STACKER_ID)
    from dm_control import suite
    from shimmy.dm_control_compatibility import DmControlCompatibilityV0

    control = suite.load("stacker", "stack_4")
    model = control.physics.model
    distance = -model.cam_pos[CAMERA, 1]
    model.cam_pos[CAMERA, [0, 2]] = _CENTRE
    model.cam_fovy[CAMERA] = math.degrees(2 * math.atan(_HEIGHT / 2 / distance))
    env = DmControlCompatibilityV0(
        control,
        render_mode=render_mode,
        render_kwargs={
            "height": height,
            "width": width,
            "camera_id": CAMERA,
            "render_flag_overrides": {"shadow": False, "reflection": False},
        },
    )
    # Shimmy's own says ten frames a second, and lists modes that the settings above do not fit.
    env.metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / (ACTION_REPEAT * control.control_timestep()))}
    return RepeatAction(env, ACTION_REPEAT)
