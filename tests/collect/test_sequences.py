from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpagent.collect.sequence_file import FORMAT
from kpagent.collect.sequence_making import FrameSequence, Provenance, SequencesProgress, write_sequences
from kpagent.collect.sequences import Sequences
from kpagent.errors import UsageError

NAMES = ("left", "right")


def made(index: int, size: int = 16) -> FrameSequence:
    """Of 3 to 12 frames, every number of which says where it belongs."""
    length = 3 + index * 5 % 10
    steps = np.arange(length)
    frames = np.zeros((length, size, size, 3), np.uint8)
    frames[..., 0] = index
    frames[..., 1] = steps[:, None, None]
    actions = np.stack([steps, np.full(length, index)], axis=1).astype(np.float32)
    truth = np.random.default_rng(index).uniform(-1, 1, (length, 2, 2)).astype(np.float32)
    truth[0, 1] = np.nan
    keyframes = steps % 4 == index % 4
    return FrameSequence(frames, actions, 100 * index + steps.astype(np.float32), truth, index % 3, keyframes=keyframes)


class Made:
    def __init__(self, count: int = 10, sequences: list[FrameSequence] | None = None, **provenance: Any) -> None:
        self.count = len(sequences) if sequences is not None else count
        self.sequences = sequences
        self.made: list[int] = []
        self.provenance = Provenance(
            "test", "made up", {"a": [1, 2]}, seed=0, truth_names=NAMES, label_names=("a", "b", "c")
        )
        if provenance:
            self.provenance = Provenance("test", "made up", **({"config": {}} | provenance))

    def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
        for index in range(start, stop):
            self.made.append(index)
            yield made(index) if self.sequences is None else self.sequences[index]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sequences") / "made.h5"
    write_sequences(path, Made(), block=3)
    return path


def test_what_is_written_is_read(path: Path) -> None:
    sequences = Sequences(path)
    assert len(sequences) == 10
    assert sequences.lengths.tolist() == [len(made(index).frames) for index in range(10)]
    assert sequences.num_frames == sum(sequences.lengths)
    assert (sequences.frame_size, sequences.action_dim, sequences.has_rewards) == (16, 2, True)
    assert sequences.has_keyframes
    assert (sequences.truth_names, sequences.label_names) == (NAMES, ("a", "b", "c"))
    assert sequences.labels is not None
    assert sequences.labels.tolist() == [index % 3 for index in range(10)]
    header = sequences.header
    assert (header["format"], header["source"], header["name"], header["seed"]) == (FORMAT, "test", "made up", 0)
    assert header["config"] == {"a": [1, 2]}
    assert set(header["versions"]) >= {"kpagent", "numpy", "h5py"}
    sequences.verify()
    with h5py.File(path, "r") as file:
        for name in ("frames", "actions", "rewards", "truth", "keyframes"):
            expected = np.concatenate([getattr(made(index), name) for index in range(10)])
            assert file[name].fletcher32
            np.testing.assert_array_equal(file[name][:], expected)
            assert file[name].dtype == expected.dtype


@pytest.mark.parametrize("memory", [0, 500, 10**9], ids=["from the file", "frames from the file", "from memory"])
def test_windows_are_consecutive_frames_of_one_sequence(path: Path, memory: int) -> None:
    batch = Sequences(path, memory=memory).windows(200, 4, np.random.default_rng(0))
    assert batch["frames"].shape == (200, 4, 16, 16, 3)
    for index in range(200):
        number, start = batch["frames"][index, 0, 0, 0, :2].astype(int)
        source = made(number)
        for name in ("frames", "actions", "rewards", "truth", "keyframes"):
            np.testing.assert_array_equal(batch[name][index], getattr(source, name)[start : start + 4])
        assert batch["labels"][index] == source.label


def test_memory_makes_no_difference(path: Path) -> None:
    held, read = (Sequences(path, memory=memory).windows(30, 5, np.random.default_rng(3)) for memory in (10**9, 0))
    for name in held:
        np.testing.assert_array_equal(held[name], read[name])


def test_every_legal_window_is_as_likely(path: Path) -> None:
    batch = Sequences(path).windows(40_000, 3, np.random.default_rng(0))
    found, counts = np.unique(batch["actions"][:, 0, ::-1], axis=0, return_counts=True)
    legal = [(index, start) for index in range(10) for start in range(len(made(index).frames) - 2)]
    assert [tuple(row) for row in found.astype(int)] == legal
    expected = 40_000 / len(legal)
    # Chi squared with as many degrees of freedom, three standard deviations up.
    assert ((counts - expected) ** 2 / expected).sum() < len(legal) + 3 * (2 * len(legal)) ** 0.5


