"""Sequences of play from any Gymnasium env that renders frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from kpagent.collect.sequence_making import FrameSequence, Provenance
from kpagent.errors import UsageError
from kpagent.frames import resize

Policy = Callable[[Any, np.random.Generator], Any]
"""An observation and a source of randomness to an action; it keeps no state of its own, or a making cannot be taken up."""

_PIECE_FRAMES = 512


@dataclass(frozen=True)
class PlayConfig:
    """How play becomes sequences."""

    units: int = 100
    """Stretches of play, each from a reset with a seed of its own."""
    steps: int = 1000
    """Actions of a stretch; episodes that end before that are followed by others."""
    size: int = 64
    """Height and width of the frames."""
    shortest: int = 2
    """Frames that an episode must have to be kept."""
    seed: int = 0
    """Of resets and actions."""

    def __post_init__(self) -> None:
        for name, lowest in (("units", 1), ("steps", 1), ("size", 16), ("shortest", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < lowest:
                raise UsageError(f"{name} must be a whole number of at least {lowest}; got {value!r}")
        if self.shortest > self.steps:
            raise UsageError(f"shortest ({self.shortest}) must be at most steps ({self.steps})")


class Play:
    """Episodes, or what fits of them into a stretch of `steps` actions, one sequence each: frames, actions and rewards.

    Frame t is what `render` shows before action t; the reward is what that action brought. The frame after the last action
    of a sequence is not kept, so every frame has an action that was really taken. No sequence crosses the end of an episode.
    Actions are as `gymnasium.spaces.flatten` gives them: one-hot for Discrete, the numbers themselves for Box.

    Each stretch is made from (seed, its number) alone, as long as the env's `reset(seed=...)` forgets all that was before.

    Args:
        env: an env, or what makes one (called once in each process); render_mode "rgb_array". It stays open.
        config: how.
        policies: what plays, by name; stretch i is played by policy i modulo their number, which is the label of its
            sequences. Without, actions are random, and there are no labels.
        locate: true coordinates (P, 2) of the env's state, in [-1, 1], called beside `render`.
        truth_names: (P,) names of what it locates.
        name: what the sequences come from, where the env does not know it itself.

    Raises:
        UsageError: the env does not render, its actions cannot be written as numbers, or `locate` has no names.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | Callable[[], gym.Env[Any, Any]],
        config: PlayConfig | None = None,
        *,
        policies: Mapping[str, Policy] | None = None,
        locate: Callable[[gym.Env[Any, Any]], np.ndarray] | None = None,
        truth_names: tuple[str, ...] = (),
        name: str | None = None,
    ) -> None:
        self.env = env if isinstance(env, gym.Env) else env()
        self.config = config or PlayConfig()
        self._policies = dict(policies or {})
        self._locate, self._truth_names = locate, tuple(truth_names)
        self._name = name or (self.env.spec.id if self.env.spec else type(self.env.unwrapped).__name__)
        if self.env.render_mode != "rgb_array":
            mode = self.env.render_mode
            raise UsageError(f"{self._name} must be made with render_mode='rgb_array', not {mode!r}, to give frames")
        space = self.env.action_space
        if not isinstance(space, (spaces.Discrete, spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)):
            raise UsageError(f"{self._name} has actions in a {type(space).__name__} space, which are no row of numbers")
        if (locate is None) != (not self._truth_names):
            raise UsageError("locate and truth_names go together: give both or neither")

    @property
    def provenance(self) -> Provenance:
        """Where the sequences come from."""
        settings: dict[str, Any] = dataclasses.asdict(self.config)
        seed = settings.pop("seed")
        settings["policies"] = list(self._policies) or ["random"]
        labels = tuple(self._policies)
        return Provenance("env", self._name, settings, seed=seed, truth_names=self._truth_names, label_names=labels)

    @property
    def count(self) -> int:
        """Number of stretches."""
        return self.config.units

    def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
        """The sequences of stretches `start` to `stop`.

        Raises:
            UsageError: the env renders no RGB frames.
        """
        for unit in range(start, stop):
            yield from self._play(unit)

    def _play(self, unit: int) -> Iterator[FrameSequence]:
        generator = np.random.default_rng((self.config.seed, unit))
        space = self.env.action_space
        space.seed(int(generator.integers(2**31)))
        label = unit % len(self._policies) if self._policies else None
        policy = list(self._policies.values())[label] if label is not None else lambda *_: space.sample()
        observation, _ = self.env.reset(seed=int(generator.integers(2**31)))
        episode = _Episode(label, self.config.shortest)
        for step in range(self.config.steps):
            frame = self._frame()
            truth = None if self._locate is None else np.asarray(self._locate(self.env), np.float32)
            action = policy(observation, generator)
            observation, reward, terminated, truncated, _ = self.env.step(action)
            row = np.asarray(spaces.flatten(space, action), np.float32).reshape(-1)
            episode.add(frame, row, float(reward), truth)
            over = terminated or truncated or step + 1 == self.config.steps
            if over or episode.full:
                yield from episode.take()
            if over:
                episode = _Episode(label, self.config.shortest)
                if step + 1 < self.config.steps:
                    observation, _ = self.env.reset()

    def _frame(self) -> np.ndarray:
        frame: Any = self.env.render()
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise UsageError(f"{self._name} renders {found}, not frames (H, W, 3) of uint8")
        return resize(np.ascontiguousarray(frame), self.config.size)


class _Episode:
    """What was not yet handed over of one episode."""

    def __init__(self, label: int | None, shortest: int) -> None:
        self._label, self._shortest = label, shortest
        self._rows: list[tuple[np.ndarray, np.ndarray, float, np.ndarray | None]] = []
        self._continues = False

    @property
    def full(self) -> bool:
        return len(self._rows) >= max(_PIECE_FRAMES, self._shortest)

    def add(self, frame: np.ndarray, action: np.ndarray, reward: float, truth: np.ndarray | None) -> None:
        self._rows.append((frame, action, reward, truth))

    def take(self) -> Iterator[FrameSequence]:
        if not self._rows or (len(self._rows) < self._shortest and not self._continues):
            return
        frames, actions, rewards, truth = zip(*self._rows, strict=True)
        places = None if truth[0] is None else np.stack(truth)
        yield FrameSequence(
            np.stack(frames), np.stack(actions), np.array(rewards, np.float32), places, self._label, self._continues
        )
        self._rows, self._continues = [], True
