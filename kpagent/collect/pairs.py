"""Diverse frame pairs from random play (Transporter Appendix B): made once, kept in one file, used again."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium.vector import VectorEnv

from kpagent.collect.diversity import SEARCH_BYTES, PairBuffer, buffer_bytes
from kpagent.collect.guarded_file import GuardedFile
from kpagent.collect.trajectories import PairBatch, PairSampler
from kpagent.errors import UsageError
from kpagent.files import replace_file

FORMAT = 1

_MAGIC = b"kpagent frame pairs\n"
# HDF5 leaves a block of this size at the start of a file to whoever writes it; the digest of the rest lies there.
_USER_BLOCK = 512


@dataclass(frozen=True)
class PairsConfig:
    """How frame pairs are collected. The defaults suit two cores and 2 GB; `paper` is Appendix B."""

    capacity: int = 20_000
    """Pairs in the buffer, and so in the dataset."""
    interactions: int = 3_000_000
    """Budget of interactions; collection ends when it is spent."""
    trajectory_length: int = 100
    """Interactions of a trajectory at most."""
    image_size: int = 84
    """Height and width at which frames are stored."""
    num_envs: int = 16
    """Envs that whoever makes the vector env puts into it (through Ray: into each worker's)."""
    overwrite_probability: float = 0.05
    """With which a new pair overwrites an element whatever its distance."""
    candidates: int = 64
    """New pairs in a round, each compared with one random element of the full buffer."""
    seed: int = 0
    """Of actions, resets, the choice of frames and of elements."""

    @classmethod
    def paper(cls, **changes: Any) -> PairsConfig:
        """Appendix B: 100,000 pairs at 128×128, from 10 million interactions."""
        preset: dict[str, Any] = {"capacity": 100_000, "image_size": 128, "interactions": 10_000_000}
        return cls(**(preset | changes))

    def __post_init__(self) -> None:
        names = ("capacity", "interactions", "trajectory_length", "image_size", "num_envs", "candidates", "seed")
        for name in names:
            if not isinstance(getattr(self, name), int):
                raise UsageError(f"{name} must be a whole number; got {getattr(self, name)!r}")
        checks = {
            "capacity": ("from 2 to 10,000,000", 2 <= self.capacity <= 10_000_000),
            "interactions": ("at least 1", self.interactions >= 1),
            "trajectory_length": ("from 2 to 10,000", 2 <= self.trajectory_length <= 10_000),
            "image_size": ("from 16 to 512", 16 <= self.image_size <= 512),
            "num_envs": ("from 1 to 10,000", 1 <= self.num_envs <= 10_000),
            "overwrite_probability": ("from 0 to 1", 0 <= self.overwrite_probability <= 1),
            "candidates": (f"from 1 to capacity ({self.capacity})", 1 <= self.candidates <= self.capacity),
            "seed": ("at least 0", self.seed >= 0),
        }
        for name, (wanted, holds) in checks.items():
            if not holds:
                raise UsageError(f"{name} must be {wanted}; got {getattr(self, name)!r}")

    def memory_bytes(self) -> int:
        """Most memory that collection takes: the buffer, claimed at the start, a round's new pairs and the search.

        Beside it, each env holds the few native frames of its trajectory that may yet be chosen: 7 in mean, 16 MB for 16
        Atari games.
        """
        return (
            buffer_bytes(self.capacity, self.image_size) + 3 * buffer_bytes(self.candidates, self.image_size) + SEARCH_BYTES
        )


@dataclass(frozen=True)
class PairsProgress:
    """How far collection has come."""

    interactions: int
    """Spent so far."""
    budget: int
    """To be spent in all."""
    pairs: int
    """In the buffer."""
    overwritten: int
    """Elements that a new pair replaced so far."""
    coverage: float | None
    """Mean nearest-neighbour distance in [0, 1] of the elements compared last; none before the buffer is full."""
    interactions_per_s: float
    """Since the start, search included."""


@dataclass(frozen=True, eq=False)
class FramePairs:
    """A dataset of frame pairs, in memory.

    Pairs of one episode follow each other, and the episodes are in random order: any end of the dataset is a random
    sample of whole episodes but for one, which is what `split` needs.

    Attributes:
        source: (N, S, S, 3) uint8, from the first half of each trajectory.
        target: (N, S, S, 3) uint8, from its second half.
        episode: (N,) int64, equal where two pairs come from one episode.
        info: plain JSON values: env, num_envs, workers, interactions, filled_after (interactions; null if the budget was
            spent first), overwritten, coverage_filled and coverage (mean nearest-neighbour distance when just filled, and
            at the end), wall_s, interactions_per_s, config, versions.

    Raises:
        UsageError: arrays that do not fit together.
    """

    source: np.ndarray
    target: np.ndarray
    episode: np.ndarray
    info: Mapping[str, Any]

    def __post_init__(self) -> None:
        shape = self.source.shape
        if len(shape) != 4 or shape[0] < 1 or shape[1] != shape[2] or shape[3] != 3 or self.target.shape != shape:
            raise UsageError(f"frame pairs must be two arrays (N, S, S, 3), not {shape} and {self.target.shape}")
        if self.source.dtype != np.uint8 or self.target.dtype != np.uint8:
            raise UsageError(f"frame pairs must be uint8, not {self.source.dtype} and {self.target.dtype}")
        if self.episode.shape != shape[:1] or self.episode.dtype != np.int64:
            raise UsageError(f"episode must be {shape[:1]} int64, not {self.episode.shape} {self.episode.dtype}")
        if np.count_nonzero(np.diff(self.episode)) + 1 != len(np.unique(self.episode)):
            raise UsageError("pairs of one episode must follow each other")

    def __len__(self) -> int:
        return len(self.episode)

    @property
    def image_size(self) -> int:
        """S."""
        return int(self.source.shape[1])

    def split(self, held_out: int) -> tuple[FramePairs, FramePairs]:
        """Training pairs, and the last `held_out` pairs, without an episode in common.

        Neighbouring trajectories of an episode look alike, so pairs that share the episode at the cut with held-out ones
        are left out of both. Nothing is copied.

        Raises:
            UsageError: no pair would be left to train on.
        """
        cut = len(self) - held_out
        if held_out < 1 or cut < 1:
            raise UsageError(f"held-out pairs must be from 1 to {len(self) - 1}, of {len(self)}; got {held_out}")
        kept = int(np.argmax(self.episode == self.episode[cut]))
        if kept == 0:
            raise UsageError(
                f"holding out {held_out} of {len(self)} pairs leaves no other episode to train on; hold out fewer"
            )
        return self._part(slice(0, kept)), self._part(slice(cut, None))

    def save(self, path: str | Path) -> None:
        """Write one HDF5 file, compressed without loss, whole or not at all, sealed by a digest that `load` verifies.

        Raises:
            UsageError: it cannot be written.
        """
        replace_file(path, self._write)

    @classmethod
    def load(cls, path: str | Path) -> FramePairs:
        """Read what `save` wrote into memory (`2 * 3 * N * S**2` bytes).

        Raises:
            UsageError: no such file, not such a file, truncated, altered, or too large for this machine's memory.
        """
        path = Path(path)
        if not path.is_file():
            raise UsageError(f"no frame pairs at {path}")
        try:
            # The digest is checked before HDF5's reader, which was not made for damaged files, sees anything.
            _verify(path)
            with h5py.File(path, "r") as file:
                header = json.loads(file.attrs["header"])
                if header["format"] != FORMAT:
                    raise UsageError(f"format {header['format']!r}, where this kpagent reads format {FORMAT}")
                if not isinstance(header["info"], dict):
                    raise UsageError("info that is not a JSON object")
                return cls(file["source"][:], file["target"][:], file["episode"][:], header["info"])
        except UsageError as error:
            raise UsageError(f"{path} cannot be used: {error}") from error
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error}") from error
        except MemoryError:
            raise UsageError(f"{path} does not fit into memory") from None
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UsageError(f"{path} holds no frame pairs of kpagent: {error}") from error

    def _part(self, part: slice) -> FramePairs:
        return FramePairs(self.source[part], self.target[part], self.episode[part], self.info)

    def _write(self, path: Path) -> None:
        with path.open("w+b", buffering=0) as raw:
            guarded = GuardedFile(raw)
            with h5py.File(guarded, "w", userblock_size=_USER_BLOCK) as file:
                file.attrs["header"] = json.dumps({"format": FORMAT, "info": dict(self.info)})
                chunk = (min(len(self), 16), *self.source.shape[1:])
                file.create_dataset("source", data=self.source, chunks=chunk, compression="lzf")
                file.create_dataset("target", data=self.target, chunks=chunk, compression="lzf")
                file.create_dataset("episode", data=self.episode)
            if guarded.error is not None:
                raise guarded.error
            raw.seek(0)
            raw.write(_user_block(path))


