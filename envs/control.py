"""What DeepMind Control needs before it is imported."""

from __future__ import annotations

import importlib.util
import os
import sys

from kpagent.errors import UsageError


def require_control(name: str) -> None:
    """Make sure that DeepMind Control can be imported and will be able to render.

    Args:
        name: the environment that needs it, for the message.

    Raises:
        UsageError: a package of the extra `control` is not installed.
    """
    missing = [module for module in ("dm_control", "shimmy", "imageio") if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(f"{name} needs {' and '.join(missing)}: pip install 'kpagent[control]'")
    render_without_display()


def render_without_display() -> None:
    """Let MuJoCo render where there is no display; to be called before it is imported."""
    # MuJoCo reads it once, when it is imported; without a display only EGL renders.
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
