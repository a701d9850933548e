from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from kpagent.collect.replay import SegmentReplay, Segments
from kpagent.errors import UsageError

GO, TERMINATE, TRUNCATE, BOTH, INTERRUPT = "go", "terminate", "truncate", "both", "interrupt"
OBSERVATION: dict[str, tuple[tuple[int, ...], Any]] = {"xy": ((2, 2), np.float32), "presence": ((2,), np.float32)}
STATE: dict[str, tuple[int, ...]] = {"hidden": (3,)}


@dataclass
class Row:
    """What the plain list keeps of one observation; each has a number of its own, by which it is known everywhere."""

    number: int
    state: int
    first: bool
    action: int = 0
    reward: float = 0.0
    terminated: bool = False
    acted: bool = False
    successor: int | None = None
    """The observation that its transition led to, once that is kept too."""


class PlainList:
    """One copy of an environment: its rows in a list, from the first one on."""

    def __init__(self, start: int) -> None:
        self.rows: list[Row] = []
        self.start = self.number = start
        self.begins = True
        self.pending: Row | None = None

    def observe(self) -> Row:
        row = Row(self.number, state=self.number % 1000 + 1, first=self.begins)
        if self.pending is not None:
            self.pending.successor = row.number
        self.rows.append(row)
        self.pending, self.begins = None, False
        self.number += 1
        return row

    def interrupt(self) -> None:
        if self.pending is not None:
            self.pending.acted = False
        self.pending, self.begins = None, True


class Both:
    """A replay and the plain lists that it is held against."""

    def __init__(self, num_envs: int, rows: int) -> None:
        self.replay = new_replay(num_envs, rows)
        self.lists = [PlainList(100_000 * env) for env in range(num_envs)]

    def step(self, events: list[str]) -> dict[str, Any]:
        rows = [plain.observe() for plain in self.lists]
        call: dict[str, Any] = {
            "observation": observations([row.number for row in rows]),
            "state": states([row.state for row in rows]),
            "action": np.array([row.number % 7 for row in rows]),
            "reward": np.array([row.number / 4 for row in rows]),
            "terminated": np.array([event in (TERMINATE, BOTH) for event in events]),
            "truncated": np.array([event in (TRUNCATE, BOTH) for event in events]),
        }
        final: list[Any] = []
        for event, plain, row in zip(events, self.lists, rows, strict=True):
            row.action, row.reward, row.terminated = row.number % 7, row.number / 4, event in (TERMINATE, BOTH)
            row.acted = True
            plain.pending = row if event in (GO, TRUNCATE) else None
            # Where it terminated as well, there is a last observation too, which is of no use.
            one = {name: value[0] for name, value in observations([plain.number]).items()}
            final.append(one if event in (TRUNCATE, BOTH) else None)
        call["final"] = final
        call["final_state"] = states([plain.number % 1000 + 1 for plain in self.lists])
        for event, plain in zip(events, self.lists, strict=True):
            if event == TRUNCATE:
                plain.observe()
            plain.begins = event != GO
        self.replay.add(**call)
        return call

    def interrupt(self) -> None:
        self.replay.interrupt()
        for plain in self.lists:
            plain.interrupt()


def new_replay(num_envs: int, rows: int) -> SegmentReplay:
    return SegmentReplay(num_envs * rows, num_envs, OBSERVATION, STATE)


def observations(numbers: list[int]) -> dict[str, np.ndarray]:
    numbered = np.array(numbers, np.float32)
    return {"xy": numbered[:, None, None] + [[0, 0.25], [0.5, 0.75]], "presence": numbered[:, None] + [0, 0.125]}


def states(numbers: list[int]) -> dict[str, np.ndarray]:
    return {"hidden": np.array(numbers, np.float32)[:, None] + [0, 1, 2]}


def every_window(replay: SegmentReplay, length: int, burn_in: int) -> tuple[np.ndarray, np.ndarray, Segments]:
    env = np.repeat(np.arange(replay.num_envs), replay.sizes)
    age = np.concatenate([np.arange(size) for size in replay.sizes])
    return env, age, replay.window(env, age, length, burn_in)