def test_frames_of_a_mixed_window_come_from_anywhere_in_one_class(path: Path) -> None:
    batch = Sequences(path).windows(6_000, 4, np.random.default_rng(0), mix=1.0)
    assert batch["frames"].shape == (6_000, 4, 16, 16, 3)
    number, step = (batch["frames"][..., 0, 0, part].astype(int) for part in range(2))
    np.testing.assert_array_equal(number % 3, np.repeat(batch["labels"][:, None], 4, axis=1))
    for row, column in np.ndindex(20, 4):
        for name in ("actions", "rewards", "truth", "keyframes"):
            expected = getattr(made(int(number[row, column])), name)[int(step[row, column])]
            np.testing.assert_array_equal(batch[name][row, column], expected)
    # Frames of every place in a window are as likely, and next to each other by chance alone.
    frames = [(index, start) for index in range(10) for start in range(len(made(index).frames))]
    for column in range(4):
        counts = np.array([((number[:, column] == index) & (step[:, column] == start)).sum() for index, start in frames])
        expected = 6_000 / len(frames)
        assert ((counts - expected) ** 2 / expected).sum() < len(frames) + 4 * (2 * len(frames)) ** 0.5
    assert ((number[:, 1:] == number[:, :-1]) & (step[:, 1:] == step[:, :-1] + 1)).mean() < 0.1


def test_a_share_of_the_windows_is_mixed(path: Path) -> None:
    batch = Sequences(path).windows(200, 4, np.random.default_rng(0), mix=0.25)
    number, step = (batch["frames"][..., 0, 0, part].astype(int) for part in range(2))
    together = (number[:, 1:] == number[:, :-1]) & (step[:, 1:] == step[:, :-1] + 1)
    assert together[:150].all()
    assert not together[150:].all(axis=1).any()
    np.testing.assert_array_equal(batch["labels"], number[:, 0] % 3)


def test_ordered_windows_cover_each_sequence_once(path: Path) -> None:
    sequences = Sequences(path)
    lengths = [len(made(index).frames) for index in range(10)]
    expected = [(index, 4 * rank) for rank in range(3) for index in range(10) if lengths[index] >= 4 * (rank + 1)]
    assert sequences.num_ordered(4) == len(expected)
    batch = sequences.ordered(4, 1000)
    assert [tuple(row) for row in batch["frames"][:, 0, 0, 0, :2].astype(int)] == expected
    pieces = [sequences.ordered(4, 3, first=first)["rewards"] for first in range(0, len(expected), 3)]
    np.testing.assert_array_equal(np.concatenate(pieces), batch["rewards"])
    assert len(sequences.ordered(4, 5, first=1000)["frames"]) == 0


def test_a_stretch_is_of_one_sequence_and_ends_with_it(path: Path) -> None:
    for memory in (0, 10**9):
        sequences = Sequences(path, memory=memory).split(0.3)[0]
        for number, length in enumerate(sequences.lengths.tolist()):
            for start, stop in ((0, length), (1, 3), (2, 1000)):
                found = sequences.stretch(number, start, stop)
                source = made(int(found["actions"][0, 1]))
                assert len(source.frames) == length
                for name in ("frames", "actions", "rewards", "truth", "keyframes"):
                    np.testing.assert_array_equal(found[name], getattr(source, name)[start:stop])
                assert found["labels"] == source.label
        for number in (-1, 7):
            with pytest.raises(UsageError, match=rf"has sequences 0 to 6, not {number}$"):
                sequences.stretch(number, 0, 1)
        for start, stop in ((-1, 2), (2, 2), (100, 101)):
            with pytest.raises(UsageError, match=rf"frames, none from {start} to {stop}$"):
                sequences.stretch(0, start, stop)


