"""`kpagent dynamics train` and `rollout` as their user meets them: what they make, refuse, keep and take up again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from commands import Command

from kpagent.cli.dynamics_train import DynamicsTrain
from kpagent.collect.sequence_making import write_sequences
from kpagent.collect.sequences import Sequences
from kpagent.drawing import write_video
from kpagent.dynamics.methods import METHODS, method_config
from kpagent.dynamics.rollouts import OBSERVED, PREDICTED
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.envs.basketball import Basketball, BasketballConfig
from kpagent.files import load_tensors
from kpagent.perception.zoo import load

pytestmark = pytest.mark.usefixtures("short_start")

TINY = ("--code-steps", "3", "--steps", "2", "--evaluate-every", "2", "--keypoints", "3", "--device", "cpu")


COMMAND = Command("dynamics")
run, refused = COMMAND.run, COMMAND.refused


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of sequences: long enough, and too short; and a folder of videos."""
    folder = tmp_path_factory.mktemp("made")
    write_sequences(folder / "game.h5", Basketball(8, 1, BasketballConfig(frames=18)))
    write_sequences(folder / "short.h5", Basketball(8, 1, BasketballConfig(frames=12)))
    frames = np.random.default_rng(0).integers(0, 256, (3, 17, 64, 64, 3), dtype=np.uint8)
    for number in range(3):
        write_video(folder / "videos" / f"{number}.mp4", frames[number])
    write_video(folder / "brief" / "brief.mp4", frames[0, :9])
    (folder / "damaged.h5").write_bytes((folder / "game.h5").read_bytes()[:5000])
    return folder