def collect_pairs(
    env: VectorEnv[Any, Any, Any], config: PairsConfig | None = None, *, env_id: str | None = None
) -> Generator[PairsProgress, None, FramePairs]:
    """Collect diverse frame pairs from a vector env; a generator of progress that returns the dataset (see `gather`).

    One seed gives one dataset, as far as the env is reproducible.

    Args:
        env: as of `PairSampler`. Native resolution is best: only the chosen frames are resized. It stays open.
        config: how.
        env_id: what the dataset says it came from, where the env does not know it itself.

    Raises:
        UsageError: the env gives no frames, or its episodes are all shorter than two interactions.
    """
    config = config or PairsConfig()
    sampler = PairSampler(env, image_size=config.image_size, trajectory_length=config.trajectory_length, seed=config.seed)
    about = {"env": env_id or (env.spec.id if env.spec else type(env).__name__), "num_envs": env.num_envs, "workers": 0}
    return diversify(_play(sampler, config), config, about)


def diversify(
    stream: Iterator[tuple[PairBatch, int]], config: PairsConfig, about: Mapping[str, Any]
) -> Generator[PairsProgress, None, FramePairs]:
    """Fill a buffer from a stream of new pairs, make it diverse, and return it as a dataset.

    Args:
        stream: of at most `config.candidates` pairs and the interactions that they cost.
        config: how.
        about: where the pairs come from, for the dataset's info.

    Raises:
        UsageError: the stream gave no pair, or there is not enough memory.
    """
    started = time.perf_counter()
    try:
        buffer = PairBuffer(
            config.capacity, config.image_size, overwrite_probability=config.overwrite_probability, seed=config.seed
        )
    except MemoryError:
        raise UsageError(f"{config.capacity} pairs take {config.memory_bytes() / 1e9:.1f} GB: lower capacity") from None
    interactions = overwritten = 0
    filled_after: int | None = None
    coverage_filled = coverage = None
    for batch, spent in stream:
        interactions += spent
        rest = batch if buffer.full else buffer.fill(batch)
        if buffer.full and filled_after is None:
            filled_after, coverage_filled = interactions, buffer.coverage()
        if len(rest):
            count, coverage = buffer.offer(rest)
            overwritten += count
        rate = interactions / (time.perf_counter() - started)
        yield PairsProgress(interactions, config.interactions, len(buffer), overwritten, coverage, rate)
    if len(buffer) == 0:
        wanted = f"give at least {config.trajectory_length} for each env, or an env with longer episodes"
        raise UsageError(f"{interactions} interactions made no pair of frames: {wanted}")
    final_coverage = buffer.coverage()
    wall_s = time.perf_counter() - started
    info = {
        **about,
        "interactions": interactions,
        "filled_after": filled_after,
        "overwritten": overwritten,
        "coverage_filled": final_coverage if coverage_filled is None else coverage_filled,
        "coverage": final_coverage,
        "wall_s": wall_s,
        "interactions_per_s": interactions / wall_s,
        "config": dataclasses.asdict(config),
        "versions": _versions(),
    }
    pairs = buffer.release()
    return FramePairs(pairs.source, pairs.target, pairs.episode, info)


