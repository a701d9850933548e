"""Sequences of several tasks with continuous actions under random play: frames, actions, rewards (Struct-VRNN S2.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from kpagent.collect.sequence_making import FrameSequence, Provenance
from kpagent.envs.control_frames import PREFIX, make_frames_env, require_frames
from kpagent.errors import UsageError
from kpagent.fields import require, require_types
from kpagent.frames import resize

TASKS = ("acrobot-swingup", "cartpole-balance", "cheetah-run", "reacher-easy", "walker-stand", "walker-walk")
"""The paper's six, all with dense rewards."""
TRIES = 100
"""Starts of a sequence, of which one must be followed by an episode that is long enough."""


@dataclass(frozen=True)
class RecordingConfig:
    """How random play becomes sequences."""

    sequences: int = 1_000
    """Of each environment."""
    length: int = 20
    """Frames of each, as many as actions and rewards."""
    before: int = 100
    """Largest number of random actions between the reset and the first frame; it is drawn for each sequence, from 0 on."""
    repeat: int = 1
    """How often each action is taken; rewards are added up, and frames in between are not rendered."""
    size: int = 64
    """Height and width of the frames."""
    seed: int = 0
    """Of resets and actions."""

    def __post_init__(self) -> None:
        require_types(self)
        lowest = {"sequences": 1, "length": 2, "before": 0, "repeat": 1, "size": 16, "seed": 0}
        require(self, {f"{name} must be at least {least}": getattr(self, name) >= least for name, least in lowest.items()})


class ControlSequences:
    """Random play of several environments, one after the other in turn, as a source for `write_sequences`.

    Each sequence begins with a reset and, after a random number of actions, lasts `length` frames: no two share an episode,
    so nothing of a held-out one was seen before. Actions are uniform within their bounds, new at each frame. Frame t is what
    is seen before action t; reward t is what followed that action. Actions of fewer numbers than the most are followed by
    zeros. The label of a sequence is its environment.

    A sequence depends on (seed, its number) alone. What is pickled are the ids: a process that gets a copy makes its own
    environments, when it needs them.

    Args:
        env_ids: Gymnasium ids, each once.
        config: how.

    Raises:
        UsageError: no id or one twice, an environment that cannot be made or rendered, or whose actions are not a box with
            bounds.
    """

    def __init__(self, env_ids: tuple[str, ...], config: RecordingConfig | None = None) -> None:
        self.env_ids, self.config = tuple(env_ids), config or RecordingConfig()
        if not env_ids or len(set(env_ids)) < len(env_ids):
            raise UsageError(f"give the environments to record, each once; got {', '.join(env_ids) or 'none'}")
        self._envs: dict[str, gym.Env[Any, Any]] = {}
        self._bounds = {env_id: action_bounds(env_id, self._env(env_id).action_space) for env_id in env_ids}
        for env_id in env_ids:
            require_frames(self._env(env_id), env_id)

    @property
    def action_dim(self) -> int:
        """A, numbers in an action: the most that any environment has."""
        return max(len(low) for low, _ in self._bounds.values())

    @property
    def provenance(self) -> Provenance:
        """Where the sequences come from, with the size and the bounds of each environment's own actions."""
        settings: dict[str, Any] = dataclasses.asdict(self.config)
        seed = settings.pop("seed")
        settings["actions"] = {
            env_id: {"size": len(low), "low": low.tolist(), "high": high.tolist()}
            for env_id, (low, high) in self._bounds.items()
        }
        if any(env_id.startswith(PREFIX) for env_id in self.env_ids):
            settings["versions"] = {name: version(name) for name in ("dm-control", "mujoco", "shimmy")}
        name = ", ".join(self.env_ids)
        return Provenance("control", name, settings, seed=seed, label_names=tuple(map(short_name, self.env_ids)))

    @property
    def count(self) -> int:
        """Number of sequences of all environments."""
        return self.config.sequences * len(self.env_ids)

    def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
        """Sequences `start` to `stop`; environments take turns.

        Raises:
            UsageError: the episodes of an environment are too short.
        """
        for unit in range(start, stop):
            yield self._record(unit)

    def close(self) -> None:
        """Close the environments; they are made anew when they are needed again."""
        while self._envs:
            self._envs.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_envs": {}}

    def _env(self, env_id: str) -> gym.Env[Any, Any]:
        if env_id not in self._envs:
            self._envs[env_id] = make_frames_env(env_id, self.config.size)
        return self._envs[env_id]

    def _record(self, unit: int) -> FrameSequence:
        label = unit % len(self.env_ids)
        generator = np.random.default_rng((self.config.seed, unit))
        for _ in range(TRIES):
            frames, actions, rewards = self._try(self.env_ids[label], generator)
            if len(frames) == self.config.length:
                rows = np.zeros((len(frames), self.action_dim), np.float32)
                rows[:, : actions[0].size] = np.stack(actions)
                return FrameSequence(np.stack(frames), rows, np.array(rewards, np.float32), label=label)
        raise UsageError(
            f"{self.env_ids[label]} had no episode with {self.config.length} frames after up to {self.config.before} actions"
            f" in {TRIES} tries: take a smaller length or before"
        )

    def _try(self, env_id: str, generator: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray], list[float]]:
        """Frames, flat actions and rewards of one start; fewer than wanted where the episode ended."""
        env, (low, high) = self._env(env_id), self._bounds[env_id]
        shape, kind = env.action_space.shape, env.action_space.dtype
        before = int(generator.integers(self.config.before + 1))
        env.reset(seed=int(generator.integers(2**31)))
        frames: list[np.ndarray] = []
        actions: list[np.ndarray] = []
        rewards: list[float] = []
        for step in range(before + self.config.length):
            action = generator.uniform(low, high)
            if step >= before:
                frames.append(self._frame(env, env_id))
                actions.append(action)
                rewards.append(0.0)
            for _ in range(self.config.repeat):
                _, reward, terminated, truncated, _ = env.step(action.reshape(shape).astype(kind))
                if step >= before:
                    rewards[-1] += float(reward)
                if terminated or truncated:
                    return frames, actions, rewards
        return frames, actions, rewards

    def _frame(self, env: gym.Env[Any, Any], env_id: str) -> np.ndarray:
        frame: Any = env.render()
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise UsageError(f"{env_id} renders no frames (H, W, 3) of uint8")
        return resize(frame, self.config.size)


def short_name(env_id: str) -> str:
    """The name of a task of DeepMind Control, "walker-walk" of "dm_control/walker-walk-v0"; of others the whole id."""
    return env_id.removeprefix(PREFIX).rpartition("-v")[0] if env_id.startswith(PREFIX) else env_id


def action_bounds(name: str, space: gym.Space[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value of each number of an action, (A,) float64 each.

    Args:
        name: of the environment, for the message.
        space: of its actions, of any shape.

    Raises:
        UsageError: no box of floating-point numbers, none at all, or without bounds.
    """
    if not isinstance(space, spaces.Box):
        raise UsageError(f"{name} has actions in a {type(space).__name__} space, where a box of numbers is needed")
    low, high = (np.asarray(bound, np.float64).reshape(-1) for bound in (space.low, space.high))
    if not low.size:
        raise UsageError(f"{name} has actions without numbers")
    if not (np.isfinite(low).all() and np.isfinite(high).all() and np.issubdtype(space.dtype, np.floating)):
        raise UsageError(f"{name} has actions without bounds, among which none can be drawn at random")
    return low, high
