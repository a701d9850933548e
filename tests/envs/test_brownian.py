from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpagent.collect.sequence_making import write_sequences
from kpagent.collect.sequences import Sequences
from kpagent.envs.brownian import Brownian, BrownianConfig, draw, simulate
from kpagent.errors import UsageError

CONFIG = BrownianConfig()


@pytest.fixture(scope="module")
def walks() -> tuple[np.ndarray, np.ndarray]:
    return simulate(CONFIG, 0, 500)


def turned(positions: np.ndarray) -> np.ndarray:
    """Degrees (N, T - 2) between the steps before and after each inner frame."""
    step = np.diff(positions.astype(float), axis=1)
    cosine = (
        (step[:, 1:] * step[:, :-1]).sum(-1) / np.linalg.norm(step[:, 1:], axis=-1) / np.linalg.norm(step[:, :-1], axis=-1)
    )
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def test_keyframes_are_where_the_direction_changes(walks: tuple[np.ndarray, np.ndarray]) -> None:
    positions, keyframes = walks
    assert (positions.shape, positions.dtype) == ((500, 35, 2), np.float32)
    assert (keyframes.shape, keyframes.dtype) == ((500, 35), bool)
    angles = turned(positions)
    np.testing.assert_array_equal(angles > 1, keyframes[:, 1:-1])
    assert not keyframes[:, [0, -1]].any()
    assert angles[keyframes[:, 1:-1]].min() >= CONFIG.least_turn - 0.1
    assert angles[keyframes[:, 1:-1]].mean() == pytest.approx(124, abs=4)


def test_the_ball_goes_straight_at_one_speed_and_stays_inside(walks: tuple[np.ndarray, np.ndarray]) -> None:
    positions, keyframes = walks
    np.testing.assert_allclose(np.linalg.norm(np.diff(positions, axis=1), axis=-1), CONFIG.speed, atol=1e-6)
    assert np.abs(positions).max() <= 1 - CONFIG.radius + 1e-6
    for places, turns in zip(positions[:50].astype(float), keyframes[:50], strict=True):
        corners = [0, *np.flatnonzero(turns), len(places) - 1]
        for first, last in itertools.pairwise(corners):
            straight = np.linspace(places[first], places[last], last - first + 1)
            np.testing.assert_allclose(places[first : last + 1], straight, atol=1e-6)


def test_turns_are_six_to_eight_frames_apart_each_as_often(walks: tuple[np.ndarray, np.ndarray]) -> None:
    _, keyframes = walks
    # The first three: later ones of a sequence are there only where those before came soon.
    apart = np.concatenate([np.diff(np.flatnonzero(turns)[:3], prepend=0) for turns in keyframes])
    found, counts = np.unique(apart, return_counts=True)
    assert found.tolist() == [6, 7, 8]
    assert ((counts - 500) ** 2 / 500).sum() < 12
    assert keyframes.sum(axis=1).mean() == pytest.approx(4.2, abs=0.1)


@given(seed=st.integers(0, 2**40), start=st.integers(0, 10_000), count=st.integers(1, 5))
def test_a_sequence_depends_on_the_seed_and_its_number_alone(seed: int, start: int, count: int) -> None:
    together = simulate(CONFIG, seed, count, start=start)
    alone = simulate(CONFIG, seed, 1, start=start + count - 1)
    for several, one in zip(together, alone, strict=True):
        np.testing.assert_array_equal(several[-1], one[0])
    assert np.abs(simulate(CONFIG, seed + 1, count, start=start)[0] - together[0]).max() > 1e-3


def test_blocks_make_no_difference(walks: tuple[np.ndarray, np.ndarray]) -> None:
    for start, stop in ((0, 1), (100, 300), (127, 130), (499, 500)):
        positions, keyframes = simulate(CONFIG, 0, stop - start, start=start)
        np.testing.assert_array_equal(positions, walks[0][start:stop])
        np.testing.assert_array_equal(keyframes, walks[1][start:stop])
    assert len({walk.tobytes() for walk in walks[0]}) == 500


@given(
    frames=st.integers(1, 40), shortest=st.integers(1, 5), more=st.integers(0, 4), speed=st.floats(0.01, 0.11),
    least_turn=st.floats(0.1, 90),
)  # fmt: skip
def test_other_settings_hold_too(frames: int, shortest: int, more: int, speed: float, least_turn: float) -> None:
    config = BrownianConfig(frames=frames, shortest=shortest, longest=shortest + more, speed=speed, least_turn=least_turn)
    positions, keyframes = simulate(config, 1, 3)
    assert positions.shape == (3, frames, 2)
    assert np.abs(positions).max() <= 1 - config.radius + 1e-6
    for places, turns in zip(positions, keyframes, strict=True):
        assert set(np.diff(np.flatnonzero(turns), prepend=0).tolist()) <= set(range(shortest, shortest + more + 1))
        if frames > 2:
            np.testing.assert_array_equal(turned(places[None])[0] > least_turn - 0.05, turns[1:-1])


def test_frames_agree_with_a_slow_drawing(walks: tuple[np.ndarray, np.ndarray]) -> None:
    places = walks[0][:2, ::9]
    frames = draw(places)
    assert (frames.shape, frames.dtype) == ((2, 4, 32, 32, 3), np.uint8)
    for index in np.ndindex(2, 4):
        for row in range(32):
            for column in range(32):
                x, y = (2 * column + 1) / 32 - 1, (2 * row + 1) / 32 - 1
                apart = np.hypot(x - places[index][0], y - places[index][1])
                if abs(apart - CONFIG.radius) > 1e-5:
                    assert (frames[index][row, column] == 255 * (apart < CONFIG.radius)).all()
    with pytest.raises(ValueError, match="positions must be"):
        draw(np.zeros((4, 3)))


def test_a_set_is_written_with_truth_and_keyframes(tmp_path: Path) -> None:
    write_sequences(tmp_path / "a.h5", Brownian(9, seed=3), block=4)
    write_sequences(tmp_path / "b.h5", Brownian(9, seed=3), block=2)
    sequences = Sequences(tmp_path / "a.h5")
    assert sequences.digest == Sequences(tmp_path / "b.h5").digest
    assert sequences.header["seed"] == 3
    assert sequences.truth_names == ("ball",)
    batch = sequences.ordered(35, 9)
    positions, keyframes = simulate(CONFIG, 3, 9)
    np.testing.assert_array_equal(batch["truth"][:, :, 0], positions)
    np.testing.assert_array_equal(batch["keyframes"], keyframes)
    np.testing.assert_array_equal(batch["frames"], draw(positions))


@pytest.mark.parametrize(
    "changes",
    [
        {"frames": 0}, {"image_size": 8}, {"radius": 0.0}, {"speed": float("nan")}, {"shortest": 0}, {"longest": 5},
        {"least_turn": 91.0}, {"speed": 0.2},
    ],
    ids=str,
)  # fmt: skip
def test_configurations_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        BrownianConfig(**changes)


def test_counts_that_cannot_be() -> None:
    for count, seed in ((0, 0), (1, -1)):
        with pytest.raises(UsageError, match="count must be"):
            Brownian(count, seed)