def check(window: Segments, sample: int, kept: list[Row], age: int, burn_in: int) -> None:
    """One window against the list of rows that are still kept, row by row."""
    numbers = window.observation["xy"][sample, :, 0, 0]
    usable = window.usable()[sample]
    length = len(numbers)
    in_episode = True
    assert (window.state["hidden"][sample] == states([kept[age].state])["hidden"][0]).all()
    for step in range(length):
        exists = age + step < len(kept)
        if step > burn_in and exists:
            in_episode = in_episode and not kept[age + step].first
        assert window.valid[sample, step] == (exists and (step < burn_in or in_episode))
        if not exists:
            continue
        row = kept[age + step]
        assert numbers[step] == row.number
        for name, value in observations([row.number]).items():
            assert (window.observation[name][sample, step] == value[0]).all()
        assert window.first[sample, step] == row.first
        assert window.acted[sample, step] == row.acted
        if window.acted[sample, step]:
            assert window.action[sample, step] == row.action
            assert window.reward[sample, step] == row.reward
        assert window.terminated[sample, step] == row.terminated
        if step < burn_in:
            continue
        follows = row.successor is not None and step + 1 < length
        assert usable[step] == (in_episode and (row.terminated or follows))
        if usable[step] and not row.terminated:
            assert numbers[step + 1] == row.successor
            assert window.valid[sample, step + 1]


def check_all(both: Both, length: int, burn_in: int) -> None:
    env, age, window = every_window(both.replay, length, burn_in)
    assert len(env) == len(both.replay) == sum(min(len(plain.rows), both.replay.rows) for plain in both.lists)
    for sample in range(len(env)):
        kept = both.lists[env[sample]].rows[-both.replay.rows :]
        check(window, sample, kept, int(age[sample]), burn_in)


def streams(num_envs: int) -> st.SearchStrategy[list[list[str]]]:
    event = st.sampled_from([GO, GO, GO, TERMINATE, TRUNCATE, BOTH])
    step = st.lists(event, min_size=num_envs, max_size=num_envs)
    return st.lists(step | st.just([INTERRUPT]), min_size=1, max_size=25)


@settings(max_examples=100)
@given(
    data=st.data(), num_envs=st.integers(1, 3), rows=st.integers(2, 11), length=st.integers(1, 6), burn_in=st.integers(0, 3)
)
def test_every_window_is_what_a_plain_list_says(
    data: st.DataObject, num_envs: int, rows: int, length: int, burn_in: int
) -> None:
    stream = data.draw(streams(num_envs))
    both = Both(num_envs, rows)
    for events in stream:
        if events == [INTERRUPT]:
            both.interrupt()
        else:
            both.step(events)
    # Streams of any length are drawn, so that what was found at the end holds at every moment.
    check_all(both, length, burn_in)


@settings(max_examples=25)
@given(data=st.data(), num_envs=st.integers(1, 3), rows=st.integers(2, 9), cut=st.integers(0, 25))
def test_a_replay_that_was_stored_and_taken_up_goes_on_as_the_first_one(
    data: st.DataObject, num_envs: int, rows: int, cut: int
) -> None:
    stream = data.draw(streams(num_envs))
    both = Both(num_envs, rows)
    again = new_replay(num_envs, rows)
    for index, events in enumerate(stream):
        if index == min(cut, len(stream) - 1):
            # Before or in an episode, wrapped or not; over what was in it before.
            again.add(**Both(num_envs, rows).step([GO] * num_envs))
            again.load_state_dict({name: value.copy() for name, value in both.replay.state_dict().items()})
        if events == [INTERRUPT]:
            both.interrupt()
            again.interrupt()
        else:
            again.add(**both.step(events))
    assert len(again) == len(both.replay)
    assert_equal_rows(again, both.replay)
    if (both.replay.sizes > 2).any():
        ours, theirs = (replay.sample(16, 3, 1, np.random.default_rng(1)) for replay in (again, both.replay))
        np.testing.assert_array_equal(ours.observation["xy"], theirs.observation["xy"])


def assert_equal_rows(ours: SegmentReplay, theirs: SegmentReplay) -> None:
    window, wanted = (every_window(replay, 3, 1)[2] for replay in (ours, theirs))
    np.testing.assert_array_equal(window.valid, wanted.valid)
    np.testing.assert_array_equal(window.usable(), wanted.usable())
    for name in ("action", "reward", "terminated", "first", "acted"):
        np.testing.assert_array_equal(getattr(window, name)[wanted.valid], getattr(wanted, name)[wanted.valid])
    for name, value in wanted.observation.items():
        np.testing.assert_array_equal(window.observation[name][wanted.valid], value[wanted.valid])
    np.testing.assert_array_equal(window.state["hidden"], wanted.state["hidden"])


