"""Files are whole or absent, and a file that is not what it was is refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Never

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from kpagent.errors import UsageError
from kpagent.files import load_tensors, read_header, replace_file, save_tensors, write_json, write_text

HEADER = {"model": "something", "config": {"num_keypoints": 3, "std": 0.1, "filters": [4, 8]}, "provenance": {"env": "Pong"}}
TENSORS = {
    "weight": torch.linspace(-1, 1, 12).reshape(3, 4),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "empty": torch.zeros(0, 2),
}


@contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    """Every write past `size` bytes of a file fails in the kernel, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_same(tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> None:
    assert header == HEADER
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "weights.safetensors"
    save_tensors(path, TENSORS, HEADER)
    return path.read_bytes()


def test_tensors_and_header_come_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "weights.safetensors"
    save_tensors(path, TENSORS, HEADER)
    assert_same(*load_tensors(path))
    assert read_header(path) == HEADER
    assert os.listdir(path.parent) == [path.name]


def test_tensors_in_any_memory_layout_come_back(tmp_path: Path) -> None:
    images = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    save_tensors(tmp_path / "w.safetensors", {"a": images, "b": images.mT}, {})
    tensors, _ = load_tensors(tmp_path / "w.safetensors")
    assert torch.equal(tensors["a"], images)
    assert torch.equal(tensors["b"], images.mT)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: save_tensors(path, {"a": torch.ones(100_000)}, {}),
        lambda path: write_text(path, "x" * 100_000),
        lambda path: write_json(path, list(range(100_000))),
    ],
)
@pytest.mark.parametrize("existed", [True, False])
def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, write: Callable[[Path], None], existed: bool
) -> None:
    path = tmp_path / "file.safetensors"
    if existed:
        path.write_bytes(b"before")
    with no_room_beyond(4096), pytest.raises(UsageError) as refusal:
        write(path)
    assert str(refusal.value).startswith(f"cannot write {path}: ")
    assert "file too large" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert os.listdir(tmp_path) == ([path.name] if existed else [])
    assert not existed or path.read_bytes() == b"before"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_whatever_interrupts_writing_goes_through_and_leaves_the_old_file(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("before")

    def interrupted(beside: Path) -> Never:
        beside.write_text("half")
        raise error

    with pytest.raises(error):
        replace_file(path, interrupted)
    assert os.listdir(tmp_path) == ["file.txt"]
    assert path.read_text() == "before"


def test_a_process_killed_at_any_time_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"
    write_json(path, [0] * 50_000)
    code = "import sys, itertools; from kpagent.files import write_json\n"
    code += "for n in itertools.count(): write_json(sys.argv[1], [n] * 50_000); print(n, flush=True)"
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        numbers = json.loads(path.read_text())
        assert len(numbers) == 50_000
        assert len(set(numbers)) == 1


def test_the_writer_is_given_the_same_folder_and_suffix(tmp_path: Path) -> None:
    given_paths: list[Path] = []

    def write(beside: Path) -> None:
        given_paths.append(beside)
        beside.write_bytes(b"video")

    replace_file(tmp_path / "film.mp4", write)
    assert given_paths[0].parent == tmp_path
    assert given_paths[0].suffix == ".mp4"
    assert given_paths[0].name != "film.mp4"
    assert (tmp_path / "film.mp4").read_bytes() == b"video"


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UsageError, match=r"cannot write .*not a directory|cannot write .*file exists"):
        write_text(tmp_path / "file" / "below.txt", "text")
    with pytest.raises(UsageError, match=r"cannot write .*is a directory"):
        write_text(tmp_path, "text")


@given(data=st.data())
def test_no_truncated_file_is_loaded(saved: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "truncated.safetensors"
    path.write_bytes(saved[: data.draw(st.integers(0, len(saved) - 1))])
    with pytest.raises(UsageError, match=r"^[^\n]+$"):
        load_tensors(path)


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_an_altered_byte_is_refused_or_changes_nothing(
    saved: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    position, bits = data.draw(st.integers(0, len(saved) - 1)), data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "altered.safetensors"
    path.write_bytes(saved[:position] + bytes([saved[position] ^ bits]) + saved[position + 1 :])
    try:
        loaded = load_tensors(path)
    except UsageError as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017 (either outcome is right)
    else:
        assert_same(*loaded)


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "foreign.safetensors"
    path.write_bytes(content)
    for read in (load_tensors, read_header):
        with pytest.raises(UsageError, match=r"^[^\n]+$"):
            read(path)


class Unpickled:
    """Leaves a trace on the disk when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.safetensors", tmp_path / "trace"
    torch.save({"a": torch.ones(2), "b": Unpickled(trace)}, path)
    with pytest.raises(UsageError, match="damaged or no safetensors file"):
        load_tensors(path)
    path.write_bytes(pickle.dumps(Unpickled(trace)))
    with pytest.raises(UsageError, match="damaged or no safetensors file"):
        load_tensors(path)
    assert not trace.exists()


def test_other_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    foreign: list[dict[str, str] | None] = [None, {"format": "pt"}, {"kpagent": "7"}, {"kpagent": "[1]"}, {"kpagent": "{"}]
    for metadata in foreign:
        save_file({"a": torch.ones(2)}, path, metadata=metadata)
        for read in (load_tensors, read_header):
            with pytest.raises(UsageError, match=r"^[^\n]+$"):
                read(path)
    save_file({"a": torch.ones(2)}, path, metadata={"kpagent": "{}"})
    with pytest.raises(UsageError, match="digest does not match"):
        load_tensors(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(UsageError, match=f"no weights file at {path}"):
            load_tensors(path)
        with pytest.raises(UsageError, match="is no weights file of kpagent"):
            read_header(path)
