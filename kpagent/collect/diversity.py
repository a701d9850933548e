"""The buffer that keeps frame pairs unlike each other (Transporter Appendix B), and its exact nearest-neighbour search."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from kpagent.collect.trajectories import PairBatch

SEARCH_SIZE = 64
"""Height and width of the grey copies that are compared."""
SEARCH_VALUES = 2 * SEARCH_SIZE**2
"""Values of one pair's copy: both frames, one after the other."""
SEARCH_BYTES = 32 * 2**20
"""Most memory that a search takes beside the buffer."""
COVERAGE_SAMPLE = 512
"""Elements whose nearest neighbours the coverage figure averages over."""

_BLOCK = 1024
_ROWS = 128
# Products of two int8 stay below 2^14, so float32 adds up 1024 of them without rounding.
_EXACT_IN_FLOAT32 = 1024


class PairBuffer:
    """Frame pairs, filled unconditionally and then overwritten where a new pair lies further from its nearest neighbour.

    Distances are L2 between grey 64×64 copies of both frames, exact, given as the root mean square difference of a pixel
    in [0, 1].

    Args:
        capacity: pairs, at least 2. All memory is claimed here: `buffer_bytes(capacity, image_size)`.
        image_size: S of the stored frames.
        overwrite_probability: with which a new pair is written whatever its distance.
        seed: of the elements compared, and of the unconditional overwrites.
    """

    def __init__(self, capacity: int, image_size: int, *, overwrite_probability: float = 0.05, seed: int = 0) -> None:
        self.source = np.empty((capacity, image_size, image_size, 3), np.uint8)
        self.target = np.empty_like(self.source)
        self.episode = np.empty(capacity, np.int64)
        self._copies = np.empty((capacity, SEARCH_VALUES), np.int8)
        self._squares = np.empty(capacity, np.int32)
        self._size = 0
        self._overwrite_probability = overwrite_probability
        self._generator = np.random.default_rng(seed)
        self._sample_seed = seed

    def __len__(self) -> int:
        return self._size

    @property
    def capacity(self) -> int:
        """Pairs that fit."""
        return len(self.episode)

    @property
    def full(self) -> bool:
        """Whether new pairs compete with those that are there."""
        return self._size == self.capacity

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, in bytes; `buffer_bytes` says so beforehand."""
        arrays = (self.source, self.target, self.episode, self._copies, self._squares)
        return sum(array.nbytes for array in arrays)

    def fill(self, batch: PairBatch) -> PairBatch:
        """Store pairs unconditionally while there is room; returns those that had none."""
        count = min(len(batch), self.capacity - self._size)
        stored = batch[:count]
        self._write(np.arange(self._size, self._size + count), stored, search_copies(stored))
        self._size += count
        return batch[count:]

    def offer(self, batch: PairBatch) -> tuple[int, float]:
        """Match each new pair with a random element, and overwrite it if the new pair's nearest neighbour is further off.

        All distances are taken before anything is written. An element is not its own neighbour.

        Args:
            batch: at least one and at most `len(self)` pairs.

        Returns:
            How many elements were overwritten, and the mean nearest-neighbour distance of the elements compared, before.
        """
        existing = self._generator.choice(self._size, len(batch), replace=False)
        copies = search_copies(batch)
        new_distance, _ = self.nearest(copies)
        existing_distance, _ = self.nearest(self._copies[existing], own=existing)
        anyway = self._generator.random(len(batch)) < self._overwrite_probability
        chosen = (new_distance > existing_distance) | anyway
        self._write(existing[chosen], batch[chosen], copies[chosen])
        return int(chosen.sum()), float(existing_distance.mean())

    def nearest(self, copies: np.ndarray, own: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The nearest element of each query, exactly, in blocks of bounded memory (`SEARCH_BYTES`).

        Args:
            copies: (n, 8192) int8, of `search_copies`.
            own: (n,), the element that each query is itself and that does not count; without it all count.

        Returns:
            Distances (n,), float64 in [0, 1], and the elements (n,), int64; where several are equally near, the first.
        """
        squared = np.empty(len(copies), np.int64)
        index = np.empty(len(copies), np.int64)
        for start in range(0, len(copies), _ROWS):
            rows = slice(start, start + _ROWS)
            squared[rows], index[rows] = self._nearest(copies[rows], None if own is None else own[rows])
        return np.sqrt(squared / SEARCH_VALUES) / 255, index

    def coverage(self) -> float:
        """Mean nearest-neighbour distance in [0, 1] of a sample of the elements.

        The sample is the same whenever asked at one size. Zero with fewer than two elements.
        """
        if self._size < 2:
            return 0.0
        sample = np.random.default_rng(self._sample_seed).permutation(self._size)[:COVERAGE_SAMPLE]
        return float(self.nearest(self._copies[sample], own=sample)[0].mean())

    def release(self) -> PairBatch:
        """The stored pairs, without a copy, reordered in place: episode by episode, the episodes in random order.

        The buffer is empty afterwards, and what it returned stays valid only while nothing is stored again.
        """
        size, self._size = self._size, 0
        _, group = np.unique(self.episode[:size], return_inverse=True)
        rank = self._generator.permutation(group.max(initial=-1) + 1)
        batch = PairBatch(self.source[:size], self.target[:size], self.episode[:size])
        _reorder((batch.source, batch.target, batch.episode), np.argsort(rank[group], kind="stable"))
        return batch

    def _nearest(self, copies: np.ndarray, own: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        queries = torch.from_numpy(np.ascontiguousarray(copies))
        squares = torch.from_numpy(_squares(copies))
        best = torch.full((len(copies),), torch.iinfo(torch.int32).max, dtype=torch.int32)
        index = torch.zeros(len(copies), dtype=torch.int64)
        for start in range(0, self._size, _BLOCK):
            stop = min(start + _BLOCK, self._size)
            # |a - b|² = |a|² + |b|² - 2ab, at most 8192 · 255² < 2^30: exact in int32 throughout.
            distance = _products(queries, torch.from_numpy(self._copies[start:stop])).mul_(-2)
            distance += squares[:, None]
            distance += torch.from_numpy(self._squares[start:stop])
            if own is not None:
                inside = np.flatnonzero((own >= start) & (own < stop))
                distance[inside, own[inside] - start] = torch.iinfo(torch.int32).max
            least, where = distance.min(dim=1)
            nearer = least < best
            best = torch.where(nearer, least, best)
            index = torch.where(nearer, where + start, index)
        return best.numpy(), index.numpy()

    def _write(self, index: np.ndarray, batch: PairBatch, copies: np.ndarray) -> None:
        self.source[index] = batch.source
        self.target[index] = batch.target
        self.episode[index] = batch.episode
        self._copies[index] = copies
        self._squares[index] = _squares(copies)


def buffer_bytes(capacity: int, image_size: int) -> int:
    """Memory that `PairBuffer(capacity, image_size)` holds, in bytes."""
    return capacity * (2 * 3 * image_size**2 + SEARCH_VALUES + 8 + 4)


def search_copies(batch: PairBatch) -> np.ndarray:
    """Grey 64×64 copies of both frames of each pair, less 128, as (n, 8192) int8."""
    copies = np.empty((len(batch), 2, SEARCH_SIZE, SEARCH_SIZE), np.uint8)
    for which, frames in enumerate((batch.source, batch.target)):
        method = cv2.INTER_AREA if frames.shape[1] >= SEARCH_SIZE else cv2.INTER_LINEAR
        for index, frame in enumerate(frames):
            grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
            copies[index, which] = cv2.resize(grey, (SEARCH_SIZE, SEARCH_SIZE), interpolation=method)
    return (copies ^ 128).view(np.int8).reshape(len(batch), SEARCH_VALUES)


def _products(queries: Tensor, elements: Tensor) -> Tensor:
    """Dot products (n, m) int32 of int8 rows (n, d) and (m, d), exact."""
    if _integer_instructions():
        return torch._int_mm(queries, elements.T)
    products = torch.zeros(len(queries), len(elements), dtype=torch.int32)
    for start in range(0, queries.shape[1], _EXACT_IN_FLOAT32):
        part = slice(start, start + _EXACT_IN_FLOAT32)
        products += (queries[:, part].float() @ elements[:, part].float().T).int()
    return products


def _integer_instructions() -> bool:
    # Four times as fast as float32 with these instructions; without them the product may saturate, or crawl.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_vnni", False))


def _squares(copies: np.ndarray) -> np.ndarray:
    wide = copies.astype(np.int32)
    return np.einsum("nd,nd->n", wide, wide)


def _reorder(arrays: tuple[np.ndarray, ...], order: np.ndarray) -> None:
    """`array[:] = array[order]` for each array, with memory for one element beside it."""
    done = np.zeros(len(order), bool)
    for start in range(len(order)):
        if done[start]:
            continue
        held = [array[start].copy() for array in arrays]
        at = start
        while order[at] != start:
            for array in arrays:
                array[at] = array[order[at]]
            done[at] = True
            at = int(order[at])
        for array, element in zip(arrays, held, strict=True):
            array[at] = element
        done[at] = True