def rollout(events: str, rows: int = 20) -> Both:
    """One copy; each letter is a step that goes on, terminates (T), truncates (C), or an interruption (I)."""
    both = Both(1, rows)
    for letter in events:
        if letter == "I":
            both.interrupt()
        else:
            both.step([{"g": GO, "T": TERMINATE, "C": TRUNCATE}[letter]])
    return both


def test_a_terminated_episode_is_used_to_its_last_row_and_no_further() -> None:
    window = rollout("ggTgg").replay.window(np.array([0]), np.array([0]), 5, 0)
    assert window.usable().tolist() == [[True, True, True, False, False]]
    assert window.terminated.tolist() == [[False, False, True, False, False]]
    assert window.first.tolist() == [[True, False, False, True, False]]


def test_a_truncated_episode_is_bootstrapped_from_its_final_observation() -> None:
    both = rollout("gCgg")
    window = both.replay.window(np.array([0]), np.array([0]), 5, 0)
    # Three rows: two that were acted on, and the final observation, after which a new episode begins.
    assert window.observation["presence"][0, :, 0].tolist() == [0, 1, 2, 3, 4]
    assert window.usable().tolist() == [[True, True, False, False, False]]
    assert window.valid.tolist() == [[True, True, True, False, False]]
    assert not window.terminated.any()
    assert window.first.tolist() == [[True, False, False, True, False]]


def test_nothing_is_learned_from_the_transition_that_was_interrupted() -> None:
    window = rollout("ggIgg").replay.window(np.array([0]), np.array([0]), 4, 0)
    assert window.usable().tolist() == [[True, False, False, False]]
    assert window.valid.tolist() == [[True, True, False, False]]
    # Where an episode was over already, nothing is interrupted.
    window = rollout("gTIgg").replay.window(np.array([0]), np.array([0]), 4, 0)
    assert window.usable().tolist() == [[True, True, False, False]]
    # Nor before anything has happened.
    assert rollout("Igg").replay.window(np.array([0]), np.array([0]), 2, 0).usable().tolist() == [[True, False]]


def test_the_newest_transition_waits_for_its_successor() -> None:
    both = rollout("gg")
    assert both.replay.window(np.array([0]), np.array([0]), 3, 0).usable().tolist() == [[True, False, False]]
    both.step([GO])
    assert both.replay.window(np.array([0]), np.array([0]), 3, 0).usable().tolist() == [[True, True, False]]


def test_burn_in_may_lie_in_the_episode_before() -> None:
    window = rollout("gTggg").replay.window(np.array([0]), np.array([0]), 2, 2)
    assert window.first.tolist() == [[True, False, True, False]]
    assert window.valid.all()
    assert window.usable()[0, 2:].tolist() == [True, False]


@pytest.mark.parametrize(("events", "rows"), [("ggTgggCgIgg", 20), ("gggTggCgggggTggIgggg", 7)], ids=["part", "wrapped"])
@pytest.mark.parametrize("burn_in", [0, 3])
def test_first_learned_rows_are_drawn_uniformly_from_the_rows_that_exist(events: str, rows: int, burn_in: int) -> None:
    both = Both(2, rows)
    for index, letter in enumerate(events):
        if letter == "I":
            both.interrupt()
        else:
            both.step([{"g": GO, "T": TERMINATE, "C": TRUNCATE}[letter], TRUNCATE if index % 5 == 0 else GO])
    window = both.replay.sample(6000, 2, burn_in, np.random.default_rng(0))
    drawn, counts = np.unique(window.observation["xy"][:, burn_in, 0, 0], return_counts=True)
    # The newest row is left out: in most cases nothing is known of what followed.
    wanted = [row.number for plain in both.lists for row in plain.rows[-rows:][burn_in:-1]]
    assert drawn.tolist() == wanted
    assert chisquare(counts).pvalue > 0.001
    assert window.valid[:, : burn_in + 1].all()
    assert window.burn_in == burn_in


def test_copies_of_unequal_fill_are_drawn_from_by_their_rows() -> None:
    both = Both(2, 50)
    for _ in range(10):
        both.step([GO, TRUNCATE])
    window = both.replay.sample(9000, 1, 0, np.random.default_rng(0))
    share = (window.observation["xy"][:, 0, 0, 0] < 100_000).mean()
    assert share == pytest.approx(9 / 28, abs=0.02)


