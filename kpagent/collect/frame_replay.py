"""Replay of frames, compressed in memory: what an agent needs whose perception is learned while it plays.

A frame of Atari at 84×84 takes 0.4 KB (Pong) to 2.6 KB (Ms. Pac-Man), a thirtieth of its pixels. Keypoints are not kept:
they are found again, by the perception of the day, in the frames that are sampled.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from kpagent.collect.replay import SegmentReplay, Segments
from kpagent.errors import UsageError

FRAME = "frame"
"""The name of the frames among a segment's observations."""

_ATTEMPTS = 20


class FrameReplay:
    """The newest rows of each copy of an environment: compressed frames and what `SegmentReplay` keeps besides.

    Args:
        capacity: rows altogether; each copy has an equal share.
        num_envs: copies.
        image_size: S of the frames.
        state: shape of each part of one recurrent state.
        observation: shape and dtype of whatever else is kept with a row.

    Raises:
        ValueError: less than two rows a copy.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        image_size: int,
        state: Mapping[str, tuple[int, ...]],
        observation: Mapping[str, tuple[tuple[int, ...], type]] | None = None,
    ) -> None:
        parts = {"place": ((), np.int64), **(observation or {})}
        self.rows = SegmentReplay(capacity, num_envs, parts, state)
        self.image_size = image_size
        self._frames: list[bytes] = [b""] * (num_envs * self.rows.rows)

    def __len__(self) -> int:
        """Rows that are kept."""
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """Memory of all rows, in bytes, but for Python's own 33 bytes a frame."""
        return self.rows.nbytes + sum(map(len, self._frames))

    def add(
        self,
        frames: Sequence[bytes],
        state: Mapping[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        observation: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """One transition of every copy.

        The frame that a cut-off episode ends with is not kept: its last transition is learned from no more than one that
        terminates, which nothing is bootstrapped from.

        Args:
            frames: (N,) of `compress_frames`, acted on.
            state: (N, ...) recurrent state before them.
            action: (N,).
            reward: (N,).
            terminated: (N,) bool.
            truncated: (N,) bool, the episode was cut off.
            observation: (N, ...) for each other part.
        """
        count = self.rows.num_envs
        place = np.arange(count) * self.rows.rows + self.rows.written % self.rows.rows
        over = np.asarray(terminated | truncated, bool)
        nothing = np.zeros(count, bool)
        self.rows.add({"place": place, **(observation or {})}, state, action, reward, over, nothing, [None] * count, state)
        for index, frame in zip(place.tolist(), frames, strict=True):
            self._frames[index] = frame

    def can_sample(self, burn_in: int) -> bool:
        """Whether any copy has enough rows for a window."""
        return self.rows.can_sample(burn_in)

    def sample(self, batch_size: int, length: int, burn_in: int, generator: np.random.Generator) -> Segments:
        """As `SegmentReplay.sample`; the observation has `frame`, (B, T, S, S, 3) uint8, of the rows that are valid.

        Raises:
            UsageError: nothing to sample yet.
        """
        segments = self.rows.sample(batch_size, length, burn_in, generator)
        places = segments.observation.pop("place")
        frames = np.zeros((*places.shape, self.image_size, self.image_size, 3), np.uint8)
        for index in np.argwhere(segments.valid).tolist():
            frames[tuple(index)] = self._read(int(places[tuple(index)]))
        segments.observation[FRAME] = frames
        return segments

    def pairs(self, count: int, offset: tuple[int, int], generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Two frames of one episode each, as Transporter learns from (section 4).

        Args:
            count: pairs.
            offset: least and most interactions between the two.
            generator: draws.

        Returns:
            The earlier and the later frames, (count, S, S, 3) uint8 each.

        Raises:
            UsageError: there are no two frames that far apart.
        """
        rows = self.rows
        found: list[tuple[int, int]] = []
        for _ in range(_ATTEMPTS):
            env = generator.choice(rows.num_envs, size=2 * count, p=rows.sizes / max(1, len(rows)) if len(rows) else None)
            gap = generator.integers(offset[0], offset[1] + 1, size=len(env))
            free = rows.sizes[env] - gap
            env, gap, free = env[free > 0], gap[free > 0], free[free > 0]
            row = (rows.written - rows.sizes)[env] + generator.integers(free)
            steps = np.arange(1, offset[1] + 1)
            begins = rows.first[env[:, None], (row[:, None] + steps) % rows.rows] & (steps <= gap[:, None])
            inside = ~begins.any(axis=1)
            base = env * rows.rows
            earlier, later = base + row % rows.rows, base + (row + gap) % rows.rows
            found.extend(zip(earlier[inside].tolist(), later[inside].tolist(), strict=True))
            if len(found) >= count:
                chosen = found[:count]
                return tuple(np.stack([self._read(pair[side]) for pair in chosen]) for side in (0, 1))  # type: ignore[return-value]
        raise UsageError(f"{len(rows)} frames hold too few pairs {offset[0]} to {offset[1]} interactions apart")

    def _read(self, place: int) -> np.ndarray:
        shape = (self.image_size, self.image_size, 3)
        return np.frombuffer(zlib.decompress(self._frames[place], bufsize=int(np.prod(shape))), np.uint8).reshape(shape)


def compress_frames(frames: np.ndarray) -> list[bytes]:
    """Each of (N, S, S, 3) uint8 frames without loss."""
    return [zlib.compress(frame.tobytes(), 1) for frame in frames]
