"""DeepMind Control as small frames: rendered at their size, without shadows, by a camera that is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from kpagent.envs.making import make_env, require_registered
from kpagent.errors import UsageError

PREFIX = "dm_control/"
"""How the ids begin that Shimmy registers."""
FLAGS = {"shadow": False, "reflection": False}
"""What is rendered otherwise than in the suite; with both, a frame takes five to seven times as long."""


class ControlFrames(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """A DeepMind Control task whose `render` gives small square frames, fast.

    MuJoCo's scene is made once: `physics.render`, which makes it anew each time, gives the same frames and takes up to twice
    as long.

    Args:
        env: of Shimmy, with render_mode "rgb_array".
        size: S, height and width.
        camera: number of the task's camera; tasks with fewer have the free camera.
    """

    def __init__(self, env: gym.Env[Any, Any], size: int = 64, camera: int = 0) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, size=size, camera=camera)
        super().__init__(env)
        self._size, self._number = size, camera
        self._camera: tuple[Any, Any] | None = None

    def render(self) -> np.ndarray:
        """(S, S, 3) uint8."""
        from dm_control.mujoco import Camera

        physics = self.env.unwrapped.physics  # type: ignore[attr-defined]
        # Some tasks compile their model anew at each reset.
        if self._camera is None or self._camera[0] is not physics.model.ptr:
            number = self._number if self._number < physics.model.ncam else -1
            self._forget()
            self._camera = physics.model.ptr, Camera(physics, self._size, self._size, camera_id=number)
        frame: np.ndarray = self._camera[1].render(render_flag_overrides=FLAGS)
        # The camera's buffer is written again.
        return frame.copy()

    def close(self) -> None:
        """As of `gymnasium.Env`."""
        self._forget()
        super().close()

    def _forget(self) -> None:
        if self._camera is not None:
            self._camera[1].scene.free()
            self._camera = None


def make_frames_env(env_id: str, size: int = 64, camera: int = 0) -> gym.Env[Any, Any]:
    """An environment that renders frames; those of DeepMind Control are small already, as `ControlFrames` has them.

    Args:
        env_id: as of `make_env`.
        size: S of the frames of DeepMind Control.
        camera: of DeepMind Control.

    Raises:
        UsageError: no such id, what it needs is not installed, or nothing can be rendered on this machine, where that shows
            before the first frame.
    """
    with _explaining(env_id):
        require_registered(env_id)
        if not env_id.startswith(PREFIX):
            return make_env(env_id, render_mode="rgb_array")
        with _quiet():
            return ControlFrames(make_env(env_id, render_mode="rgb_array"), size, camera)


def require_frames(env: gym.Env[Any, Any], env_id: str) -> None:
    """Reset an environment and render a frame.

    Raises:
        UsageError: it cannot be rendered on this machine.
    """
    with _explaining(env_id):
        env.reset(seed=0)
        env.render()


@contextlib.contextmanager
def _explaining(env_id: str) -> Iterator[None]:
    """What goes wrong inside in one line."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        # What is raised depends on the library that is missing, and comes from importing a renderer or from its first frame.
        control = env_id.startswith(PREFIX)
        needs = "; MuJoCo needs EGL (Debian's libegl1), or OSMesa and MUJOCO_GL=osmesa" if control else ""
        raise UsageError(f"{env_id} cannot be rendered on this machine: {' '.join(str(error).split())}{needs}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what MuJoCo's compiler warns of in the suite's own files."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
