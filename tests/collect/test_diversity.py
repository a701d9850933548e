from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from kpagent.collect import diversity
from kpagent.collect.diversity import COVERAGE_SAMPLE, SEARCH_VALUES, PairBuffer, buffer_bytes, search_copies
from kpagent.collect.pairs import PairsConfig
from kpagent.collect.trajectories import PairBatch

SIZE = 16


def random_pairs(
    count: int, seed: int = 0, *, size: int = SIZE, low: int = 0, high: int = 256, episodes: int = 5
) -> PairBatch:
    generator = np.random.default_rng(seed)
    frames = generator.integers(low, high, (2, count, size, size, 3), dtype=np.uint8)
    return PairBatch(frames[0], frames[1], generator.integers(0, episodes, count))


def game_like_pairs(count: int, seed: int = 0) -> PairBatch:
    """One background with one small bright square in each frame, so that distances are a few thousandths."""
    generator = np.random.default_rng(seed)
    background = np.random.default_rng(99).integers(0, 256, (84, 84, 3), dtype=np.uint8)
    frames = np.tile(background, (2, count, 1, 1, 1))
    for which in range(2):
        for index, (row, column) in enumerate(generator.integers(0, 80, (count, 2))):
            frames[which, index, row : row + 4, column : column + 4] = 255
    return PairBatch(frames[0], frames[1], np.zeros(count, np.int64))


def filled(batch: PairBatch, capacity: int | None = None, **options: float) -> PairBuffer:
    buffer = PairBuffer(capacity or len(batch), batch.source.shape[1], **options)  # type: ignore[arg-type]
    assert len(buffer.fill(batch)) == max(0, len(batch) - buffer.capacity)
    return buffer


