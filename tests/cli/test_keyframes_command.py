"""`kpagent keyframes train` and `show` as their user meets them: what they make, refuse, keep and take up again."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from commands import Command

from kpagent.cli.keyframes_train import KeyframesTrain
from kpagent.collect.sequence_making import write_sequences
from kpagent.collect.sequences import Sequences
from kpagent.drawing import write_video
from kpagent.envs.basketball import Basketball, BasketballConfig
from kpagent.envs.brownian import Brownian, BrownianConfig
from kpagent.files import load_tensors
from kpagent.perception.transporter import Transporter, TransporterConfig
from kpagent.subgoals.configuration import KeyInConfig
from kpagent.subgoals.keyin import KeyIn
from kpagent.subgoals.perceived import coordinates

TIMES = ("--given", "2", "--frames", "6", "--keyframes", "3", "--longest", "4")
TINY = (*TIMES, "--steps", "2", "--interpolator-steps", "3", "--evaluate-every", "2", "--device", "cpu")


COMMAND = Command("keyframes")
run, refused = COMMAND.run, COMMAND.refused


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of sequences, a folder of videos, and weights of keypoints."""
    folder = tmp_path_factory.mktemp("made")
    write_sequences(folder / "ball.h5", Brownian(12, 1, BrownianConfig(frames=10)))
    write_sequences(folder / "short.h5", Brownian(12, 1, BrownianConfig(frames=7)))
    write_sequences(folder / "odd.h5", Brownian(4, 1, BrownianConfig(image_size=48)))
    write_sequences(folder / "game.h5", Basketball(4, 1, BasketballConfig(frames=10)))
    (folder / "damaged.h5").write_bytes((folder / "ball.h5").read_bytes()[:3000])
    frames = np.full((9, 64, 64, 3), 51, np.uint8)
    for number in range(2):
        write_video(folder / "videos" / f"{number}.mp4", frames)
    torch.manual_seed(0)
    shape = TransporterConfig(num_keypoints=2, image_size=32, filters=(4, 4), strides=(1, 2))
    Transporter(shape).save(folder / "keypoints.safetensors")
    return folder


@pytest.fixture(scope="module")
def on_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("frames") / "run"
    assert run("train", "--data", "brownian", "--out", str(out), "--sequences", "12", *TINY) == 0
    return out


