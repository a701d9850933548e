"""`kpagent dynamics edit` as its user meets it: the files it writes, the page it opens, what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
import torch
import tyro

from kpagent.cli.dynamics_edit import Edit
from kpagent.collect.sequence_making import FrameSequence, Provenance, write_sequences
from kpagent.dynamics.configuration import CodeConfig, DynamicsConfig, StructVRNNConfig
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.errors import UsageError

SIZE, OBSERVED, LENGTH = 32, 3, 12


class Noise:
    """Two sequences, with actions."""

    count = 2
    provenance = Provenance("test", "noise", {}, seed=0)

    def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
        for index in range(start, stop):
            draws = np.random.default_rng(index)
            frames = draws.integers(0, 256, (LENGTH, SIZE, SIZE, 3), np.uint8)
            yield FrameSequence(frames, draws.normal(size=(LENGTH, 2)).astype(np.float32))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sequences") / "noise.h5"
    write_sequences(path, Noise())
    return path


def saved(path: Path, kind: Any = "keypoints", **dynamics: Any) -> Path:
    torch.manual_seed(0)
    code = CodeConfig(num_keypoints=3, kind=kind, image_size=SIZE, filters=(4, 6), extra_layers=0)
    sizes = {"observed": OBSERVED, "latent": 3, "posterior_units": 8, "rnn_units": 8}
    StructVRNN(StructVRNNConfig(code, DynamicsConfig(**(sizes | dynamics)))).save(path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("weights") / "model.safetensors")


def edit(weights: Path, data: Path, *arguments: str) -> Edit:
    return tyro.cli(Edit, args=["--weights", str(weights), "--data", str(data), "--device", "cpu", *arguments])


def test_a_picture_is_written(weights: Path, data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pictures" / "edit.png"
    assert edit(weights, data, "--keypoint", "1", "--to", "-0.3", "0.4", "--out", str(out)).run() == 0
    picture = cv2.imread(str(out))
    assert picture is not None
    assert min(picture.shape[:2]) > 640
    assert capfd.readouterr() == (f"wrote {out} (5 futures of 8 frames after 3 observed)\n", "")
    same = tmp_path / "again.png"
    edit(weights, data, "--keypoint", "1", "--to", "-0.3", "0.4", "--out", str(same)).run()
    assert same.read_bytes() == out.read_bytes()
    edit(weights, data, "--keypoint", "1", "--to", "-0.3", "0.4", "--seed", "1", "--out", str(same)).run()
    assert same.read_bytes() != out.read_bytes()


def test_a_video_is_written(weights: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "edit.mp4"
    arguments = ("--keypoint", "0", "2", "--by", "0.1", "-0.2", "--observed", "5", "--steps", "4", "--samples", "2")
    assert edit(weights, data, *arguments, "--out", str(out)).run() == 0
    frames, _ = imageio_ffmpeg.count_frames_and_secs(out)
    assert frames == 9


def test_a_path_goes_from_where_the_keypoint_was_through_its_corners(weights: Path, data: Path, tmp_path: Path) -> None:
    command = edit(weights, data, "--keypoint", "1", "--to", "0.5", "0", "0.5", "0.5", "--start", "1", "--out", "a.png")
    codes = torch.zeros(4, 9)
    assert command._moved(codes)[:, 3:5].numpy() == pytest.approx(np.array([[0, 0], [0, 0], [0.5, 0], [0.5, 0.5]]))


def test_actions_come_from_the_data(data: Path, tmp_path: Path) -> None:
    weights = saved(tmp_path / "acting.safetensors", actions=2)
    where = ("--keypoint", "0", "--by", "0.1", "0")
    assert edit(weights, data, *where, "--steps", "9", "--out", str(tmp_path / "edit.png")).run() == 0
    with pytest.raises(UsageError, match="windows of 13 frames need"):
        edit(weights, data, *where, "--steps", "10", "--out", str(tmp_path / "edit.png")).run()
    other = saved(tmp_path / "other.safetensors", actions=3)
    with pytest.raises(UsageError, match=r"has actions of 2 numbers; .* wants 3"):
        edit(other, data, *where, "--out", str(tmp_path / "edit.png")).run()


def test_a_deterministic_model_draws_one_future(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = saved(tmp_path / "rnn.safetensors", stochastic=False)
    arguments = ("--keypoint", "0", "--by", "0.1", "0", "--out", str(tmp_path / "edit.png"))
    assert edit(weights, data, *arguments).run() == 0
    assert "(1 futures" in capsys.readouterr().out
    with pytest.raises(UsageError, match="deterministic"):
        edit(weights, data, *arguments, "--samples", "2").run()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--keypoint 0 --by 0 0", "give --out"),
        ("--keypoint 0 --by 0 0 --out a.gif", "must end in .png or .mp4"),
        ("--by 0 0 --out a.png", "give --keypoint"),
        ("--keypoint 0 --out a.png", "either --to X Y or --by DX DY"),
        ("--keypoint 0 --by 0 0 --to 0 0 --out a.png", "either --to X Y or --by DX DY"),
        ("--keypoint 0 --to 0 0 0 --out a.png", "pairs of X Y"),
        ("--keypoint 0 1 --to 0 0 --out a.png", "several keypoints are moved together with --by"),
        ("--keypoint 0 --by 0 --out a.png", "--by wants two numbers"),
        ("--keypoint 0 --by 0 0 --steps 0 --out a.png", "--steps must be at least 1"),
        ("--keypoint 0 --by 0 0 --observed 0 --out a.png", "--observed must be at least 1"),
        ("--keypoint 0 --by 0 0 --seed -1 --out a.png", "--seed must be at least 0"),
        ("--keypoint 0 --by 0 0 --fps 0 --out a.mp4", "--fps must be above 0"),
        ("--keypoint 0 --by 0 0 --samples 0 --out a.png", "samples must be at least 1"),
        ("--keypoint 3 --by 0 0 --out a.png", "no keypoint 3; the model has 0 to 2"),
        ("--keypoint 3 --to 0 0 0 0 --out a.png", "no keypoint 3; the model has 0 to 2"),
        ("--keypoint 0 --to 0 2 --out a.png", "outside the frame"),
        ("--keypoint 0 --by 0 0 --start 3 --out a.png", "no frame 3 to start at"),
        ("--keypoint 0 --by 0 0 --index 8 --out a.png", "no --index 8; .* has 0 to 7 of 3 frames"),
        ("--keypoint 0 --by 0 0 --observed 13 --out a.png", "windows of 13 frames need"),
        ("--serve --out a.png", "--serve opens the page: leave out"),
        ("--serve --port 70000", "port must be from 0 to 65535"),
        ("--serve --seed 5000000000", "seed must be from 0"),
    ],
)
def test_mistakes_get_one_line_and_no_file(
    weights: Path, data: Path, arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message) as refused:
        edit(weights, data, *arguments.split()).run()
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_models_without_keypoints_and_missing_files_are_refused(weights: Path, data: Path, tmp_path: Path) -> None:
    arguments = ("--keypoint", "0", "--by", "0", "0", "--out", str(tmp_path / "a.png"))
    with pytest.raises(UsageError, match="no keypoints to move"):
        edit(saved(tmp_path / "vector.safetensors", "vector"), data, *arguments).run()
    with pytest.raises(UsageError, match="no weights file"):
        edit(tmp_path / "none.safetensors", data, *arguments).run()
    with pytest.raises(UsageError, match="no sequences at"):
        edit(weights, tmp_path / "none.h5", *arguments).run()


def test_the_page_is_served_until_interrupted(weights: Path, data: Path) -> None:
    code = (
        "import sys, tyro; from pathlib import Path; from kpagent.cli.dynamics_edit import Edit;"
        "sys.exit(Edit(Path(sys.argv[1]), Path(sys.argv[2]), serve=True, port=0, device='cpu').run())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(weights), str(data)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"(http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)\n", line)
        assert found is not None, process.communicate()
        with urllib.request.urlopen(found[1], timeout=20) as page:
            assert b"Move a keypoint" in page.read()
        body = json.dumps({"keypoint": 0, "x": 0, "y": 0, "seed": 0}).encode()
        request = urllib.request.Request(f"{found[1]}futures", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert len(json.load(answer)["frames"]["original"]) == OBSERVED + 8
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()