def nearest_by_loop(
    queries: np.ndarray, elements: np.ndarray, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    distances, indices = [], []
    for row, query in enumerate(queries.astype(np.float64)):
        distance = np.sqrt(((elements.astype(np.float64) - query) ** 2).mean(axis=1)) / 255
        if own is not None:
            distance[own[row]] = np.inf
        indices.append(int(distance.argmin()))
        distances.append(distance.min())
    return np.array(distances), np.array(indices)


@pytest.fixture(params=["integers", "float32"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "float32":
        monkeypatch.setattr(diversity, "_integer_instructions", lambda: False)
    elif not diversity._integer_instructions():
        pytest.skip("this CPU has no VNNI")


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("make", [random_pairs, game_like_pairs])
def test_search_is_exact(make: Callable[..., PairBatch], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "_BLOCK", 37)
    monkeypatch.setattr(diversity, "_ROWS", 11)
    stored, new = make(150), make(40, seed=1)
    buffer = filled(stored)
    elements = search_copies(stored)
    distance, index = buffer.nearest(search_copies(new))
    wanted_distance, wanted_index = nearest_by_loop(search_copies(new), elements)
    assert np.array_equal(index, wanted_index)
    np.testing.assert_allclose(distance, wanted_distance, rtol=1e-12)
    own = np.random.default_rng(0).permutation(150)[:60]
    distance, index = buffer.nearest(elements[own], own=own)
    wanted_distance, wanted_index = nearest_by_loop(elements[own], elements, own)
    assert np.array_equal(index, wanted_index)
    np.testing.assert_allclose(distance, wanted_distance, rtol=1e-12)


@pytest.mark.usefixtures("arithmetic")
def test_search_is_exact_at_the_ends_of_the_range() -> None:
    black, white = random_pairs(20, high=1), random_pairs(20, low=255)
    distance, _ = filled(black).nearest(search_copies(white))
    assert (distance == 1.0).all()
    distance, index = filled(white).nearest(search_copies(white))
    assert (distance == 0.0).all()
    assert (index == 0).all()


def test_copies_are_grey_and_average_areas() -> None:
    batch = random_pairs(3, size=128)
    copies = search_copies(batch).astype(np.float64) + 128
    assert copies.shape == (3, SEARCH_VALUES)
    for which, frames in enumerate((batch.source, batch.target)):
        grey = frames @ np.array([0.299, 0.587, 0.114])
        wanted = grey.reshape(3, 64, 2, 64, 2).mean(axis=(2, 4)).reshape(3, -1)
        assert np.abs(copies.reshape(3, 2, -1)[:, which] - wanted).max() <= 1.01


def test_filling_is_unconditional_and_stops_at_capacity() -> None:
    batch = random_pairs(12)
    buffer = PairBuffer(10, SIZE)
    assert len(buffer.fill(batch[:6])) == 0
    assert not buffer.full
    rest = buffer.fill(batch[6:])
    assert len(buffer) == buffer.capacity == 10
    assert np.array_equal(rest.source, batch.source[10:])
    assert np.array_equal(buffer.source, batch.source[:10])
    assert np.array_equal(buffer.target, batch.target[:10])
    assert np.array_equal(buffer.episode, batch.episode[:10])


def test_a_round_is_that_of_appendix_b() -> None:
    # Low contrast at first: some new pairs are further from the buffer than its elements from each other, some are not.
    stored = random_pairs(50, low=100, high=140)
    unlike, like = random_pairs(8, seed=1), stored[:8]
    new = PairBatch(
        *(np.concatenate([getattr(unlike, name), getattr(like, name)]) for name in ("source", "target", "episode"))
    )
    buffer = filled(stored, overwrite_probability=0.3, seed=5)
    before = buffer.source.copy()
    generator = np.random.default_rng(5)
    matched = generator.choice(50, 16, replace=False)
    anyway = generator.random(16) < 0.3
    elements = search_copies(stored)
    new_distance, _ = nearest_by_loop(search_copies(new), elements)
    existing_distance, _ = nearest_by_loop(elements[matched], elements, matched)
    written = [row for row in range(16) if new_distance[row] > existing_distance[row] or anyway[row]]
    assert set(range(8)) < set(written) < set(range(16))
    count, mean = buffer.offer(new)
    assert count == len(written)
    assert mean == pytest.approx(existing_distance.mean())
    for row in written:
        before[matched[row]] = new.source[row]
    assert np.array_equal(buffer.source, before)
    # What is searched afterwards is what is stored afterwards.
    everything = PairBatch(buffer.source, buffer.target, buffer.episode)
    assert (buffer.nearest(search_copies(everything))[0] == 0).all()


def test_overwrite_probability() -> None:
    def share(probability: float) -> float:
        buffer = filled(random_pairs(200), overwrite_probability=probability)
        # Copies of elements are never further from the buffer than anything.
        return sum(buffer.offer(random_pairs(200)[:100])[0] for _ in range(10)) / 1000

    assert share(0.0) == 0
    assert share(1.0) == 1
    assert 0.02 < share(0.05) < 0.08


def test_coverage_is_the_mean_distance_and_grows_when_likes_give_way() -> None:
    alike = random_pairs(40, low=100, high=110)
    buffer = filled(alike, overwrite_probability=0.0)
    elements = search_copies(alike)
    before = buffer.coverage()
    assert before == pytest.approx(nearest_by_loop(elements, elements, np.arange(40))[0].mean())
    assert before == buffer.coverage()
    for seed in range(1, 20):
        buffer.offer(random_pairs(8, seed))
    assert buffer.coverage() > 5 * before


def test_coverage_of_a_large_buffer_takes_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    assert COVERAGE_SAMPLE < 20_000
    monkeypatch.setattr(diversity, "COVERAGE_SAMPLE", 30)
    batch = random_pairs(120)
    buffer, elements = filled(batch), search_copies(batch)
    exact = nearest_by_loop(elements, elements, np.arange(120))[0].mean()
    assert buffer.coverage() == pytest.approx(exact, rel=0.05)
    assert buffer.coverage() != exact
    assert PairBuffer(5, SIZE).coverage() == 0.0


def test_release_orders_by_episode_and_keeps_pairs_whole() -> None:
    batch = random_pairs(60, episodes=9)
    released = filled(batch, capacity=80).release()
    assert len(released) == 60
    assert np.count_nonzero(np.diff(released.episode)) == 8
    assert list(dict.fromkeys(released.episode)) != sorted(set(released.episode))
    before, after = (
        {(part.source[row].tobytes(), part.target[row].tobytes(), part.episode[row]) for row in range(60)}
        for part in (batch, released)
    )
    assert len(before) == 60
    assert before == after


def test_memory_is_as_stated() -> None:
    assert PairBuffer(33, 20).nbytes == buffer_bytes(33, 20)
    config = PairsConfig(capacity=33, image_size=20, candidates=5)
    assert config.memory_bytes() > buffer_bytes(33, 20)


MEASURE = """
import re, numpy as np, torch
from kpagent.collect import diversity
from kpagent.collect.diversity import PairBuffer
from kpagent.collect.pairs import PairsConfig
from kpagent.collect.trajectories import PairBatch
torch.set_num_threads(1)
if {float32}:
    diversity._integer_instructions = lambda: False
config = PairsConfig(capacity=4000, image_size=32, candidates=256)
generator = np.random.default_rng(0)
def batch(n, size):
    frames = [generator.integers(0, 256, (n, size, size, 3), dtype=np.uint8) for _ in range(2)]
    return PairBatch(*frames, np.zeros(n, np.int64))
def peak():
    return 1024 * int(re.search("VmHWM:[^0-9]*([0-9]+) kB", open("/proc/self/status").read())[1])
small = PairBuffer(300, 32)
small.fill(batch(300, 32)); small.offer(batch(8, 32)); small.coverage()
before = peak()
buffer = PairBuffer(config.capacity, 32)
while not buffer.full:
    buffer.fill(batch(256, 32))
for _ in range(3):
    buffer.offer(batch(256, 32))
buffer.coverage(); buffer.release()
print((peak() - before) / config.memory_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("float32", [False, True])
def test_memory_that_the_system_sees_is_as_stated(float32: bool) -> None:
    command = [sys.executable, "-c", MEASURE.format(float32=float32)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.5 < float(done.stdout) <= 1.0