@pytest.fixture(scope="module")
def trained(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    assert run("train", "--data", str(made / "game.h5"), "--out", str(out), *TINY) == 0
    return out


@pytest.mark.parametrize(
    ("task", "mentioned"),
    [
        ("train", ("--data", "--preset", "--method", "--keypoints", "--actions", "--seed", "--device", "--out", "--resume")),
        ("rollout", ("--weights", "--data", "--index", "--samples", "--steps", "--seed", "--device", "--out")),
    ],
)
def test_it_explains_itself(task: str, mentioned: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(task, "--help") == 0
    said = capsys.readouterr().out
    assert all(word in said for word in mentioned)


# Training


def test_basketball_is_made_learned_and_told_of(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run("train", "--data", "basketball", "--out", str(out), "--sequences", "6", *TINY) == 0
    said, errors = capfd.readouterr()
    assert errors == ""
    lines = [line for line in said.splitlines() if line]
    assert lines[0] == f"wrote 6 sequences of basketball, 300 frames: {out / 'sequences.h5'}"
    assert [line.split(":")[0] for line in lines[1:-1]] == [
        "learning the code, step 2", "learning the code, step 3", "learning the dynamics, step 2"
    ]  # fmt: skip
    assert lines[-1].startswith(f"wrote {out / 'model.safetensors'}, {out / 'best.safetensors'} (kpagent dynamics rollout")
    model = StructVRNN.load(out / "model.safetensors")
    assert model.num_keypoints == 3
    assert model.provenance["trained_on"] == "basketball"
    assert model.provenance["data"]["digest"] == Sequences(out / "sequences.h5").digest
    assert list((out / "logs").iterdir())


def test_a_folder_of_videos_is_learned_from(tmp_path: Path, made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    videos = ("--data", str(made / "videos"), "--out", str(tmp_path))
    assert run("train", *videos, "--method", "cnn_vrnn", *TINY) == 0
    assert capfd.readouterr().err == ""
    assert StructVRNN.load(tmp_path / "best.safetensors").config.code.kind == "vector"
    data = ("--weights", str(tmp_path / "best.safetensors"), "--data", str(tmp_path / "sequences.h5"))
    assert run("rollout", *data, "--out", str(tmp_path / "a.png")) == 0
    assert "as many as there are videos" in refused(capfd, "train", *videos, "--resume", "--sequences", "4")


def test_a_game_is_played_and_its_actions_are_learned_from(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("--data", "ALE/Pong-v5", "--sequences", "2", "--actions", "--no-stochastic", "--preset", "fast")
    assert run("train", *arguments, "--out", str(tmp_path), *TINY) == 0
    assert capfd.readouterr().err == ""
    model = StructVRNN.load(tmp_path / "model.safetensors")
    assert (model.config.dynamics.actions, model.config.dynamics.stochastic) == (6, False)
    assert Sequences(tmp_path / "sequences.h5").header["name"] == "ALE/Pong-v5"


def test_a_finished_run_is_neither_overwritten_nor_resumed_otherwise(
    trained: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "model.safetensors").read_bytes()
    again = ("train", "--data", str(made / "game.h5"), "--out", str(trained), *TINY)
    assert "holds a run already; add --resume" in refused(capsys, *again)
    assert "has learning.code.seed 0, not 4" in refused(capsys, *again, "--resume", "--seed", "4")
    assert "has model.code.separation 0.1, not 0.0" in refused(capsys, *again, "--resume", "--method", "no_separation")
    assert run(*again, "--resume") == 0
    assert (trained / "model.safetensors").read_bytes() == before


def test_mistakes_get_one_line_and_leave_nothing(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    mistakes = [
        (("--data", str(made / "short.h5")), "windows of 16 frames need a sequence of at least 16"),
        (("--data", str(made / "damaged.h5")), "damaged.h5"),
        (("--data", str(made / "none.h5")), "no sequences at"),
        (("--data", str(made / "brief")), "brief.mp4 is too short: it has 9 frames, and 16 are needed"),
        (("--data", "Pnog-v5"), "no .h5 file, no folder and no environment to take data from"),
        (("--data", "basketball", "--sequences", "0"), "count must be at least 1"),
        (("--data", str(made / "game.h5"), "--sequences", "3"), "--sequences is for what is made or played"),
        (("--data", str(made / "game.h5"), "--actions"), "has no actions; leave out --actions"),
        (("--data", "basketball", "--actions"), "basketball has no actions; leave out --actions"),
        (("--data", "ALE/Pong-v5", "--method", "supervised"), "needs true positions, and ALE/Pong-v5 has none"),
        (("--data", "basketball", "--method", "supervised", "--keypoints", "5"), "6 true positions a frame, and the model"),
        (("--data", "basketball", "--preset", "dmcs", "--code-steps", "3"), "--code-steps is for --preset fast"),
        (("--data", "basketball", "--keypoints", "0"), "num_keypoints must be from 1 to 256"),
        (("--data", "basketball", "--samples", "0"), "samples must be at least 1"),
        (("--data", "basketball", "--steps", "0"), "steps must be at least 1"),
        (("--data", "basketball", "--device", "tpu9"), "no device 'tpu9'"),
        (("--data", "basketball", "--method", "svg"), "svg"),
    ]
    for arguments, message in mistakes:
        assert message in refused(capsys, "train", "--out", str(out), *arguments), arguments
        assert not out.exists(), arguments


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_flags(name: str) -> None:
    flags = DynamicsTrain("basketball", Path("out"), preset="basketball", method=name)._config()  # type: ignore[arg-type]
    base = DynamicsTrain("basketball", Path("out"), preset="basketball")._config()
    assert flags == method_config(name, base)


def test_single_flags_win_over_the_method() -> None:
    chosen = DynamicsTrain(
        "basketball", Path("out"), method="no_sparsity", keypoints=4, code="vector", stochastic=False, samples=7,
        separation=0.3, sparsity=0.2, supervision=9.0,
    )._config()  # fmt: skip
    code, dynamics = chosen.code, chosen.dynamics
    assert (code.num_keypoints, code.kind, code.separation, code.sparsity, code.supervision) == (4, "vector", 0.3, 0.2, 9.0)
    assert (dynamics.stochastic, dynamics.samples) == (False, 7)


def test_published_presets_learn_at_once() -> None:
    learning = DynamicsTrain("basketball", Path("out"), preset="human36m", steps=7, seed=3)._learning()
    assert learning.joint
    assert (learning.code.steps, learning.code.seed, learning.code.batch_size) == (7, 3, 32)


# Interrupted


def press_control_c(once: Callable[[], bool]) -> threading.Thread:
    """Ctrl-C in this process, as soon as something is so."""

    def press() -> None:
        until = time.monotonic() + 60
        while not once() and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def test_futures_of_the_zoos_keypoints_with_actions(tmp_path: Path) -> None:
    tiny = ["--code-steps", "2", "--steps", "2", "--evaluate-every", "2", "--device", "cpu"]
    data = ("--data", "ALE/Pong-v5", "--sequences", "2", "--perception", "pong", "--actions")
    assert run("train", *data, "--out", str(tmp_path), *tiny) == 0
    model = StructVRNN.load(tmp_path / "model.safetensors")
    assert (model.config.code.kind, model.num_keypoints) == ("perception", load("pong").num_keypoints)
    assert model.provenance["perception"] == "pong"
    frames = Sequences(tmp_path / "sequences.h5").stretch(0, 0, 2)["frames"]
    assert torch.equal(model.encode(frames).xy, load("pong", "cpu").encode(frames).xy)


def test_futures_of_another_models_keypoints_leave_its_code_as_it_is(
    trained: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--data", str(made / "game.h5"), "--perception", str(trained / "model.safetensors"), "--units", "24")
    assert (
        run("train", *given, "--out", str(tmp_path / "run"), "--steps", "2", "--evaluate-every", "2", "--device", "cpu") == 0
    )
    assert "learning the code" not in capsys.readouterr().out
    message = "--preset basketball learns all at once, and the code of "
    assert message in refused(capsys, "train", *given, "--out", str(tmp_path / "joint"), "--preset", "basketball")
    source, model = (StructVRNN.load(folder / "model.safetensors") for folder in (trained, tmp_path / "run"))
    assert model.config.dynamics.rnn_units == 24
    for name, tensor in source.code.state_dict().items():
        assert torch.equal(model.code.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    "flags", [("--keypoints", "4"), ("--mix", "0.5"), ("--sparsity", "0"), ("--code", "vector"), ("--method", "cnn_vrnn")]
)
def test_what_says_how_keypoints_are_learned_is_refused_beside_perception(
    flags: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("train", "--data", "ALE/Pong-v5", "--perception", "pong", "--out", str(tmp_path), *flags)
    assert "is for keypoints that are learned here; leave it out, or --perception" in refused(capsys, *arguments)


def test_control_c_keeps_a_run_that_goes_on_with_resume(
    made: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ("train", "--data", str(made / "game.h5"), "--out", str(out), *TINY)
    pressed = press_control_c((out / "config.json").exists)
    assert "is kept; go on with --resume" in refused(capsys, *arguments)
    pressed.join()
    assert run(*arguments, "--resume") == 0
    (found, _), (expected, _) = (load_tensors(folder / "model.safetensors") for folder in (out, trained))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_control_c_while_sequences_are_made_keeps_what_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("train", "--data", "basketball", "--out", str(tmp_path), "--sequences", "300", *TINY)
    parts = tmp_path / ".sequences-parts"
    pressed = press_control_c((parts / "000000000.h5").exists)
    assert "what was made in" in refused(capsys, *arguments)
    pressed.join()
    assert not (tmp_path / "sequences.h5").exists()
    first = (parts / "000000000.h5").stat().st_mtime_ns
    again = press_control_c((parts / "000000128.h5").exists)
    assert "go on with --resume" in refused(capsys, *arguments, "--resume")
    again.join()
    assert (parts / "000000000.h5").stat().st_mtime_ns == first


# Rollouts


def test_a_film_and_a_sheet_of_futures(trained: Path, made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    weights, data = ("--weights", str(trained / "model.safetensors")), ("--data", str(made / "game.h5"))
    sheet, film = tmp_path / "sheet.png", tmp_path / "film.mp4"
    assert run("rollout", *weights, *data, "--samples", "2", "--steps", "12", "--out", str(sheet)) == 0
    assert run("rollout", *weights, *data, "--index", "3", "--start", "2", "--samples", "1", "--out", str(film)) == 0
    said, errors = capfd.readouterr()
    assert errors == ""
    assert said.splitlines()[0] == f"wrote {sheet}: 8 observed frames, 2 futures of 12 frames, what really came on top"
    assert imageio_ffmpeg.count_frames_and_secs(film)[0] == 16
    drawn = cv2.imread(str(sheet))
    assert drawn is not None
    picture = drawn[..., ::-1]
    cell = 128 + 2 * 4
    assert picture.shape == (3 * (cell + 4) + 4, 20 * (cell + 4) + 4, 3)
    corners = picture[5 :: cell + 4, 5 :: cell + 4]
    assert [tuple(corner) for corner in corners[1]] == [OBSERVED] * 8 + [PREDICTED] * 12
    # The sequence has 18 frames; what would be the others stays dark.
    assert [tuple(corner) for corner in corners[0]] == [OBSERVED] * 8 + [PREDICTED] * 10 + [(0, 0, 0)] * 2


def test_mistakes_of_a_rollout_get_one_line(
    trained: Path, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"--weights": str(trained / "model.safetensors"), "--data": str(made / "game.h5")}
    good |= {"--out": str(tmp_path / "a.png")}
    mistakes = [
        ({"--out": str(tmp_path / "a.gif")}, "its name must end in .mp4 or .png"),
        ({"--index": "8"}, "has sequences 0 to 7, not 8"),
        ({"--start": "18"}, "has 18 frames, none from 18"),
        ({"--start": "14"}, "the model observes 8 frames, and the sequence has 4"),
        ({"--steps": "0"}, "steps and samples must be at least 1"),
        ({"--samples": "0"}, "steps and samples must be at least 1"),
        ({"--seed": "-1"}, "must be at least 0"),
        ({"--fps": "0"}, "--fps must be above 0"),
        ({"--weights": str(made / "game.h5")}, "game.h5"),
        ({"--weights": str(trained / "checkpoint-code.safetensors")}, "not a struct_vrnn"),
        ({"--data": str(made / "none.h5")}, "no sequences at"),
    ]
    for changes, message in mistakes:
        flags = [part for pair in (good | changes).items() for part in pair]
        assert message in refused(capsys, "rollout", *flags), changes
    assert not list(tmp_path.iterdir())
