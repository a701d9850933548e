"""Environments by their id, made the way kpagent needs them, with one clear line when that cannot be."""

from __future__ import annotations

import difflib
import importlib
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from kpagent.envs.atari import FRAME_SKIP, make_atari_vector, register_atari
from kpagent.envs.control import require_control
from kpagent.envs.later_screens import register_later_screens
from kpagent.envs.pushing.environment import register_pushing
from kpagent.envs.sliding_background import register_sliding_background
from kpagent.envs.stacker import register_stacker
from kpagent.errors import UsageError
from kpagent.frames import FrameLayout


def make_env(env_id: str, **kwargs: Any) -> gym.Env[Any, Any]:
    """One environment whose frames can be had: as its observation, or rendered where the observation is no image.

    Args:
        env_id: any id of Gymnasium ("module:Name-v0" imports `module` first), of Atari ("ALE/Pong-v5"; one action in four
            frames and no sticky actions, unless `kwargs` say otherwise), of DeepMind Control
            ("dm_control/cartpole-swingup-v0") or kpagent's own ("kpagent/Stacker4-v0").
        kwargs: for `gymnasium.make`. Without a `render_mode`, "rgb_array" is taken where the observation is no image and
            the environment has it.

    Raises:
        UsageError: no such id (the message lists those close to it), or what it needs is not installed.
    """
    require_registered(env_id)
    if env_id.startswith("ALE/"):
        kwargs = {"frameskip": FRAME_SKIP, "repeat_action_probability": 0.0} | kwargs
    env = _make(env_id, kwargs)
    renders = "rgb_array" in (env.metadata.get("render_modes") or ())
    if "render_mode" in kwargs or is_image(env.observation_space) or not renders:
        return env
    env.close()
    return _make(env_id, kwargs | {"render_mode": "rgb_array"})


def make_vector_env(
    env_id: str,
    num_envs: int,
    *,
    processes: bool = False,
    autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    **kwargs: Any,
) -> VectorEnv[Any, Any, Any]:
    """Many copies of an environment, stepped together.

    Args:
        env_id: as for `make_env`. Atari ("ALE/...") comes as `make_atari_vector` makes it.
        num_envs: number of copies.
        processes: step each copy in a process of its own, which is spawned, so that a script that asks for it must begin
            its work under `if __name__ == "__main__":`; Atari has threads of its own and takes no notice.
        autoreset_mode: when an episode that has ended begins anew.
        kwargs: for `make_env`, or for `make_atari_vector`.

    Raises:
        UsageError: as for `make_env`, or fewer than one copy.
    """
    require_registered(env_id)
    if num_envs < 1:
        raise UsageError(f"the number of environments must be at least 1, not {num_envs}")
    if env_id.startswith("ALE/"):
        return make_atari_vector(env_id, num_envs, autoreset_mode=autoreset_mode, **kwargs)
    makers = [partial(make_env, env_id, **kwargs)] * num_envs
    if processes:
        # One copy made here first says what is wrong in one line, where a worker would answer with a traceback.
        makers[0]().close()
        # Not forks of this process: the threads of a renderer that has drawn here would not be in them, and be waited for.
        return AsyncVectorEnv(makers, autoreset_mode=autoreset_mode, context="spawn")
    return SyncVectorEnv(makers, autoreset_mode=autoreset_mode)


def copies(env_id: str) -> int:
    """How many copies of an environment play fastest together in one process.

    Atari's emulators step in threads of their own. Others take turns, and where they render, each turn changes the
    renderer's context: one copy of the stacker gave 277 interactions a second with its frames, sixteen gave 110.
    """
    return 16 if env_id.startswith("ALE/") else 1


def _make(env_id: str, kwargs: dict[str, Any]) -> gym.Env[Any, Any]:
    try:
        return gym.make(env_id, **kwargs)
    except (gym.error.Error, ImportError) as error:
        raise UsageError(f"{env_id} cannot be made: {_one_line(error)}") from error


def require_registered(env_id: str) -> None:
    """Make sure that Gymnasium knows an id, registering what has to be.

    Raises:
        UsageError: no such id (the message lists those close to it), or what it needs is not installed.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UsageError(f"{env_id} cannot be made: {_one_line(error)}") from error
    if name.startswith("dm_control/"):
        _register_control(name)
    elif name.startswith("kpagent/"):
        register_stacker()
        register_sliding_background()
        register_later_screens()
        register_pushing()
    elif name not in gym.registry:
        register_atari()
    if name not in gym.registry:
        by_lower_case = {known.lower(): known for known in gym.registry}
        close = difflib.get_close_matches(name.lower(), by_lower_case, n=4, cutoff=0.5)
        hint = f"did you mean {' or '.join(by_lower_case[match] for match in close)}?" if close else "see gymnasium.registry"
        raise UsageError(f"no environment called {name!r}; {hint}")


def _register_control(name: str) -> None:
    require_control(name)
    import shimmy

    gym.register_envs(shimmy)


def is_image(space: gym.Space[Any]) -> bool:
    """Whether observations of a space can be understood as frames."""
    try:
        FrameLayout.of(space)
    except UsageError:
        return False
    return True


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
