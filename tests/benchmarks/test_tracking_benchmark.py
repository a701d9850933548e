"""The tracking benchmark: held-out play, its scores against the metrics by hand, and the whole of it on a real game."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from kpagent.benchmarks.games import GAMES
from kpagent.benchmarks.tracked_play import TrackedPlay, record_play
from kpagent.benchmarks.tracking import Track, Tracking
from kpagent.errors import UsageError
from kpagent.keypoints import Keypoints


class Oracle:
    """Sees the places that were drawn into its frames' first row."""

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset

    def encode(self, frames: np.ndarray, *, features: bool = True) -> Keypoints:
        xy = torch.as_tensor(frames[:, 0, :2, :2].astype(np.float32)) / 100 - 1 + self.offset
        return Keypoints(xy, torch.ones(xy.shape[:-1]), torch.zeros(*xy.shape[:-1], 0))


def drawn(frames: int) -> TrackedPlay:
    """Play whose two objects stand at places that can be read from the frames."""
    places = np.random.default_rng(0).integers(0, 200, (frames, 2, 2))
    pictures = np.zeros((frames, 16, 16, 3), np.uint8)
    pictures[:, 0, :2, :2] = places
    return TrackedPlay(pictures, places / 100 - 1, ("a", "b"))


def test_who_sees_the_truth_has_full_marks() -> None:
    track = Track.of(Oracle(), [drawn(100), drawn(70)], 0.2, (1, 25, 50))
    assert {*track.precision, *track.recall, track.tracked_fraction, track.idf1} == {1}
    assert track.switches_per_1000 == 0
    assert track.distance == pytest.approx(0, abs=1e-6)
    blind = Track.of(Oracle(offset=3.0), [drawn(100)], 0.2, (1, 25))
    assert {*blind.precision, *blind.recall} == {0}
    assert blind.tracked_fraction == 0
    assert np.isnan(blind.distance)


def test_held_out_play_is_unbroken_and_has_its_truth() -> None:
    play = list(record_play("ALE/Pong-v5", 2, 30, seed=3))
    again = list(record_play("ALE/Pong-v5", 2, 30, seed=3))
    assert len(play) == 2
    for stretch, same in zip(play, again, strict=True):
        assert stretch.frames.shape == (30, 210, 160, 3)
        assert stretch.objects.shape == (30, 3, 2)
        assert stretch.names == ("player", "enemy", "ball")
        np.testing.assert_array_equal(stretch.frames, same.frames)
        # The player's green is where its paddle is said to be.
        for frame, places in zip(stretch.frames, stretch.objects, strict=True):
            if np.isfinite(places[0]).all():
                x, y = (places[0] + 1) / 2 * (160, 210)
                column = frame[max(int(y) - 2, 34) : int(y) + 2, int(x)]
                assert (column == (92, 186, 92)).all(axis=-1).any()
    assert not np.array_equal(play[0].frames, play[1].frames)


def test_every_game_has_ground_truth_and_an_epsilon() -> None:
    published = {"pong": 0.20, "ms_pacman": 0.15, "frostbite": 0.20, "stack_4": 0.15}
    for name, game in GAMES.items():
        (stretch,) = record_play(game.env, 1, 3, seed=0)
        assert stretch.objects.shape[1] >= game.keypoints - 2, name
        assert game.published == (name in published)
        assert game.epsilon == published.get(name, game.epsilon)


def test_the_benchmark_trains_measures_and_does_not_train_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    bench = Tracking(
        games=("pong",), methods=("transporter", "jakab"), seeds=(0, 1), steps=2, capacity=64, interactions=7_000,
        episodes=2, length=12, pictures=Path("pictures"), device="cpu",
    )  # fmt: skip
    result = bench.run(said.append)
    figures = result["figures"]
    for method in ("transporter", "jakab"):
        for measure in ("precision@1", "recall@10", "switches", "tracked_fraction", "idf1", "train_cpu_s"):
            figure = figures[f"pong/{method}/{measure}"]
            assert len(figure["per_seed"]) == 2
            assert figure["value"] == pytest.approx(np.mean(figure["per_seed"]))
        assert f"pong/{method}/precision@25" not in figures
    assert any("collecting 64" in line for line in said)
    for name in ("tracking", "pong_methods", "pong_track"):
        assert cv2.imread(f"pictures/{name}.png") is not None
    said.clear()
    again = replace(bench, pictures=None).run(said.append)
    assert not any("step" in line or "collecting" in line for line in said)
    same = {name: figure for name, figure in again["figures"].items() if "train" not in name}
    assert same == {name: figure for name, figure in figures.items() if "train" not in name}
    cost = json.loads(Path("runs/tracking/pong/transporter/seed_0/cost.json").read_text())
    assert cost["steps"] == 2
    with pytest.raises(UsageError, match="choose another --runs"):
        replace(bench, capacity=65).run(said.append)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"games": ("tetris",)}, "no ground truth for 'tetris'; there is for pong"),
        ({"games": ()}, "name at least one game"),
        ({"games": ("pong", "pong")}, "each once"),
        ({"methods": ("magic",)}, "no method 'magic'; there are transporter"),
        ({"seeds": ()}, "at least once"),
        ({"seeds": (0, 0)}, "must be different"),
        ({"length": 0}, "length must be at least 1"),
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"games": ("pong", "breakout"), "weights": ("pong",)}, "weights must be one a game"),
        ({"weights": ("tetris",)}, "no weights called 'tetris'"),
        ({"weights": ("breakout",)}, "holds keypoints of ALE/Breakout-v5, not of ALE/Pong-v5"),
    ],
)
def test_a_wrong_argument_gets_one_line(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message) as error:
        replace(Tracking(games=("pong",), device="cpu"), **changes).run(lambda line: None)
    assert "\n" not in str(error.value)


def test_an_episode_too_short_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpagent.benchmarks.tracked_play.TRIES", 1)
    with pytest.raises(UsageError, match=r"no episode of kpagent/Stacker4-v0 in 1 has 300 frames, the longest \d+"):
        list(record_play("kpagent/Stacker4-v0", 1, 300, seed=0))
