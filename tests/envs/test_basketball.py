from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpagent.collect.sequence_making import write_sequences
from kpagent.collect.sequences import Sequences
from kpagent.envs.basketball import COLORS, COURT_COLOR, NAMES, Basketball, BasketballConfig, draw, simulate
from kpagent.errors import UsageError

CONFIG = BasketballConfig()


@pytest.fixture(scope="module")
def games() -> np.ndarray:
    return simulate(CONFIG, 0, 200)


def apart(positions: np.ndarray, frames: int) -> np.ndarray:
    return np.linalg.norm(positions[:, frames:] - positions[:, :-frames], axis=-1)


def test_a_sequence_depends_on_the_seed_and_its_number_alone(games: np.ndarray) -> None:
    assert games.shape == (200, 50, 6, 2)
    assert games.dtype == np.float32
    np.testing.assert_array_equal(simulate(CONFIG, 0, 3, start=40), games[40:43])
    np.testing.assert_array_equal(simulate(CONFIG, 0, 1, start=199)[0], games[199])
    assert np.abs(simulate(CONFIG, 1, 1) - games[:1]).max() > 0.1
    assert len({game.tobytes() for game in games}) == 200


def test_all_stay_on_the_court_and_move_as_documented(games: np.ndarray) -> None:
    assert np.abs(games).max() <= 0.98
    moved = apart(games, 8)
    players, ball = moved[..., :5], moved[..., 5]
    assert players.mean() == pytest.approx(0.31, abs=0.02)
    assert ball.mean() == pytest.approx(0.52, abs=0.04)
    assert np.percentile(players, 10) == pytest.approx(0.07, abs=0.03)
    assert np.percentile(players, 90) == pytest.approx(0.49, abs=0.03)
    # All are alike: nobody is told apart by where he plays.
    assert np.ptp(players.mean(axis=(0, 1))) < 0.05


def test_players_are_smooth_and_the_ball_is_fast_and_straight(games: np.ndarray) -> None:
    step = apart(games, 1)
    assert step[..., :5].max() < 1.6 * CONFIG.pace
    turn = np.linalg.norm(np.diff(games[..., :5, :], n=2, axis=1), axis=-1)
    assert turn.mean() < 0.2 * step[..., :5].mean()
    assert turn.max() < 0.06
    reach = np.linalg.norm(games[..., :5, :] - games[..., 5:, :], axis=-1).min(axis=-1)
    held = reach < 0.13
    assert 0.5 < held.mean() < 0.85
    flying = ~held[:, :-1] & ~held[:, 1:]
    assert np.median(step[..., 5][flying]) > 2 * np.median(step[..., :5])
    # Where the ball flies for three frames, the way is as long as the places are apart, within a few percent.
    way = np.diff(games[..., 5, :], axis=1)
    length = np.linalg.norm(way, axis=-1)
    cosine = (way[:, 1:] * way[:, :-1]).sum(-1) / (length[:, 1:] * length[:, :-1] + 1e-9)
    free = ~held[:, :-2] & ~held[:, 1:-1] & ~held[:, 2:]
    assert np.median(cosine[free]) > 0.95


def test_the_ball_changes_hands_and_comes_to_all(games: np.ndarray) -> None:
    distance = np.linalg.norm(games[..., :5, :] - games[..., 5:, :], axis=-1)
    holder = np.where(distance.min(axis=-1) < 0.13, distance.argmin(axis=-1), -1)
    share = np.array([(holder == player).mean() for player in range(5)])
    assert share.min() > 0.7 * share.max()
    assert (np.diff(distance.argmin(axis=-1), axis=1) != 0).sum(axis=1).mean() > 3


def test_players_keep_their_distance(games: np.ndarray) -> None:
    between = np.linalg.norm(games[:, :, :5, None] - games[:, :, None, :5], axis=-1)[..., *np.triu_indices(5, 1)]
    rng = np.random.default_rng(0)
    shuffled = np.stack([games[rng.permutation(200), :, player] for player in range(5)], axis=2)
    chance = np.linalg.norm(shuffled[:, :, :, None] - shuffled[:, :, None], axis=-1)[..., *np.triu_indices(5, 1)]
    assert (between < 0.15).mean() < 0.6 * (chance < 0.15).mean()


def test_one_past_has_many_futures() -> None:
    """Where the draws of two games part company in the middle, so do the games, though not before."""
    from kpagent.envs import basketball

    draws = np.random.default_rng(0).random((1, 60, basketball._DRAWS)).repeat(64, axis=0)
    draws[:, 40:] = np.random.default_rng(1).random((64, 20, basketball._DRAWS))
    game = basketball._Game(CONFIG, draws[:, 0])
    tracks = []
    for step in range(1, 60):
        game.advance(draws[:, step])
        tracks.append(np.concatenate([game.place, game.ball[:, None]], axis=1))
    spread = np.stack(tracks, axis=1).std(axis=0).mean(axis=-1)
    assert spread[:39].max() < 1e-12
    assert (spread[46] > 0.01).all()
    assert spread[58, 5] > 0.25
    assert spread[58, :5].mean() > 0.1


