"""Episodes on disk and in memory, against what they were made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kpagent.collect.episodes import Episode, EpisodeReplay
from kpagent.errors import UsageError


def episode(length: int, seed: int = 0, actions: int = 2) -> Episode:
    """Frame t is of one colour, 10 · seed + t; action t is t + 1, and so is its reward."""
    colors = (10 * seed + np.arange(length + 1)).astype(np.uint8)
    frames = np.broadcast_to(colors[:, None, None, None], (length + 1, 8, 8, 3))
    steps = np.arange(1.0, length + 1)
    return Episode.of(frames, np.repeat(steps[:, None], actions, axis=1), steps)


def codes(one: Episode) -> torch.Tensor:
    return torch.from_numpy(one.frames()[:, 0, 0, :1].astype(np.float32))


def test_an_episode_is_the_same_after_it_was_saved(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    actions, rewards = np.random.default_rng(1).normal(size=(5, 2)), np.arange(5.0)
    Episode.of(frames, actions, rewards).save(tmp_path / "one.safetensors", {"kind": "random"})
    found, about = Episode.load(tmp_path / "one.safetensors")
    assert (about, len(found)) == ({"kind": "random"}, 5)
    np.testing.assert_array_equal(found.frames(), frames)
    np.testing.assert_array_equal(found.frames([4, 0]), frames[[4, 0]])
    np.testing.assert_array_equal(found.actions, actions.astype(np.float32))
    np.testing.assert_array_equal(found.rewards, rewards)


def test_what_is_no_episode_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    episode(4).save(path, {})
    content = path.read_bytes()
    path.write_bytes(content[:-8] + bytes(8))
    with pytest.raises(UsageError, match="altered"):
        Episode.load(path)
    with pytest.raises(UsageError, match="no weights file"):
        Episode.load(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="do not fit"):
        Episode.of(np.zeros((4, 8, 8, 3), np.uint8), np.zeros((4, 1)), np.zeros(4))


def test_the_oldest_episodes_go() -> None:
    replay = EpisodeReplay(10)
    for seed in range(4):
        replay.add(episode(4, seed))
    assert len(replay) == 8
    assert [int(one.frames([0])[0, 0, 0, 0]) for one in replay.episodes] == [20, 30]
    assert len(replay.codes) == 2
    replay.add(episode(12, 5))
    # Never without the newest, however long it is.
    assert len(replay) == 12


def test_frames_of_a_row_come_from_everywhere() -> None:
    replay = EpisodeReplay(100)
    for seed in range(5):
        replay.add(episode(3, seed))
    frames = replay.frames(40, 5, np.random.default_rng(0))
    assert frames.shape == (40, 5, 8, 8, 3)
    colors = frames[..., 0, 0, 0]
    assert set(np.unique(colors)) == {10 * seed + t for seed in range(5) for t in range(4)}
    assert np.mean([len(np.unique(row // 10)) for row in colors]) > 2.5


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    length=st.integers(2, 8),
    before=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_windows_are_those_of_a_slow_loop(lengths: list[int], length: int, before: int, seed: int) -> None:
    # A window with nothing but the frame before the start would not tell where it begins.
    before = min(before, length - 2)
    replay = EpisodeReplay(1000)
    for number, steps in enumerate(lengths):
        one = episode(steps, number)
        replay.add(one, codes(one))
    wanted = set()
    for number, steps in enumerate(lengths):
        for first in range(-before, steps + 1 - length + 1):
            wanted.add((*(10 * number + max(0, first + t) for t in range(length)), first))
    if not wanted:
        with pytest.raises(UsageError, match="no episode has"):
            replay.windows(4, length, before, np.random.default_rng(seed))
        return
    found = replay.windows(4, length, before, np.random.default_rng(seed))
    assert found["rewards"].shape == found["known"].shape == (4, length - 1)
    for code, action, reward, known in zip(*(found[name] for name in ("codes", "actions", "rewards", "known")), strict=True):
        colors = code[:, 0].int().tolist()
        number = colors[0] // 10
        # A frame with a reward for what follows it says where the window begins.
        first = -int((~known).sum()) if colors[0] % 10 == 0 else colors[0] % 10
        assert (*colors, first) in wanted
        for t in range(length):
            frame = first + t
            acted = 0 <= frame < lengths[number]
            assert action[t].tolist() == ([frame + 1.0] * 2 if acted else [0.0, 0.0])
            if t < length - 1:
                assert bool(known[t]) == acted
                assert reward[t] == (frame + 1.0 if acted else 0.0)


def test_every_window_is_as_likely() -> None:
    replay = EpisodeReplay(1000)
    for number, steps in enumerate((5, 9)):
        one = episode(steps, number)
        replay.add(one, codes(one))
    found = replay.windows(6000, 4, 0, np.random.default_rng(0))["codes"][:, 0, 0].int().tolist()
    counts = np.unique(found, return_counts=True)[1]
    assert len(counts) == 3 + 7
    assert np.abs(counts / 600 - 1).max() < 0.2