def test_a_split_is_of_whole_sequences_and_always_the_same(path: Path) -> None:
    train, held = Sequences(path).split(0.3)
    assert (len(train), len(held)) == (7, 3)
    seen = [set(part.windows(300, 3, np.random.default_rng(0))["actions"][:, 0, 1].astype(int)) for part in (train, held)]
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] == set(range(10))
    again = Sequences(path).split(0.3)[1]
    np.testing.assert_array_equal(again.lengths, held.lengths)
    assert sorted([*train.lengths, *held.lengths]) == sorted(Sequences(path).lengths)
    tiny = Sequences(path).split(0.01)[1]
    assert len(tiny) == 1
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="share to hold out"):
            Sequences(path).split(share)
    with pytest.raises(UsageError, match="single sequence"):
        tiny.split(0.5)


def test_a_window_longer_than_every_sequence_is_refused_with_the_longest(path: Path) -> None:
    sequences = Sequences(path)
    sequences.windows(1, 8, np.random.default_rng(0))
    for ask in (lambda: sequences.windows(2, 13, np.random.default_rng(0)), lambda: sequences.ordered(13, 1)):
        with pytest.raises(UsageError, match=r"at least 13; the longest in .*made\.h5 has 8"):
            ask()
    with pytest.raises(UsageError, match="at least 1 frame"):
        sequences.windows(2, 0, np.random.default_rng(0))


def _draw(sequences: Sequences, queue: Any) -> None:
    queue.put(sequences.windows(4, 3, np.random.default_rng(5))["rewards"])


@pytest.mark.parametrize("memory", [0, 10**9])
def test_a_pickled_copy_reads_the_same(path: Path, memory: int) -> None:
    sequences = Sequences(path, memory=memory).split(0.5)[0]
    expected = sequences.windows(4, 3, np.random.default_rng(5))["rewards"]
    copy = pickle.loads(pickle.dumps(sequences))  # noqa: S301 (our own, made in the line)
    np.testing.assert_array_equal(copy.windows(4, 3, np.random.default_rng(5))["rewards"], expected)


def test_a_spawned_process_reads_the_same(path: Path) -> None:
    sequences = Sequences(path, memory=0).split(0.5)[0]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_draw, args=(sequences, queue))
    process.start()
    expected = sequences.windows(4, 3, np.random.default_rng(5))["rewards"]
    np.testing.assert_array_equal(queue.get(timeout=60), expected)
    process.join()


