"""Tasks with continuous actions for agents that see nothing but frames: small ones, and each action repeated."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from kpagent.envs.control_frames import PREFIX, make_frames_env, require_frames
from kpagent.envs.control_sequences import action_bounds, short_name
from kpagent.envs.frame_players import SmallFrames
from kpagent.errors import UsageError

REPEATS = {"acrobot": 4, "cartpole": 8, "cheetah": 4, "finger": 2, "pendulum": 4, "reacher": 4, "walker": 2}
"""How often an action is repeated in tasks of DeepMind Control, by domain; PlaNet's (Hafner et al. 2019) but for acrobot and
pendulum, which it does not have."""
OTHERS = 2
"""In other domains of DeepMind Control; elsewhere an action is taken once."""


class RepeatedAction(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Takes each action several times, or until the episode ends, and adds up the rewards.

    Args:
        env: to act in.
        repeat: times.

    Raises:
        UsageError: fewer than one.
    """

    def __init__(self, env: gym.Env[Any, Any], repeat: int) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, repeat=repeat)
        super().__init__(env)
        if repeat < 1:
            raise UsageError(f"an action must be taken at least once, not {repeat} times")
        self.repeat = repeat

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """As of `gymnasium.Env`; what is seen is what the last of them led to."""
        total = 0.0
        for _ in range(self.repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


def default_repeat(env_id: str) -> int:
    """How often an action is repeated in an environment where nobody says so."""
    if not env_id.startswith(PREFIX):
        return 1
    return REPEATS.get(short_name(env_id).partition("-")[0], OTHERS)


def make_control_env(env_id: str, *, repeat: int | None = None, size: int = 64) -> gym.Env[Any, Any]:
    """An environment whose observations are frames (S, S, 3) uint8, and one of whose steps is one action of an agent.

    Args:
        env_id: as of `make_frames_env`.
        repeat: how often an action is taken; `default_repeat`, if not given.
        size: S.

    Raises:
        UsageError: no such environment, it cannot be rendered on this machine, or its actions are not a box of numbers with
            bounds.
    """
    inner = make_frames_env(env_id, size)
    try:
        action_bounds(env_id, inner.action_space)
        env = SmallFrames(RepeatedAction(inner, default_repeat(env_id) if repeat is None else repeat), size)
        require_frames(inner, env_id)
    except UsageError:
        inner.close()
        raise
    return env
