from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpagent.collect.frame_replay import FRAME, FrameReplay, compress_frames
from kpagent.errors import UsageError

SIZE = 4
STATE = {"hidden": (3,)}
OBSERVATION: dict[str, tuple[tuple[int, ...], Any]] = {"option": ((2,), np.int64)}


@dataclass
class Row:
    """What the plain list keeps; each row has a number of its own, which can be read from its frame."""

    number: int
    episode: int
    first: bool
    terminated: bool


class Both:
    """A replay and the plain lists that it is held against: every row that was ever added, one list for each copy."""

    def __init__(self, num_envs: int, rows: int) -> None:
        self.replay = FrameReplay(num_envs * rows, num_envs, SIZE, STATE, OBSERVATION)
        self.lists: list[list[Row]] = [[] for _ in range(num_envs)]

    def add(self, events: str) -> None:
        """One transition of every copy: it goes on (g), terminates (T) or is cut off (C)."""
        for env, (event, rows) in enumerate(zip(events, self.lists, strict=True)):
            over = not rows or rows[-1].terminated
            episode = (rows[-1].episode if rows else -1) + over
            rows.append(Row(10_000 * env + len(rows), episode, over, event != "g"))
        numbers = np.array([rows[-1].number for rows in self.lists])
        flags = {name: np.array([event == letter for event in events]) for name, letter in (("T", "T"), ("C", "C"))}
        self.replay.add(
            compress_frames(np.stack([picture(number) for number in numbers])),
            {"hidden": numbers[:, None] % 1000 + np.arange(3)},
            numbers % 7,
            numbers / 4,
            flags["T"],
            flags["C"],
            {"option": np.stack([numbers % 5, numbers % 4], axis=1)},
        )

    def kept(self, env: int) -> list[Row]:
        return self.lists[env][-self.replay.rows.rows :]

    def find(self, number: int) -> Row:
        return self.lists[number // 10_000][number % 10_000]


def picture(number: int) -> np.ndarray:
    """Noise that is this row's alone; the number is written into its first pixels."""
    frame = np.random.default_rng(number).integers(256, size=(SIZE, SIZE, 3), dtype=np.uint8)
    frame.reshape(-1)[:4] = list(int(number).to_bytes(4, "big"))
    return frame


def number_of(frame: np.ndarray) -> int:
    number = int.from_bytes(bytes(frame.reshape(-1)[:4].tolist()), "big")
    np.testing.assert_array_equal(frame, picture(number))
    return number


def play(stream: list[str], rows: int) -> Both:
    both = Both(len(stream[0]), rows)
    for events in stream:
        both.add(events)
    return both


def streams(num_envs: int, least: int = 1) -> st.SearchStrategy[list[str]]:
    step = st.lists(st.sampled_from("ggggTC"), min_size=num_envs, max_size=num_envs).map("".join)
    return st.lists(step, min_size=least, max_size=25)


@settings(max_examples=60)
@given(
    data=st.data(), num_envs=st.integers(1, 3), rows=st.integers(2, 11), length=st.integers(1, 6), burn_in=st.integers(0, 2)
)
def test_every_sampled_window_is_what_a_plain_list_says(
    data: st.DataObject, num_envs: int, rows: int, length: int, burn_in: int
) -> None:
    both = play(data.draw(streams(num_envs)), rows)
    assert len(both.replay) == sum(len(both.kept(env)) for env in range(num_envs))
    possible = any(len(both.kept(env)) > burn_in + 1 for env in range(num_envs))
    assert both.replay.can_sample(burn_in) == possible
    if not possible:
        return
    segments = both.replay.sample(8, length, burn_in, np.random.default_rng(0))
    assert set(segments.observation) == {FRAME, "option"}
    frames = segments.observation[FRAME]
    assert frames.shape == (8, burn_in + length, SIZE, SIZE, 3)
    assert frames.dtype == np.uint8
    for sample in range(8):
        assert segments.valid[sample, 0]
        begin = number_of(frames[sample, 0])
        kept = both.kept(begin // 10_000)
        age = begin - kept[0].number
        assert 0 <= age < len(kept) - burn_in - 1 + (burn_in == 0)
        np.testing.assert_array_equal(segments.state["hidden"][sample], begin % 1000 + np.arange(3))
        learned = kept[age + burn_in].episode
        for step in range(burn_in + length):
            exists = age + step < len(kept)
            valid = exists and (step <= burn_in or kept[age + step].episode == learned)
            assert segments.valid[sample, step] == valid
            if not valid:
                assert not frames[sample, step].any()
                continue
            row = kept[age + step]
            assert number_of(frames[sample, step]) == row.number
            assert segments.observation["option"][sample, step].tolist() == [row.number % 5, row.number % 4]
            assert segments.action[sample, step] == row.number % 7
            assert segments.reward[sample, step] == row.number / 4
            assert segments.first[sample, step] == row.first
            # An episode that was cut off is one that ended: its last frame is not there to be bootstrapped from.
            assert segments.terminated[sample, step] == row.terminated


def legal_pairs(both: Both, offset: tuple[int, int]) -> set[tuple[int, int]]:
    pairs = set()
    for env in range(len(both.lists)):
        kept = both.kept(env)
        for age, row in enumerate(kept):
            for later in kept[age + offset[0] : age + offset[1] + 1]:
                if later.episode == row.episode:
                    pairs.add((row.number, later.number))
    return pairs


def numbered_pairs(both: Both, count: int, offset: tuple[int, int], seed: int = 0) -> list[tuple[int, int]]:
    earlier, later = both.replay.pairs(count, offset, np.random.default_rng(seed))
    assert earlier.shape == later.shape == (count, SIZE, SIZE, 3)
    assert earlier.dtype == later.dtype == np.uint8
    return list(zip(map(number_of, earlier), map(number_of, later), strict=True))


@settings(max_examples=60)
@given(data=st.data(), num_envs=st.integers(1, 3), rows=st.integers(2, 11), least=st.integers(1, 4), more=st.integers(0, 5))
def test_pairs_are_of_one_episode_and_as_far_apart_as_asked(
    data: st.DataObject, num_envs: int, rows: int, least: int, more: int
) -> None:
    both = play(data.draw(streams(num_envs, least=8)), rows)
    offset = (least, least + more)
    legal = legal_pairs(both, offset)
    if not legal:
        with pytest.raises(UsageError, match=f"too few pairs {least} to {least + more} interactions apart"):
            both.replay.pairs(3, offset, np.random.default_rng(0))
        return
    try:
        found = numbered_pairs(both, 3, offset)
    except UsageError:
        # Where almost no two rows are fit, it gives up rather than search for ever.
        assert len(legal) < 0.1 * len(both.replay) * (more + 1)
        return
    assert set(found) <= legal


def test_every_pair_is_found_sooner_or_later_those_around_the_seam_of_the_ring_too() -> None:
    both = play(["gg", "gg", "gT", "gg", "Tg", "gg", "gg", "gC", "gg", "gg", "gg"], rows=8)
    legal = legal_pairs(both, (1, 3))
    found = numbered_pairs(both, 2000, (1, 3))
    assert set(found) == legal
    # From rows that are as likely, and offsets that are: none is left to chance alone.
    counts = np.unique([f"{a}-{b}" for a, b in found], return_counts=True)[1]
    assert counts.min() > 0.5 * 2000 / len(legal)
    assert counts.max() < 2 * 2000 / len(legal)


def test_one_offset_is_that_offset() -> None:
    both = play(["g"] * 12, rows=12)
    assert {later - earlier for earlier, later in numbered_pairs(both, 50, (4, 4))} == {4}


def test_one_generator_gives_one_sample_and_one_set_of_pairs() -> None:
    both = play(["gg"] * 12, rows=12)
    assert numbered_pairs(both, 20, (1, 5), seed=3) == numbered_pairs(both, 20, (1, 5), seed=3)
    assert numbered_pairs(both, 20, (1, 5), seed=3) != numbered_pairs(both, 20, (1, 5), seed=4)
    one, same, other = (both.replay.sample(8, 3, 0, np.random.default_rng(seed)).observation[FRAME] for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_frames_that_were_pushed_out_take_no_memory() -> None:
    replay = FrameReplay(10, 2, 64, STATE)
    generator = np.random.default_rng(0)

    def add(frames: np.ndarray) -> None:
        nothing = np.zeros(2, bool)
        replay.add(compress_frames(frames), {"hidden": np.zeros((2, 3))}, np.zeros(2), np.zeros(2), nothing, nothing)

    empty = replay.nbytes
    noise = 64 * 64 * 3
    for count in range(1, 6):
        add(generator.integers(256, size=(2, 64, 64, 3), dtype=np.uint8))
        assert replay.nbytes - empty >= 2 * count * noise
    full = replay.nbytes
    for _ in range(15):
        add(generator.integers(256, size=(2, 64, 64, 3), dtype=np.uint8))
        assert abs(replay.nbytes - full) < 100
    for _ in range(5):
        add(np.zeros((2, 64, 64, 3), np.uint8))
    assert len(replay) == 10
    # A black frame is next to nothing.
    assert replay.nbytes - empty < 10 * 200


def test_nothing_can_be_had_from_an_empty_replay() -> None:
    replay = FrameReplay(20, 2, SIZE, STATE)
    assert len(replay) == 0
    assert not replay.can_sample(0)
    with pytest.raises(UsageError, match="nothing to sample yet"):
        replay.sample(2, 3, 0, np.random.default_rng(0))
    with pytest.raises(UsageError, match="0 frames hold too few pairs 1 to 20 interactions apart"):
        replay.pairs(2, (1, 20), np.random.default_rng(0))


def test_episodes_that_are_too_short_hold_no_pairs() -> None:
    both = play(["g", "g", "T"] * 6, rows=18)
    assert set(numbered_pairs(both, 30, (2, 9))) == {(3 * i, 3 * i + 2) for i in range(6)}
    with pytest.raises(UsageError, match="18 frames hold too few pairs 3 to 9 interactions apart"):
        both.replay.pairs(1, (3, 9), np.random.default_rng(0))


def test_a_replay_too_small_for_its_copies_is_refused() -> None:
    with pytest.raises(ValueError, match="a replay of 5 rows is too small for 3 copies"):
        FrameReplay(5, 3, SIZE, STATE)


def test_compression_loses_nothing_whatever_way_the_frames_lie_in_memory() -> None:
    frames = np.random.default_rng(0).integers(256, size=(3, 10, 10, 3), dtype=np.uint8)
    for view in (frames, frames[:, ::-1], frames.transpose(0, 2, 1, 3), frames[::2]):
        for frame, compressed in zip(view, compress_frames(view), strict=True):
            found = np.frombuffer(zlib.decompress(compressed), np.uint8).reshape(frame.shape)
            np.testing.assert_array_equal(found, frame)


def test_frames_of_a_sample_can_be_written_to_and_the_replay_keeps_its_own() -> None:
    both = play(["g"] * 6, rows=6)
    frames = both.replay.sample(4, 3, 0, np.random.default_rng(0)).observation[FRAME]
    kept = frames.copy()
    frames[:] = 0
    earlier, _ = both.replay.pairs(4, (1, 2), np.random.default_rng(0))
    earlier[:] = 0
    again = both.replay.sample(4, 3, 0, np.random.default_rng(0)).observation[FRAME]
    np.testing.assert_array_equal(again, kept)
