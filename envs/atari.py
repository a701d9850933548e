"""Atari as every part of kpagent plays it: raw single frames, one action in four of them, nothing left to chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym

from kpagent.errors import UsageError

if TYPE_CHECKING:
    from ale_py import AtariVectorEnv

FRAME_SKIP = 4
SCREEN = (210, 160)
"""Height and width of the emulator's picture."""

_VECTOR_SETTINGS = {
    "img_height": SCREEN[0],
    "img_width": SCREEN[1],
    "grayscale": False,
    "stack_num": 1,
    "frameskip": FRAME_SKIP,
    "maxpool": False,
    "repeat_action_probability": 0.0,
    "reward_clipping": False,
    "use_fire_reset": False,
}


def register_atari() -> None:
    """Make the ids of Atari known to Gymnasium, and keep the emulator from printing when a game is made."""
    import ale_py

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gym.register_envs(ale_py)


def make_atari_vector(env_id: str, num_envs: int, **settings: Any) -> AtariVectorEnv:
    """Many copies of a game that step in C++ threads.

    An observation is (1, 210, 160, 3) uint8: one raw RGB frame, no maximum over two, and with it four frames an action, no
    sticky actions, rewards as the game gives them and no FIRE pressed for the player. An episode begins with up to 30
    idle frames, drawn from the seed of `reset`, so that the copies differ; `noop_max=0` leaves them out.

    Args:
        env_id: such as "ALE/Pong-v5".
        num_envs: number of copies.
        settings: arguments of `ale_py.AtariVectorEnv` that differ from the above. With `img_height` and `img_width` the
            threads shrink the frames too, bit for bit as `kpagent.frames.resize` does.

    Raises:
        UsageError: no game of that name, or fewer than one copy.
    """
    register_atari()
    from ale_py import AtariVectorEnv

    spec = gym.registry.get(env_id)
    if spec is None or not env_id.startswith("ALE/"):
        raise UsageError(f"{env_id!r} is no Atari game; ids look like ALE/Pong-v5")
    if num_envs < 1:
        raise UsageError(f"the number of environments must be at least 1, not {num_envs}")
    return AtariVectorEnv(spec.kwargs["game"], num_envs, **(_VECTOR_SETTINGS | settings))