def test_what_is_sampled_is_what_the_windows_hold() -> None:
    both = rollout("ggTgggCgggggTgg", rows=10)
    _, _, windows = every_window(both.replay, 3, 2)
    by_number = {number: index for index, number in enumerate(windows.observation["xy"][:, 0, 0, 0].tolist())}
    sampled = both.replay.sample(30, 3, 2, np.random.default_rng(0))
    places = [by_number[number] for number in sampled.observation["xy"][:, 0, 0, 0].tolist()]
    for name in ("action", "reward", "terminated", "first", "valid", "acted"):
        np.testing.assert_array_equal(getattr(sampled, name), getattr(windows, name)[places])
    np.testing.assert_array_equal(sampled.state["hidden"], windows.state["hidden"][places])


@pytest.mark.parametrize("events", ["", "g", "ggg"])
def test_nothing_can_be_sampled_before_there_is_a_row_after_the_burn_in_with_one_behind_it(events: str) -> None:
    with pytest.raises(UsageError, match=r"^nothing to sample yet: no environment has more than 3 rows$"):
        rollout(events).replay.sample(4, 5, 2, np.random.default_rng(0))
    both = rollout("gggg")
    assert both.replay.sample(4, 5, 2, np.random.default_rng(0)).observation["presence"][:, 2, 0].tolist() == [2.0] * 4


def test_what_was_added_is_copied() -> None:
    both = Both(1, 5)
    call = both.step([GO])
    call["observation"]["xy"][:] = -1
    call["state"]["hidden"][:] = -1
    both.step([GO])
    check_all(both, 2, 0)


def test_a_replay_of_other_shape_is_refused() -> None:
    kept = {name: value.copy() for name, value in rollout("ggT", rows=5).replay.state_dict().items()}
    others = [
        SegmentReplay(10, 2, OBSERVATION, STATE),
        SegmentReplay(5, 1, {**OBSERVATION, "features": ((2, 4), np.float32)}, STATE),
        SegmentReplay(5, 1, {**OBSERVATION, "xy": ((3, 2), np.float32)}, STATE),
        SegmentReplay(5, 1, OBSERVATION, {"hidden": (4,)}),
    ]
    for other in others:
        before = {name: value.copy() for name, value in other.state_dict().items()}
        with pytest.raises(UsageError, match=r"^the replay was kept with other observations, or not for .* rows each$"):
            other.load_state_dict(kept)
        for name, value in other.state_dict().items():
            np.testing.assert_array_equal(value, before[name])


def test_a_replay_of_other_capacity_is_refused_once_it_has_come_round() -> None:
    kept = rollout("g" * 8, rows=5).replay.state_dict()
    with pytest.raises(UsageError, match="6 rows"):
        new_replay(1, 6).load_state_dict(kept)
    with pytest.raises(UsageError, match="4 rows"):
        new_replay(1, 4).load_state_dict(kept)


@pytest.mark.parametrize("missing", ["written", "begins", "action", "observation.xy"])
def test_a_replay_that_lacks_a_part_is_refused(missing: str) -> None:
    kept = rollout("ggT", rows=5).replay.state_dict()
    with pytest.raises(UsageError, match="the replay was kept with other observations"):
        new_replay(1, 5).load_state_dict({name: value for name, value in kept.items() if name != missing})


@pytest.mark.parametrize("part", ["written", "begins"])
def test_counters_of_another_shape_are_refused(part: str) -> None:
    kept = dict(rollout("ggT", rows=5).replay.state_dict())
    kept[part] = np.repeat(kept[part], 2)
    with pytest.raises(UsageError, match="the replay was kept with other observations"):
        new_replay(1, 5).load_state_dict(kept)


def test_a_replay_without_room_for_a_transition_is_refused() -> None:
    with pytest.raises(ValueError, match="a replay of 3 rows is too small for 2 copies"):
        SegmentReplay(3, 2, OBSERVATION, STATE)


@pytest.mark.parametrize(("keypoints", "depth"), [(3, 32), (14, 32)], ids=["pong", "frostbite"])
def test_a_hundred_thousand_interactions_fit_in_well_under_a_gigabyte(keypoints: int, depth: int) -> None:
    observation = {"xy": (keypoints, 2), "presence": (keypoints,), "features": (keypoints, depth)}
    state: dict[str, tuple[int, ...]] = {"hidden": (128,), "cell": (128,), "xy": (keypoints, 2)}
    replay = SegmentReplay(100_000, 8, {name: (shape, np.float32) for name, shape in observation.items()}, state)
    numbers = 4 * sum(int(np.prod(shape)) for shape in observation.values()) + 2 * (256 + 2 * keypoints)
    assert 100_000 * numbers < replay.nbytes < 100_000 * (numbers + 32)
    assert replay.nbytes < 0.5 * 2**30