FORKED = """
import os, sys
import numpy as np
from kpagent.collect.sequences import Sequences
sequences = Sequences(sys.argv[1], memory=0)
expected = sequences.windows(50, 3, np.random.default_rng(0))["frames"]
children = []
for _ in range(2):
    child = os.fork()
    if not child:
        right = all(
            np.array_equal(sequences.windows(50, 3, np.random.default_rng(0))["frames"], expected) for _ in range(20)
        )
        os._exit(0 if right else 1)
    children.append(child)
for _ in range(20):
    assert np.array_equal(sequences.windows(50, 3, np.random.default_rng(0))["frames"], expected)
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="POSIX")
def test_forks_read_at_the_same_time(path: Path) -> None:
    subprocess.run([sys.executable, "-c", FORKED, str(path)], check=True, timeout=60)


def test_the_digest_depends_on_contents_alone(path: Path, tmp_path: Path) -> None:
    heard: list[SequencesProgress] = []
    write_sequences(tmp_path / "other.h5", Made(), block=10, listen=heard.append)
    assert Sequences(tmp_path / "other.h5").digest == Sequences(path).digest
    assert [(one.done, one.count, one.joined) for one in heard] == [(10, 10, 0.0), (10, 10, 1.0)]
    write_sequences(tmp_path / "other.h5", Made(9), block=3)
    assert Sequences(tmp_path / "other.h5").digest != Sequences(path).digest
    assert [found.name for found in tmp_path.iterdir()] == ["other.h5"]


def test_pieces_of_one_sequence_are_one_sequence(tmp_path: Path) -> None:
    whole = made(3)
    first = FrameSequence(whole.frames[:2], label=0)
    rest = FrameSequence(whole.frames[2:], label=0, continues=True)
    write_sequences(tmp_path / "a.h5", Made(sequences=[first]), block=1)

    class InPieces(Made):
        def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
            for _ in range(start, stop):
                yield from (first, rest)

    write_sequences(tmp_path / "b.h5", InPieces(2), block=2)
    sequences = Sequences(tmp_path / "b.h5")
    assert sequences.lengths.tolist() == [8, 8]
    np.testing.assert_array_equal(sequences.ordered(8, 1)["frames"][0], whole.frames)
    assert (sequences.action_dim, sequences.has_rewards, sequences.truth_names) == (0, False, ())
    assert set(sequences.ordered(8, 1)) == {"frames", "labels"}


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[2])
from test_sequences import Made
from kpagent.collect.sequence_making import write_sequences
class Slow(Made):
    def make(self, start, stop):
        for sequence in super().make(start, stop):
            time.sleep(0.02)
            yield sequence
write_sequences(sys.argv[1], Slow(60), block=2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_killed_making_is_taken_up_and_gives_the_same(tmp_path: Path) -> None:
    path = tmp_path / "killed.h5"
    parts = tmp_path / ".killed-parts"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path), str(Path(__file__).parent)])
    limit = time.monotonic() + 60
    while len(list(parts.glob("0*.h5"))) < 4 and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not path.exists()
    kept = len(list(parts.glob("0*.h5")))
    assert 4 <= kept < 30

    source = Made(60)
    write_sequences(path, source, block=2, resume=True)
    assert source.made == list(range(2 * kept, 60))
    write_sequences(tmp_path / "through.h5", Made(60), block=7)
    assert Sequences(path).digest == Sequences(tmp_path / "through.h5").digest
    Sequences(path).verify()
    assert sorted(found.name for found in tmp_path.iterdir()) == ["killed.h5", "through.h5"]

    finished = Made(60)
    write_sequences(path, finished, block=2, resume=True)
    assert finished.made == []


def test_what_was_made_with_other_settings_is_not_taken_up(tmp_path: Path) -> None:
    class Broken(Made):
        def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
            if start >= 4:
                raise UsageError("the lights went out")
            yield from super().make(start, stop)

    path = tmp_path / "a.h5"
    with pytest.raises(UsageError, match="lights"):
        write_sequences(path, Broken(), block=2)
    for other, block, name in ((Made(11), 2, "units"), (Made(), 3, "block"), (Made(config={}), 2, "config")):
        with pytest.raises(UsageError, match=rf"a-parts was made with another .*{name}"):
            write_sequences(path, other, block=block, resume=True)
    anew = Made()
    write_sequences(path, anew, block=2)
    assert anew.made == list(range(10))
    with pytest.raises(UsageError, match=r"a\.h5 was made with another units"):
        write_sequences(path, Made(11), resume=True)


GOOD = made(0)
FAULTS: dict[str, tuple[list[FrameSequence], str]] = {
    "mixed sizes": ([made(0), made(1, size=20)], "mixed sizes"),
    "not square": ([FrameSequence(GOOD.frames[:, :8])], r"frames \(3, 8, 16, 3\), not \(T, S, S, 3\)"),
    "floats": ([FrameSequence(GOOD.frames.astype(float))], "float64, not uint8"),
    "no frames": ([FrameSequence(GOOD.frames[:0])], r"frames \(0, "),
    "other actions": ([FrameSequence(GOOD.frames, GOOD.actions), FrameSequence(GOOD.frames)], "where those before have"),
    "short actions": ([FrameSequence(GOOD.frames, np.zeros((2, 1)))], "actions .* for 3 frames"),
    "flat actions": ([FrameSequence(GOOD.frames, np.zeros(3))], "actions"),
    "NaN actions": ([FrameSequence(GOOD.frames, np.full((3, 1), np.nan))], "NaN or infinity in actions"),
    "infinite reward": ([FrameSequence(GOOD.frames, rewards=np.array([0, 1, np.inf]))], "NaN or infinity in rewards"),
    "infinite truth": ([FrameSequence(GOOD.frames, truth=np.full((3, 2, 2), np.inf))], "infinity in truth"),
    "keyframes as numbers": ([FrameSequence(GOOD.frames, keyframes=np.zeros(3, int))], "keyframes of int64, not bool"),
    "short keyframes": ([FrameSequence(GOOD.frames, keyframes=np.zeros(2, bool))], r"keyframes \(2,\) for 3 frames"),
    "unnamed truth": ([FrameSequence(GOOD.frames, truth=np.zeros((3, 3, 2)))], "3 points of truth and 2 names"),
    "unknown label": ([FrameSequence(GOOD.frames, label=3)], "label 3 of 3 classes"),
    "nothing": ([], "nothing in made up"),
}


@pytest.mark.parametrize(("sequences", "message"), FAULTS.values(), ids=FAULTS)
def test_sequences_that_do_not_fit_are_refused(tmp_path: Path, sequences: list[FrameSequence], message: str) -> None:
    for block in (1, 8):
        with pytest.raises(UsageError, match=message) as caught:
            write_sequences(tmp_path / "a.h5", Made(sequences=sequences), block=block)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "a.h5").exists()


def test_files_that_are_none(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no sequences at"):
        Sequences(tmp_path / "none.h5")
    with pytest.raises(UsageError, match="no sequences at"):
        Sequences(tmp_path)
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(UsageError, match="no HDF5 file"):
        Sequences(tmp_path / "text.h5")
    (tmp_path / "short.h5").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="is cut short"):
        Sequences(tmp_path / "short.h5")


def _set_header(file: h5py.File, **changes: Any) -> None:
    file.attrs["header"] = np.bytes_(json.dumps(json.loads(bytes(file.attrs["header"])) | changes))


def _replace(file: h5py.File, name: str, value: Any) -> None:
    del file[name]
    file[name] = value


def _spoil(name: str, value: float) -> Any:
    def change(file: h5py.File) -> None:
        rows = file[name][:]
        rows[17] = value
        file[name][:] = rows

    return change


def _link_outside(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("other.h5"), "w") as other:
        other["frames"] = file["frames"][:]
    del file["frames"]
    file["frames"] = h5py.ExternalLink("other.h5", "frames")


CHANGES: dict[str, tuple[Any, str]] = {
    "no header": (lambda file: file.attrs.__delitem__("header"), "without their header"),
    "no digest": (lambda file: file.attrs.__delitem__("digest"), "without their header"),
    "header a list": (lambda file: file.attrs.__setitem__("header", np.bytes_("[]")), "without their header"),
    "other format": (lambda file: _set_header(file, format=99), "format 99, where this kpagent reads formats 1 and 2"),
    "names a number": (lambda file: _set_header(file, truth_names=3), "truth_names"),
    "no frames": (lambda file: file.__delitem__("frames"), "no dataset 'frames'"),
    "no lengths": (lambda file: file.__delitem__("lengths"), "no dataset 'lengths'"),
    "frames a group": (lambda file: (file.__delitem__("frames"), file.create_group("frames")), "no dataset of its own"),
    "frames elsewhere": (_link_outside, "no dataset of its own"),
    "frames of floats": (lambda file: _replace(file, "frames", file["frames"][:] / 2.0), "float64, not uint8"),
    "frames not square": (lambda file: _replace(file, "frames", file["frames"][:, :8]), r"\(F, S, S, 3\)"),
    "frames missing": (lambda file: _replace(file, "frames", file["frames"][:-1]), "beside frames of"),
    "lengths of floats": (lambda file: _replace(file, "lengths", file["lengths"][:] / 1.0), "lengths of type float64"),
    "lengths wrong": (lambda file: _replace(file, "lengths", file["lengths"][:] + 1), "do not add up"),
    "lengths negative": (lambda file: _replace(file, "lengths", np.array([100, -25])), "rows beside lengths|add up"),
    "text for actions": (lambda file: _replace(file, "actions", ["a", "b"]), "actions of type object"),
    "actions flat": (lambda file: _replace(file, "actions", file["rewards"][:]), r"actions of shape .*not \(F, A\)"),
    "actions too few": (lambda file: _replace(file, "actions", file["actions"][:-1]), "actions of .* rows"),
    "truth of points": (lambda file: _replace(file, "truth", file["truth"][:, :1]), "1 points, but names of 2"),
    "truth of 3 axes": (lambda file: _replace(file, "truth", file["truth"][..., :1]), r"\(F, P, 2\)"),
    "keyframes as numbers": (
        lambda file: _replace(file, "keyframes", file["rewards"][:]),
        "keyframes of type float32, not bool",
    ),
    "labels beyond": (lambda file: _replace(file, "labels", file["labels"][:] + 9), "labels outside its 3 classes"),
    # Sequences 0, 1 and 2 have 3, 8 and 3 frames, 3 has 8: row 17 is its fourth.
    "NaN action": (_spoil("actions", np.nan), "NaN or infinity in actions: sequence 3, frame 3"),
    "infinite reward": (_spoil("rewards", -np.inf), "NaN or infinity in rewards: sequence 3, frame 3"),
    "infinite truth": (_spoil("truth", np.inf), "infinity in truth: sequence 3, frame 3"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_files_of_another_form_are_refused_in_one_line(path: Path, tmp_path: Path, change: Any, message: str) -> None:
    wrong = tmp_path / "wrong.h5"
    shutil.copy(path, wrong)
    with h5py.File(wrong, "r+") as file:
        change(file)
    with pytest.raises(UsageError, match=message) as caught:
        Sequences(wrong)
    assert str(wrong) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_the_first_format_are_read_and_taken_as_finished(tmp_path: Path) -> None:
    """The first format is the second without keyframes."""
    sequences = [dataclasses.replace(made(index), keyframes=None) for index in range(5)]
    path = tmp_path / "old.h5"
    write_sequences(path, Made(sequences=sequences))
    assert (Sequences(path).has_keyframes, Sequences(path).header["format"]) == (False, 2)
    expected = Sequences(path).ordered(3, 100)
    with h5py.File(path, "r+") as file:
        _set_header(file, format=1)
        header = json.loads(bytes(file.attrs["header"]))
        digests = {name: hashlib.sha256(np.ascontiguousarray(file[name][:]).data) for name in file}
        whole = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        for name in sorted(digests):
            whole.update(f"{name}:{digests[name].hexdigest()};".encode())
        file.attrs["digest"] = np.bytes_(whole.hexdigest().encode())
    old = Sequences(path)
    assert old.header["format"] == 1
    old.verify()
    found = old.ordered(3, 100)
    assert set(found) == {"frames", "actions", "rewards", "truth", "labels"}
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    again = Made(sequences=sequences)
    write_sequences(path, again, resume=True)
    assert again.made == []
    assert Sequences(path).digest == old.digest


def test_a_damaged_chunk_is_found_when_it_is_read(path: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.h5"
    shutil.copy(path, wrong)
    with h5py.File(wrong, "r") as file:
        chunk = file["frames"].id.get_chunk_info(0)
    with wrong.open("r+b") as raw:
        raw.seek(chunk.byte_offset + chunk.size // 2)
        raw.write(b"\xff\x00\xff")
    for memory in (0, 10**9):
        sequences = Sequences(wrong, memory=memory)
        with pytest.raises(UsageError, match=r"wrong\.h5 is damaged and cannot be read") as caught:
            sequences.ordered(3, 30)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="damaged"):
        sequences.verify()


def test_an_altered_file_does_not_verify(path: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.h5"
    shutil.copy(path, wrong)
    with h5py.File(wrong, "r+") as file:
        file["frames"][5, 3, 3] = 77
    sequences = Sequences(wrong)
    sequences.ordered(3, 30)
    with pytest.raises(UsageError, match="digest does not match"):
        sequences.verify()


@given(data=st.data())
@settings(max_examples=150)
def test_whatever_is_damaged_nothing_wrong_is_read(path: Path, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        at = data.draw(st.integers(0, len(content) - 1))
        new = data.draw(st.binary(min_size=1, max_size=40))
        content[at : at + len(new)] = new
    wrong = tmp_path_factory.mktemp("damage") / "wrong.h5"
    wrong.write_bytes(content)
    batch, said = {}, ""
    try:
        batch = Sequences(wrong).ordered(3, 1000)
    except UsageError as error:
        said = str(error)
    finally:
        shutil.rmtree(wrong.parent)
    if said:
        assert str(wrong) in said
        assert "\n" not in said
        return
    for name, expected in Sequences(path).ordered(3, 1000).items():
        np.testing.assert_array_equal(batch[name], expected)


FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from test_sequences import Made
from kpagent.collect.sequence_making import write_sequences
from kpagent.errors import UsageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in map(int, sys.argv[3:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_sequences(sys.argv[1], Made(), block=3)
    except UsageError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_full_disk_leaves_the_old_file(path: Path, tmp_path: Path) -> None:
    old = tmp_path / "old.h5"
    old.write_bytes(b"as it was")
    limits = [100, 3_000, path.stat().st_size - 10]
    command = [sys.executable, "-c", FULL_DISK, str(old), str(Path(__file__).parent), *map(str, limits)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert [line.startswith("cannot write ") for line in said] == [True, True, True]
    # The last limit lets every part through, and stops the whole.
    assert "whole.h5" in said[-1]
    assert done.stderr == ""
    assert old.read_bytes() == b"as it was"
    write_sequences(old, Made(), block=3)
    assert Sequences(old).digest == Sequences(path).digest


def test_bad_blocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="block"):
        write_sequences(tmp_path / "a.h5", Made(), block=0)