@pytest.fixture(scope="module")
def on_keypoints(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("keypoints") / "run"
    seen = ("--data", str(made / "ball.h5"), "--perception", str(made / "keypoints.safetensors"))
    assert run("train", *seen, "--out", str(out), *TINY) == 0
    return out


@pytest.mark.parametrize(
    ("task", "mentioned"),
    [
        (
            "train",
            ("--data", "--perception", "--steps", "--fixed-offsets", "--joint", "--seed", "--device", "--out", "--resume"),
        ),
        ("show", ("--weights", "--data", "--index", "--start", "--samples", "--seed", "--device", "--out")),
    ],
)
def test_it_explains_itself(task: str, mentioned: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(task, "--help") == 0
    said = capsys.readouterr().out
    assert all(word in said for word in mentioned)


# Training


def test_a_ball_is_made_learned_told_of_and_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run("train", "--data", "brownian", "--out", str(out), "--sequences", "12", *TINY) == 0
    said, errors = capfd.readouterr()
    assert errors == ""
    lines = [line for line in said.splitlines() if line]
    assert lines[0] == f"wrote 12 sequences of brownian, 420 frames: {out / 'sequences.h5'}"
    assert [line.split(":")[0] for line in lines[1:-1]] == [
        "learning to interpolate, step 2", "learning to interpolate, step 3", "learning keyframes, step 2"
    ]  # fmt: skip
    assert lines[-1].startswith(f"wrote {out / 'model.safetensors'}, {out / 'best.safetensors'} (kpagent keyframes show")
    model = KeyIn.load(out / "model.safetensors")
    held_out = Sequences(out / "sequences.h5").split(0.1)[1].ordered(8, 9)
    counted = range(2, 7)
    found = {(row, n) for row, one in enumerate(model.discover(held_out["frames"]).inside()) for n in one if n in counted}
    true = {(row, n) for row, one in enumerate(held_out["keyframes"]) for n in np.flatnonzero(one) if n in counted}
    exact = 2 * len(found & true) / (len(found) + len(true))
    assert re.search(rf"; F1 over 4 held-out sequences {exact:.2f}, \d\.\d\d within one frame$", lines[-1])
    assert model.config.codec == KeyInConfig.brownian().codec
    assert (model.config.given, model.config.frames, model.config.longest_segment) == (2, 6, 4)
    assert model.provenance["trained_on"] == "brownian"
    assert model.provenance["data"]["digest"] == Sequences(out / "sequences.h5").digest
    assert list((out / "logs").iterdir())


def test_keypoints_are_learned_from_and_kept_with_the_model(made: Path, on_keypoints: Path) -> None:
    model = KeyIn.load(on_keypoints / "best.safetensors")
    assert (model.config.codec.kind, model.config.codec.size, model.config.attention) == ("codes", 4, "time")
    frames = Sequences(made / "ball.h5").stretch(2, 0, 8)["frames"]
    keypoints = coordinates(Transporter.load(made / "keypoints.safetensors"), frames)
    assert torch.equal(model.encode(frames[None])[0], keypoints)
    assert model.provenance["perception"] == str(made / "keypoints.safetensors")


def test_videos_set_size_and_brightness(made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    short = (*TIMES, "--steps", "1", "--interpolator-steps", "1")
    assert run("train", "--data", str(made / "videos"), "--out", str(tmp_path), *short) == 0
    said, errors = capfd.readouterr()
    assert errors == ""
    assert said.rstrip().endswith("and logs")
    codec = KeyIn.load(tmp_path / "model.safetensors").config.codec
    assert (codec.image_size, codec.filters, codec.brightness) == (64, (16, 32, 64, 128), 0.2)
    shown = ("--weights", str(tmp_path / "model.safetensors"), "--data", str(made / "videos"), "--out", str(tmp_path))
    assert run("show", *shown, "--samples", "1", "--index", "1") == 0


def test_a_game_is_played_and_its_keypoints_are_learned(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("--data", "ALE/Pong-v5", "--sequences", "2", "--perception", "pong", "--out", str(tmp_path))
    assert run("train", *arguments, *TINY) == 0
    assert capfd.readouterr().err == ""
    model = KeyIn.load(tmp_path / "model.safetensors")
    assert model.perception is not None
    assert model.config.codec.size == 2 * model.perception.num_keypoints
    shown = ("--weights", str(tmp_path / "model.safetensors"), "--data", "ALE/Pong-v5", "--out", str(tmp_path / "shown"))
    assert run("show", *shown, "--samples", "1", "--start", "30") == 0
    assert {path.name for path in (tmp_path / "shown").iterdir()} == {"keyframes.png", "samples.png", "ways.png"}


def test_the_model_is_the_papers_for_its_data(tmp_path: Path) -> None:
    for data, paper in (("brownian", KeyInConfig.brownian()), ("pushing", KeyInConfig.pushing())):
        assert KeyframesTrain(data, tmp_path)._config(None) == paper
    write_sequences(tmp_path / "ball.h5", Brownian(1))
    assert KeyframesTrain(str(tmp_path / "ball.h5"), tmp_path)._config(None) == KeyInConfig.brownian()
    other = KeyframesTrain("basketball", tmp_path, longest=5, fixed_offsets=(5,) * 6)._config(None)
    assert (other.codec.image_size, other.longest_segment, other.fixed_offsets) == (64, 5, (5,) * 6)
    torch.manual_seed(0)
    sees = Transporter(TransporterConfig(num_keypoints=3, image_size=16, filters=(4, 4), strides=(1, 2)))
    found = KeyframesTrain("pushing", tmp_path, keyframes=7)._config(sees)
    assert found == KeyInConfig.keypoints(6, given=1, keyframes=7, longest=6, longest_segment=6)


def test_flags_of_learning(tmp_path: Path) -> None:
    learning = KeyframesTrain("brownian", tmp_path, preset="paper", joint=True, steps=7, seed=3)._learning()
    assert learning.joint
    assert (learning.keyframes.steps, learning.keyframes.seed, learning.keyframes.learning_rate) == (7, 3, 2e-4)
    fast = KeyframesTrain("brownian", tmp_path, interpolator_steps=5)._learning()
    assert (fast.joint, fast.interpolator.steps, fast.keyframes.steps) == (False, 5, 10_000)


def test_a_finished_run_is_neither_overwritten_nor_resumed_otherwise(
    made: Path, on_keypoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (on_keypoints / "model.safetensors").read_bytes()
    seen = ("--data", str(made / "ball.h5"), "--perception", str(made / "keypoints.safetensors"))
    again = ("train", *seen, "--out", str(on_keypoints), *TINY)
    assert "holds a run already; add --resume" in refused(capsys, *again)
    assert "has learning.interpolator.seed 0, not 4" in refused(capsys, *again, "--resume", "--seed", "4")
    assert "has model.keyframes 3, not 2" in refused(capsys, *again, "--resume", "--keyframes", "2")
    assert run(*again, "--resume") == 0
    assert (on_keypoints / "model.safetensors").read_bytes() == before


def test_control_c_keeps_a_run_that_goes_on_with_resume(
    made: Path, on_keypoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    seen = ("--data", str(made / "ball.h5"), "--perception", str(made / "keypoints.safetensors"))

    def press() -> None:
        until = time.monotonic() + 60
        while not (out / "config.json").exists() and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    pressed = threading.Thread(target=press)
    pressed.start()
    assert "is kept; go on with --resume" in refused(capsys, "train", *seen, "--out", str(out), *TINY)
    pressed.join()
    assert run("train", *seen, "--out", str(out), *TINY, "--resume") == 0
    (found, _), (expected, _) = (load_tensors(folder / "model.safetensors") for folder in (out, on_keypoints))
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_mistakes_get_one_line_and_leave_nothing(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    mistakes = [
        (("--data", str(made / "short.h5"), *TIMES), "has 7 frames, and 8 are needed"),
        (("--data", str(made / "short.h5"), "--perception", "pong", *TIMES), "has 7 frames, and 8 are needed"),
        (("--data", str(made / "odd.h5")), "learns from 32x32 or 64x64, and those of"),
        (("--data", str(made / "damaged.h5")), "damaged.h5"),
        (("--data", str(made / "none.h5")), "no sequences at"),
        (("--data", str(made / "videos")), "0.mp4 is too short: it has 9 frames, and 35 are needed"),
        (("--data", str(made / "ball.h5"), "--sequences", "3"), "--sequences is for what is made or played"),
        (("--data", "Pnog-v5"), "no .h5 file, no folder and no environment to take data from"),
        (("--data", "brownian", "--frames", "40"), "sequences of brownian have 35 frames, and 45 are needed"),
        (("--data", "brownian", "--sequences", "0"), "count must be at least 1"),
        (("--data", "brownian", "--keyframes", "2"), "longest times keyframes must reach frames"),
        (("--data", "brownian", "--given", "0"), "given must be at least 1; got 0"),
        (("--data", "brownian", "--frames", "0"), "frames must be at least 1; got 0"),
        (("--data", "brownian", "--fixed-offsets", "5", "6"), "fixed_offsets must be one from 1 to longest for each"),
        (("--data", "brownian", "--perception", "pogn"), "no weights called 'pogn' (did you mean pong?)"),
        (("--data", "brownian", "--perception", str(made / "ball.h5")), "ball.h5"),
        (("--data", "brownian", "--joint", "--interpolator-steps", "3"), "--interpolator-steps is for two stages"),
        (("--data", "brownian", "--steps", "0"), "steps must be at least 1"),
        (("--data", "brownian", "--seed", "-1"), "seed must be at least 0"),
        (("--data", "brownian", "--device", "tpu9"), "no device 'tpu9'"),
    ]
    for arguments, message in mistakes:
        assert message in refused(capsys, "train", "--out", str(out), *arguments), arguments
        assert not out.exists(), arguments


# Pictures


def test_pictures_of_frames(on_frames: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights = ("--weights", str(on_frames / "model.safetensors"), "--samples", "2")
    data = ("--data", str(on_frames / "sequences.h5"), "--index", "3", "--start", "4")
    assert run("show", *weights, *data, "--out", str(tmp_path / "file")) == 0
    said, errors = capfd.readouterr()
    assert errors == ""
    files = ", ".join(str(tmp_path / "file" / f"{name}.png") for name in ("keyframes", "samples", "ways"))
    turns = np.flatnonzero(Sequences(on_frames / "sequences.h5").stretch(3, 4, 12)["keyframes"])
    assert said.startswith(f"wrote {files}: keyframes ")
    assert said.rstrip().endswith(f"; true ones {', '.join(map(str, turns)) or 'none'}")
    for name, width in (("keyframes", 104 + 8 * 74), ("samples", 104 + 8 * 74), ("ways", 3 * 200 + 8)):
        drawn = cv2.imread(str(tmp_path / "file" / f"{name}.png"))
        assert drawn is not None
        assert drawn.shape[1] == width
    # What is made on the way is what the file holds.
    assert run("show", *weights, "--data", "brownian", *data[2:], "--out", str(tmp_path / "made")) == 0
    for name in ("keyframes", "samples", "ways"):
        made, file = (tmp_path / folder / f"{name}.png" for folder in ("made", "file"))
        assert made.read_bytes() == file.read_bytes()


def test_mistakes_of_show_get_one_line(
    made: Path, on_frames: Path, on_keypoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    KeyIn(KeyInConfig.keypoints(2)).save(tmp_path / "codes.safetensors")
    good = {"--weights": str(on_frames / "model.safetensors"), "--data": str(made / "ball.h5")}
    good |= {"--out": str(tmp_path / "out")}
    mistakes = [
        ({"--index": "12"}, "has sequences 0 to 11, not 12"),
        ({"--index": "-1"}, "--index must be at least 0, not -1"),
        ({"--data": "brownian", "--index": "10000"}, "brownian has sequences 0 to 9999, not 10000"),
        ({"--start": "10"}, "has 10 frames, none from 10"),
        ({"--start": "3"}, "has 7 frames from frame 3, and 8 are needed (2 given, 6 after them)"),
        ({"--data": "brownian", "--start": "28"}, "sequences of brownian have 35 frames, and 36 are needed"),
        ({"--samples": "0"}, "--samples must be at least 1"),
        ({"--seed": "-1"}, "--seed must be at least 0"),
        ({"--data": str(made / "game.h5")}, "the model sees frames of 32x32, and those of"),
        ({"--data": str(made / "none.h5")}, "no sequences at"),
        ({"--data": "Pnog-v5"}, "no .h5 file, no folder and no environment"),
        ({"--weights": str(made / "ball.h5")}, "ball.h5"),
        ({"--weights": str(made / "keypoints.safetensors")}, "holds a 'transporter', not a keyin"),
        ({"--weights": str(on_keypoints / "checkpoint-keyframes.safetensors")}, "not a keyin"),
        ({"--weights": str(tmp_path / "codes.safetensors")}, "it cannot see frames"),
        ({"--out": str(made / "ball.h5")}, "cannot write"),
    ]
    for changes, message in mistakes:
        flags = [part for pair in (good | changes).items() for part in pair]
        assert message in refused(capsys, "show", *flags), changes
    assert [path.name for path in tmp_path.iterdir()] == ["codes.safetensors"]