def gather(
    collection: Generator[PairsProgress, None, FramePairs], listen: Callable[[PairsProgress], None] | None = None
) -> FramePairs:
    """Run a collection to its end, telling `listen` of its progress, and return the dataset."""
    while True:
        try:
            progress = next(collection)
        except StopIteration as stop:
            return stop.value
        if listen is not None:
            listen(progress)


def _play(sampler: PairSampler, config: PairsConfig) -> Iterator[tuple[PairBatch, int]]:
    left = config.interactions
    while left > 0:
        batch, spent = sampler.sample(config.candidates, left)
        left -= spent
        yield batch, spent
    while len(batch := sampler.sample(config.candidates, 0)[0]):
        yield batch, 0


def _user_block(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(_USER_BLOCK)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return (_MAGIC + digest.encode()).ljust(_USER_BLOCK, b"\0")


def _verify(path: Path) -> None:
    with path.open("rb") as file:
        block = file.read(_USER_BLOCK)
    if not block.startswith(_MAGIC):
        raise UsageError("it holds no frame pairs of kpagent")
    if block != _user_block(path):
        raise UsageError("it is cut short or was altered after it was written, since its digest does not match")


def _versions() -> dict[str, str]:
    versions = {}
    for name in ("kpagent", "gymnasium", "ale-py", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
