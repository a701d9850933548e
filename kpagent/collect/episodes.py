"""Episodes with continuous actions, on disk one by one, and the newest of them in memory to learn from."""

from __future__ import annotations

import itertools
import zlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kpagent.collect.frame_replay import compress_frames
from kpagent.errors import UsageError
from kpagent.files import load_tensors, require_kind, save_tensors

FORMAT = 1
KIND = "episode"


@dataclass(frozen=True, eq=False)
class Episode:
    """T actions and what came of them; frames are kept without loss in a fraction of their size.

    Attributes:
        packed: T + 1 compressed frames, one before each action and the last.
        size: S, height and width of the frames.
        actions: (T, A) float32.
        rewards: (T,) float32, what followed each action.
    """

    packed: tuple[bytes, ...]
    size: int
    actions: np.ndarray
    rewards: np.ndarray

    @classmethod
    def of(cls, frames: np.ndarray, actions: np.ndarray, rewards: np.ndarray) -> Episode:
        """An episode of frames (T + 1, S, S, 3) uint8, actions (T, A) and rewards (T,).

        Raises:
            ValueError: they do not fit together.
        """
        if len(frames) != len(actions) + 1 or len(rewards) != len(actions) or actions.ndim != 2 or frames.ndim != 4:
            shapes = tuple(frames.shape), tuple(actions.shape), tuple(rewards.shape)
            raise ValueError(f"frames (T + 1, S, S, 3), actions (T, A) and rewards (T,) do not fit: {shapes}")
        packed = tuple(compress_frames(frames))
        return cls(packed, frames.shape[1], actions.astype(np.float32), rewards.astype(np.float32))

    def __len__(self) -> int:
        """T."""
        return len(self.actions)

    def frames(self, numbers: Any = None) -> np.ndarray:
        """(N, S, S, 3) uint8: those of these numbers, or all."""
        shape = (self.size, self.size, 3)
        chosen = self.packed if numbers is None else [self.packed[number] for number in numbers]
        room = int(np.prod(shape))
        return np.stack([np.frombuffer(zlib.decompress(one, bufsize=room), np.uint8).reshape(shape) for one in chosen])

    def save(self, path: str | Path, about: Mapping[str, Any]) -> None:
        """Write it to one safetensors file, with what is to be known about it in the header.

        Raises:
            UsageError: the file cannot be written.
        """
        tensors = {
            "frames": torch.frombuffer(bytearray(b"".join(self.packed)), dtype=torch.uint8),
            "ends": torch.tensor([len(one) for one in self.packed]).cumsum(0),
            "actions": torch.from_numpy(self.actions),
            "rewards": torch.from_numpy(self.rewards),
        }
        save_tensors(path, tensors, {"format": FORMAT, "model": KIND, "size": self.size, "about": dict(about)})

    @classmethod
    def load(cls, path: str | Path) -> tuple[Episode, dict[str, Any]]:
        """Read what `save` wrote, and what is known about it.

        Raises:
            UsageError: no such file, damaged, altered or no episode.
        """
        tensors, header = load_tensors(path)
        require_kind(path, header, KIND, FORMAT)
        data, ends = tensors["frames"].numpy().tobytes(), [0, *tensors["ends"].tolist()]
        packed = tuple(data[start:stop] for start, stop in itertools.pairwise(ends))
        return cls(packed, header["size"], tensors["actions"].numpy(), tensors["rewards"].numpy()), header["about"]


class EpisodeReplay:
    """The newest episodes, of at most `capacity` actions together, and the codes of their frames.

    Args:
        capacity: actions, at least those of one episode; the oldest episodes go.

    Attributes:
        codes: (T + 1, D) of each episode, in the order of `episodes`; None where nobody has encoded it yet.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.episodes: deque[Episode] = deque()
        self.codes: deque[Tensor | None] = deque()

    def __len__(self) -> int:
        """Actions that are kept."""
        return sum(map(len, self.episodes))

    @property
    def nbytes(self) -> int:
        """Bytes of all frames, as they are kept."""
        return sum(len(one) for episode in self.episodes for one in episode.packed)

    def add(self, episode: Episode, codes: Tensor | None = None) -> None:
        """Keep one more episode, and let go of the oldest where there are too many."""
        self.episodes.append(episode)
        self.codes.append(codes)
        kept = len(self)
        while kept > self.capacity and len(self.episodes) > 1:
            kept -= len(self.episodes.popleft())
            self.codes.popleft()

    def frames(self, batch: int, length: int, generator: np.random.Generator) -> np.ndarray:
        """(B, T, S, S, 3) uint8, every frame from anywhere: frames of one row mostly come from different episodes."""
        counts = np.array([len(episode) + 1 for episode in self.episodes])
        starts = np.cumsum(counts) - counts
        drawn = generator.integers(counts.sum(), size=batch * length)
        which = np.searchsorted(starts, drawn, side="right") - 1
        size = self.episodes[0].size
        frames = np.empty((batch * length, size, size, 3), np.uint8)
        for place, (episode, frame) in enumerate(zip(which.tolist(), (drawn - starts[which]).tolist(), strict=True)):
            frames[place] = self.episodes[episode].frames([frame])[0]
        return frames.reshape(batch, length, size, size, 3)

    def windows(self, batch: int, length: int, before: int, generator: np.random.Generator) -> dict[str, Tensor]:
        """Windows of codes, as likely from every place.

        A window may begin up to `before` frames ahead of its episode. There the first frame stands still, and its actions
        are zeros: so does an agent see the beginning of an episode whose memory is always of one length.

        Args:
            batch: B.
            length: L, frames of a window.
            before: frames.
            generator: draws.

        Returns:
            `codes` (B, L, D), `actions` (B, L, A), of which the last of an episode is zeros, `rewards` (B, L - 1), those
            that came with frames 1 to L - 1, and `known` (B, L - 1) bool, whether there was one.

        Raises:
            UsageError: no episode is long enough.
        """
        starts = np.array([max(0, len(episode) + 2 + before - length) for episode in self.episodes])
        if not starts.any():
            raise UsageError(f"no episode has {length - before} frames: take episodes that last longer")
        offsets = np.cumsum(starts) - starts
        drawn = generator.integers(starts.sum(), size=batch)
        which = np.searchsorted(offsets, drawn, side="right") - 1
        first = drawn - offsets[which] - before
        rows = [self._window(number, start, length) for number, start in zip(which.tolist(), first.tolist(), strict=True)]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _window(self, number: int, first: int, length: int) -> dict[str, Tensor]:
        episode, codes = self.episodes[number], self.codes[number]
        assert codes is not None, "episodes are encoded before they are learned from"
        frame = np.arange(first, first + length)
        acted = (frame >= 0) & (frame < len(episode))
        at = frame.clip(0, len(episode) - 1)
        actions = np.where(acted[:, None], episode.actions[at], np.float32(0))
        return {
            "codes": codes[torch.from_numpy(frame.clip(0))],
            "actions": torch.from_numpy(actions),
            "rewards": torch.from_numpy(np.where(acted, episode.rewards[at], np.float32(0))[:-1]),
            "known": torch.from_numpy(acted[:-1]),
        }