def reference(positions: np.ndarray, config: BasketballConfig) -> np.ndarray:
    """One frame, pixel by pixel: each dot covers a pixel by how far its rim lies beyond the pixel's centre."""
    size = config.image_size
    frame = np.empty((size, size, 3))
    for row in range(size):
        for column in range(size):
            color = np.array(COURT_COLOR, float)
            for index, (x, y) in enumerate(positions):
                radius = (config.ball_radius if index == 5 else config.player_radius) * size / 2
                distance = np.hypot((x + 1) * size / 2 - 0.5 - column, (y + 1) * size / 2 - 0.5 - row)
                covered = min(max(radius + 0.5 - distance, 0), 1)
                color = np.rint(color + covered * (np.array(COLORS[index]) - color))
            frame[row, column] = color
    return frame


def test_frames_agree_with_a_slow_drawing(games: np.ndarray) -> None:
    config = BasketballConfig(image_size=32)
    positions = np.concatenate([games[3, ::25], np.random.default_rng(0).uniform(-1, 1, (2, 6, 2)).astype(np.float32)])
    frames = draw(positions, config)
    assert frames.dtype == np.uint8
    for frame, places in zip(frames, positions, strict=True):
        np.testing.assert_allclose(frame, reference(places, config), atol=1)


@given(x=st.floats(-0.85, 0.85), y=st.floats(-0.85, 0.85), index=st.integers(0, 5))
@settings(max_examples=40)
def test_a_dot_lies_where_it_is_said_to_lie(x: float, y: float, index: int) -> None:
    positions = np.full((6, 2), 0.97)
    positions[index] = x, y
    empty = np.full((6, 2), 0.97)
    difference = np.abs(draw(positions).astype(float) - draw(empty)).sum(axis=-1)
    difference[58:, 58:] = 0
    centres = (2 * np.arange(64) + 1) / 64 - 1
    if max(x, y) > 0.75:
        return
    found = np.array([(difference.sum(0) * centres).sum(), (difference.sum(1) * centres).sum()]) / difference.sum()
    np.testing.assert_allclose(found, (x, y), atol=0.004)


@given(st.floats(-5, 5), st.floats(-5, 5))
@settings(max_examples=30)
def test_what_lies_outside_disturbs_nobody(x: float, y: float) -> None:
    positions = np.zeros((3, 6, 2))
    positions[1, 2] = x, y
    frames = draw(positions)
    np.testing.assert_array_equal(frames[0], frames[2])
    np.testing.assert_array_equal(frames[0], draw(positions[0]))


def test_shapes_of_frames() -> None:
    assert draw(np.zeros((2, 3, 6, 2))).shape == (2, 3, 64, 64, 3)
    assert draw(np.zeros((0, 6, 2))).shape == (0, 64, 64, 3)
    with pytest.raises(ValueError, match="positions must be"):
        draw(np.zeros((5, 2)))


def test_colours_are_distinct() -> None:
    colors = np.array([*COLORS, COURT_COLOR], float)
    between = np.linalg.norm(colors[:, None] - colors[None], axis=-1)[np.triu_indices(7, 1)]
    assert between.min() > 90


def test_a_set_is_written_with_its_truth(tmp_path: Path) -> None:
    config = BasketballConfig(frames=20)
    write_sequences(tmp_path / "a.h5", Basketball(7, seed=3, config=config), block=4)
    sequences = Sequences(tmp_path / "a.h5")
    assert sequences.truth_names == NAMES
    assert (len(sequences), sequences.num_frames, sequences.frame_size) == (7, 140, 64)
    assert (sequences.header["seed"], sequences.header["config"]["pace"]) == (3, config.pace)
    batch = sequences.ordered(20, 7)
    np.testing.assert_array_equal(batch["truth"], simulate(config, 3, 7))
    np.testing.assert_array_equal(batch["frames"], draw(batch["truth"]))


@pytest.mark.parametrize(
    "changes",
    [
        {"frames": 0}, {"frames": 2.5}, {"image_size": 8}, {"player_radius": 0.0}, {"ball_radius": float("nan")},
        {"pace": 0.0}, {"ball_speed": 0.01}, {"pass_rate": 2.0}, {"shot_share": -1.0},
    ],
    ids=str,
)  # fmt: skip
def test_configurations_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        BasketballConfig(**changes)


def test_counts_that_cannot_be() -> None:
    for count, seed in ((0, 0), (1, -1)):
        with pytest.raises(UsageError, match="count must be"):
            Basketball(count, seed)
