from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpagent.collect.frame_log import FrameLog
from kpagent.errors import UsageError

ENVS, ROWS, SIZE = 2, 5, 6


def frame(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(256, size=(SIZE, SIZE, 3), dtype=np.uint8)


def written_to(path: Path, plan: list[tuple[int, bool]]) -> tuple[FrameLog, dict[tuple[int, int], np.ndarray], np.ndarray]:
    """A log with one row after the other, and what it should hold; of each row: which copy, and whether it has a frame."""
    log = FrameLog(path, ENVS, ROWS, SIZE)
    kept: dict[tuple[int, int], np.ndarray] = {}
    written = np.zeros(ENVS, np.int64)
    for number, (env, known) in enumerate(plan):
        row = int(written[env])
        log.add([env], [row], [log.compress(frame(number)) if known else None])
        if known:
            kept[env, row] = frame(number)
        kept.pop((env, row - ROWS), None)
        written[env] += 1
    return log, kept, written


def check(log: FrameLog, kept: dict[tuple[int, int], np.ndarray], written: np.ndarray) -> None:
    for env in range(ENVS):
        rows = np.arange(written[env])
        assert log.has(env, rows).tolist() == [(env, row) in kept for row in rows]
    if kept:
        envs, rows = map(np.array, zip(*kept, strict=True))
        np.testing.assert_array_equal(log.read(envs, rows), np.stack(list(kept.values())))


@given(plan=st.lists(st.tuples(st.integers(0, ENVS - 1), st.booleans()), max_size=30))
def test_it_keeps_the_newest_rows_and_finds_them_again(
    plan: list[tuple[int, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "frames.bin"
    log, kept, written = written_to(path, plan)
    with closing(log):
        check(log, kept, written)
    with closing(FrameLog(path, ENVS, ROWS, SIZE, written=written)) as again:
        check(again, kept, written)


def test_what_was_played_again_after_a_kill_counts_as_it_was_played_last(tmp_path: Path) -> None:
    path = tmp_path / "frames.bin"
    log, kept, _ = written_to(path, [(0, True)] * 7)
    log.close()
    with path.open("ab") as file:
        file.write(b"half a record")
    # The agent was kept at row 4 of the first copy.
    before = np.array([4, 0])
    with closing(FrameLog(path, ENVS, ROWS, SIZE, written=before)) as log:
        assert log.has(0, np.arange(7)).tolist() == [True] * 4 + [False] * 3
        log.add([0, 0], [4, 5], [log.compress(frame(100)), None])
    with closing(FrameLog(path, ENVS, ROWS, SIZE, written=np.array([7, 0]))) as log:
        assert log.has(0, np.arange(7)).tolist() == [False, False, True, True, True, False, True]
        np.testing.assert_array_equal(log.read(np.zeros(2, int), np.array([4, 6])), [frame(100), kept[0, 6]])


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "frames.bin"
    written = np.array([3, 0])
    with pytest.raises(UsageError, match="cannot open"):
        FrameLog(path, ENVS, ROWS, SIZE, written=written)
    written_to(path, [(0, True)] * 3)[0].close()
    with pytest.raises(UsageError, match="does not hold the frames of 2 environments with 6 rows each"):
        FrameLog(path, ENVS, ROWS + 1, SIZE, written=written)
    damaged = bytearray(path.read_bytes())
    damaged[-20:] = bytes(20)
    path.write_bytes(damaged)
    with closing(FrameLog(path, ENVS, ROWS, SIZE, written=written)) as log:
        with pytest.raises(UsageError, match="damaged: the frame of row 2"):
            log.read(np.array([0]), np.array([2]))
        with pytest.raises(KeyError):
            log.read(np.array([0]), np.array([3]))
        with pytest.raises(ValueError, match="frames must be"):
            log.compress(frame(0)[:-1])
