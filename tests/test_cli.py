"""The command as its user meets it: what it makes, and one line and exit code 2 for each mistake."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import kpagent
from kpagent.agents.keyqn import KeyQN
from kpagent.cli import main
from kpagent.collect.pairs import FramePairs
from kpagent.envs.players import make_player
from kpagent.files import load_tensors
from kpagent.perception.methods import method_of
from kpagent.perception.transporter import Transporter, TransporterConfig

PONG = ("--env", "ALE/Pong-v5")


def frame_pairs(count: int, env: str) -> FramePairs:
    frames = np.random.default_rng(0).integers(0, 256, (2, count, 84, 84, 3), dtype=np.uint8)
    return FramePairs(frames[0], frames[1], np.arange(count, dtype=np.int64), {"env": env, "interactions": 7})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files to use, rightly or wrongly."""
    folder = tmp_path_factory.mktemp("prepared")
    torch.manual_seed(0)
    model = Transporter(TransporterConfig.fast(3))
    model.save(folder / "good.safetensors", inference_only=True)
    content = (folder / "good.safetensors").read_bytes()
    (folder / "truncated.safetensors").write_bytes(content[: len(content) // 2])
    (folder / "altered.safetensors").write_bytes(content[:-9] + bytes(9))
    frame_pairs(60, "ALE/Pong-v5").save(folder / "pong.h5")
    frame_pairs(60, "ALE/Breakout-v5").save(folder / "breakout.h5")
    frame_pairs(20, "ALE/Pong-v5").save(folder / "few.h5")
    content = (folder / "pong.h5").read_bytes()
    (folder / "truncated.h5").write_bytes(content[: len(content) // 2])
    (folder / "file").write_text("no folder")
    model.save(folder / "run" / "checkpoint.safetensors")
    agent = KeyQN(env=make_player("ALE/Pong-v5", model), buffer_size=100, seed=0)
    agent.save(folder / "aimless.safetensors")
    agent.provenance = {"env": "ALE/Pong-v5", "see": "good.safetensors", "features": True, "seed": 0}
    agent.save(folder / "agent.safetensors")
    agent.provenance["see"] = "moved.safetensors"
    agent.save(folder / "left.safetensors")
    return folder


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them as the working folder."""
    folder = tmp_path / "here"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    code = end.value.code
    assert isinstance(code, int) or code is None
    return code or 0


def assert_refused(stderr: str) -> str:
    """The one line that a mistake gets, without the name of the command."""
    assert stderr.startswith("kpagent: ")
    assert stderr.endswith("\n")
    assert stderr.count("\n") == 1
    return stderr.removeprefix("kpagent: ").strip()


def process(*arguments: str) -> subprocess.Popen[str]:
    """The command in its own process, which Ctrl-C reaches even where whoever runs the tests has turned it off."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", "import kpagent.cli as cli; cli.main()", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize(
    ("command", "mentioned"),
    [
        ("", ("pretrain", "watch", "train", "play", "explore", "dynamics", "keyframes", "zoo", "bench")),
        ("pretrain", ("--env", "--keypoints", "--steps", "--seed", "--device", "--out", "--resume")),
        ("watch", ("--env", "--weights", "--seed", "--device", "--out")),
        ("play", ("--agent", "--env", "--weights", "--games", "--epsilon", "--seed", "--device", "--out")),
        (
            "explore",
            ("--env", "--frames", "--actors", "--ray-address", "--keypoints", "--seed", "--device", "--out", "--resume"),
        ),
        ("rewards record", ("--env", "--sequences", "--length", "--workers", "--seed", "--out", "--resume")),
        ("rewards train", ("--dynamics", "--data", "--steps", "--seed", "--device", "--out", "--resume")),
        ("rewards eval", ("--weights", "--dynamics", "--data", "--device", "--out")),
        ("zoo", ()),
        ("bench", ("speed", "keypoints", "pairs", "tracking", "robustness", "scaling")),
        ("bench speed", ("--seed", "--device", "--out")),
        ("bench keypoints", ("--seed", "--device", "--out")),
        ("bench pairs", ("--seed", "--out")),
        ("bench tracking", ("--games", "--methods", "--seeds", "--seed", "--device", "--out")),
        ("bench robustness", ("--cases", "--seeds", "--seed", "--device", "--out")),
        ("bench scaling", ("--env", "--actors", "--seconds", "--pictures", "--seed", "--device", "--out")),
        ("plan reach", ("--goal", "--weights", "--dynamics", "--task", "--steps", "--seed", "--device", "--out")),
        (
            "plan control",
            ("--env", "--weights", "--steps", "--random", "--repeat", "--seed", "--device", "--out", "--resume"),
        ),
        ("bench control", ("--tasks", "--methods", "--seeds", "--interactions", "--finished", "--device", "--out")),
        ("bench planning", ("--methods", "--seeds", "--tasks", "--hard-share", "--finished", "--pictures", "--out")),
        ("bench keyframes", ("--datasets", "--methods", "--seeds", "--finished", "--pictures", "--device", "--out")),
    ],
)
def test_every_command_explains_itself(command: str, mentioned: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*command.split(), "--help") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert f"usage: kpagent {command}".strip() in printed.out
    for word in mentioned:
        assert word in printed.out


PRETRAIN = ("pretrain", *PONG, "--out", "new")
INIT = (*PRETRAIN, "--init", "good.safetensors")
WATCH = ("watch", *PONG, "--weights", "good.safetensors")
PLAY = ("play", "--agent", "agent.safetensors", "--device", "cpu")
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")

MISTAKES = [
    ([], "Expected one of {pretrain, watch, train, play, explore, dynamics, keyframes, plan, rewards, zoo, bench}."),
    (
        ["pretrian"],
        "Available subcommands: pretrain, watch, train, play, explore, dynamics, keyframes, plan, rewards, zoo, bench",
    ),
    (["zoo", "--bogus"], "Unrecognized options: --bogus"),
    (["pretrain", *PONG], "Missing from kpagent pretrain: --out"),
    (["pretrain", "--out", "new"], "Missing from kpagent pretrain: --env"),
    ([*PRETRAIN, "--bogus", "3"], "Unrecognized options: --bogus"),
    (["pretrain", "--env", "ALE/Pog-v5", "--out", "new"], "no environment called 'ALE/Pog-v5'; did you mean ALE/Pong-v5"),
    (["pretrain", "--env", "Nothing", "--out", "new"], "no environment called 'Nothing'"),
    ([*PRETRAIN, "--keypoints", "0"], "num_keypoints must be a whole number from 1 to 256; got 0"),
    ([*PRETRAIN, "--keypoints", "few"], "Error parsing --keypoints: no type matching"),
    ([*PRETRAIN, "--preset", "huge"], "invalid choice 'huge' for argument '--preset'"),
    ([*PRETRAIN, "--method", "sift"], "invalid choice 'sift' for argument '--method'"),
    ([*PRETRAIN, "--spare", "-1"], "spare must be at least 0, not -1"),
    ([*PRETRAIN, "--spare", "250"], "num_keypoints must be a whole number from 1 to 256; got 258"),
    ([*PRETRAIN, "--method", "zhang", "--spare", "2"], "spare must be 0 for zhang, which cannot paint a frame without some"),
    ([*PRETRAIN, "--init", "qbert"], "no weights called 'qbert'"),
    ([*PRETRAIN, "--init", "none.safetensors"], "no weights file at none.safetensors"),
    ([*PRETRAIN, "--init", "run/checkpoint.safetensors", "--device", "abacus"], "no device 'abacus'"),
    ([*INIT, "--spare", "2"], "--spare is for a fresh start: weights of --init keep the keypoints that they have"),
    ([*INIT, "--keypoints", "4"], "good.safetensors has keypoints 3, not 4; leave out --keypoints, or --init"),
    ([*INIT, "--method", "jakab"], "good.safetensors has method transporter, not jakab; leave out --method, or --init"),
    ([*INIT, "--normalization", "layer"], "good.safetensors has normalization batch, not layer; leave out --normalization"),
    ([*PRETRAIN, "--steps", "0"], "steps must be at least 1; got 0"),
    ([*PRETRAIN, "--batch-size", "1"], "batch_size must be at least 2; got 1"),
    ([*PRETRAIN, "--balance", "2"], "balance must be from 0 to 1, not 2.0"),
    ([*PRETRAIN, "--seed", "-1"], "seed must be at least 0; got -1"),
    ([*PRETRAIN, "--capacity", "1"], "capacity must be from 2 to 10,000,000; got 1"),
    ([*PRETRAIN, "--capacity", "20"], "20 pairs are too few: 18 to train on, where a batch is 32"),
    ([*PRETRAIN, "--interactions", "0"], "interactions must be at least 1; got 0"),
    ([*PRETRAIN, "--device", "abacus"], "no device 'abacus' on this machine"),
    pytest.param([*PRETRAIN, "--device", "cuda"], "no device 'cuda' on this machine", marks=NO_GPU),
    ([*PRETRAIN, "--pairs", "none.h5"], "no frame pairs at none.h5"),
    ([*PRETRAIN, "--pairs", "truncated.h5"], "truncated.h5 cannot be used: "),
    ([*PRETRAIN, "--pairs", "good.safetensors"], "good.safetensors cannot be used: "),
    ([*PRETRAIN, "--pairs", "breakout.h5"], "breakout.h5 holds frames of ALE/Breakout-v5, not of ALE/Pong-v5"),
    ([*PRETRAIN, "--pairs", "few.h5"], "20 pairs are too few: 18 to train on, where a batch is 32"),
    (["pretrain", *PONG, "--out", "file"], "cannot write file/pairs.h5: "),
    (["pretrain", *PONG, "--out", "file/below"], "cannot write file/below/pairs.h5: "),
    (["pretrain", *PONG, "--out", "file/below", "--pairs", "pong.h5"], "cannot write file/below/config.json: "),
    (["pretrain", *PONG, "--out", "run"], "run holds a run already; add --resume to take it up, or choose another --out"),
    (["watch", *PONG, "--weights", "qbert"], "no weights called 'qbert'"),
    (["watch", *PONG, "--weights", "none.safetensors"], "no weights file at none.safetensors"),
    (["watch", *PONG, "--weights", "truncated.safetensors"], "truncated.safetensors is damaged"),
    (["watch", *PONG, "--weights", "altered.safetensors"], "altered.safetensors was altered after it was written"),
    (["watch", *PONG, "--weights", "pong.h5"], "pong.h5 is damaged or no safetensors file"),
    (["watch", *PONG, "--weights", "run/checkpoint.safetensors", "--device", "abacus"], "no device 'abacus'"),
    (["watch", "--env", "ALE/Pog-v5", "--weights", "good.safetensors"], "no environment called 'ALE/Pog-v5'"),
    (["watch", *PONG], "Missing from kpagent watch: --weights"),
    ([*WATCH, "--out", "film.avi"], "cannot write film.avi: its name must end in .mp4"),
    ([*WATCH, "--out", "file/film.mp4"], "cannot write file/film.mp4: "),
    ([*WATCH, "--steps", "0"], "steps must be at least 1, not 0"),
    ([*WATCH, "--trail", "-1"], "trail must be at least 0, not -1"),
    ([*WATCH, "--fps", "0"], "fps must be"),
    ([*PRETRAIN, "--mix", "2"], "mix must be from 0 to 1, not 2.0"),
    ([*PRETRAIN, "--method", "jakab", "--align"], "the method jakab has no align"),
    ([*PRETRAIN, "--trajectory-length", "1"], "trajectory_length must be from 2 to 10,000; got 1"),
    (["play"], "Missing from kpagent play: --agent"),
    (["play", "--agent", "none.safetensors"], "no agent file at none.safetensors"),
    (["play", "--agent", "pnog"], "no agent called 'pnog'"),
    (["play", "--agent", "good.safetensors"], "good.safetensors holds no agent"),
    (["play", "--agent", "truncated.safetensors"], "truncated.safetensors is"),
    (["play", "--agent", "aimless.safetensors"], "does not say what it learned from: give --env and --weights"),
    (["play", "--agent", "left.safetensors"], "of moved.safetensors, not to be found here: give --weights"),
    ([*PLAY, "--env", "ALE/Breakout-v5"], "and 6 actions; the environment has 3, 32 and 4; it learned ALE/Pong-v5 from"),
    ([*PLAY, "--weights", "objects"], "the agent plays with 3 keypoints of 32 features and 6 actions; the environment has"),
    ([*PLAY, "--weights", "breakout"], "the weights 'breakout' are for ALE/Breakout-v5, not for ALE/Pong-v5"),
    ([*PLAY, "--out", "film.avi"], "cannot write film.avi: its name must end in .mp4"),
    ([*PLAY, "--out", "file/film.mp4"], "cannot write file/film.mp4: "),
    ([*PLAY, "--max-steps", "0"], "max_steps must be at least 1, not 0"),
    ([*PLAY, "--seed", "-1"], "the seed must be from 0 to 2147483647, not -1"),
    (["bench", "tracking", "--games", "tetris"], "no ground truth for 'tetris'; there is for pong, frostbite"),
    (
        ["bench", "tracking", "--games", "pong", "--weights", "breakout"],
        "breakout holds keypoints of ALE/Breakout-v5, not of",
    ),
    (["bench", "tracking", "--games", "pong", "--trained", "--runs", "new"], "no finished training of pong in new"),
    (["bench", "robustness", "--cases", "pong"], "no case 'pong'; there are pong_sliding"),
    (
        ["bench"],
        "robustness, atari100k, exploration, scaling, video, rewards, recognition, keyframes, planning, control}.",
    ),
    (
        ["bench", "spede"],
        "Unrecognized options: spede; Available subcommands: speed, keypoints, pairs, tracking, robustness, atari100k, ",
    ),
    (["bench", "speed", "--out", "file/below"], "cannot write file/below/"),
    (["bench", "speed", "--device", "abacus"], "no device 'abacus'"),
    (["bench", "speed", "--rounds", "0"], "rounds, num_envs and keypoints must be at least 1"),
    (["bench", "pairs", "--capacity", "1"], "capacity must be from 2"),
    (["bench", "pairs", "--save", "file/below.h5"], "cannot write file/below.h5: "),
    (["bench", "keypoints", "--games", "tetris"], "no ground truth for 'tetris'; there is for pong, breakout"),
    (["bench", "keypoints", "--games", "pong", "--weights", "qbert"], "no weights called 'qbert'"),
    (["bench", "keypoints", "--games", "pong", "--weights", "pong", "pong"], "1 games need as many weights, not 2"),
    (
        ["bench", "keypoints", "--frames", "0", "--games", "pong", "--weights", "good.safetensors"],
        "frames must be at least 1",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_gets_one_line_and_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = files(here)
    assert run(*arguments) == 2
    assert message in assert_refused(capsys.readouterr().err)
    assert files(here) == before


@pytest.mark.parametrize(
    "arguments", [["watch", *PONG, "--weights", "truncated.safetensors"], [*PRETRAIN, "--keypoints", "0"]]
)
def test_a_mistake_is_the_same_in_a_process_of_its_own(here: Path, arguments: list[str]) -> None:
    with process(*arguments) as started:
        stdout, stderr = started.communicate()
    assert started.returncode == 2
    assert_refused(stderr)
    assert stdout.strip() == ""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is far too short to learn anything, but does all that a run does."""
    out = tmp_path_factory.mktemp("trained") / "run"
    sizes = ["--keypoints", "2", "--capacity", "80", "--interactions", "2000", "--trajectory-length", "20"]
    sizes += ["--steps", "3", "--batch-size", "4"]
    with process("pretrain", *PONG, *sizes, "--device", "cpu", "--out", str(out)) as started:
        stdout, stderr = started.communicate()
    assert started.returncode == 0, stderr
    assert stderr == ""
    assert f"wrote 80 frame pairs to {out}/pairs.h5" in stdout
    assert "step 3: held-out loss" in stdout
    assert stdout.splitlines()[-1].startswith(f"wrote {out}/best.safetensors")
    return out


def test_pretraining_leaves_weights_settings_pairs_and_logs(trained: Path) -> None:
    names = {"best.safetensors", "checkpoint.safetensors", "config.json", "pairs.h5", "logs"}
    assert {path.name for path in trained.iterdir()} == names
    model = kpagent.load(trained / "best.safetensors", device="cpu")
    assert model.num_keypoints == 2
    assert model.provenance["env"] == "ALE/Pong-v5"
    assert model.provenance["steps"] == 3
    assert model.provenance["pairs"] == FramePairs.load(trained / "pairs.h5").info
    assert model.provenance["pairs"]["config"]["capacity"] == 80


def test_pairs_can_be_collected_by_workers_of_ray(tmp_path: Path) -> None:
    sizes = ("--keypoints", "2", "--capacity", "20", "--interactions", "4000", "--steps", "1", "--batch-size", "4")
    with process("pretrain", *PONG, *sizes, "--device", "cpu", "--actors", "1", "--out", str(tmp_path / "run")) as started:
        stdout, stderr = started.communicate()
    assert (started.returncode, stderr) == (0, ""), stdout
    pairs = FramePairs.load(tmp_path / "run" / "pairs.h5")
    assert (len(pairs), pairs.info["workers"], pairs.info["env"]) == (20, 1, "ALE/Pong-v5")


def test_a_finished_run_can_be_resumed_but_not_with_other_settings(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = ("pretrain", *PONG, "--keypoints", "2", "--batch-size", "4", "--device", "cpu", "--out", str(trained), "--resume")
    before = {name: content for name, content in files(trained).items() if not name.startswith("logs")}
    assert run(*same, "--steps", "3") == 0
    assert "read 80 frame pairs" in capsys.readouterr().out
    assert run(*same, "--steps", "4") == 2
    message = assert_refused(capsys.readouterr().err)
    assert message == f"the run in {trained} has steps 3, not 4; resume it as it was started"
    assert run(*same, "--steps", "3", "--env", "ALE/Breakout-v5") == 2
    assert "holds frames of ALE/Pong-v5, not of ALE/Breakout-v5" in assert_refused(capsys.readouterr().err)
    assert {name: content for name, content in files(trained).items() if not name.startswith("logs")} == before


def test_its_weights_can_be_watched(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = tmp_path / "films" / "pong.mp4"
    weights = str(trained / "best.safetensors")
    assert run("watch", *PONG, "--weights", weights, "--out", str(film), "--steps", "25", "--device", "cpu") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "xy (2, 2)" in printed.out
    assert printed.out.splitlines()[-1] == f"wrote {film} (25 frames) and {film.with_suffix('.png')}"
    video = cv2.VideoCapture(str(film))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 25
    video.release()
    assert cv2.imread(str(film.with_suffix(".png"))) is not None
    assert {path.name for path in film.parent.iterdir()} == {"pong.mp4", "pong.png"}


def test_the_zoo_is_listed_with_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("zoo") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for path in (Path(kpagent.__file__).parent / "weights").glob("*.safetensors"):
        about = kpagent.load(path, device="cpu").provenance
        (line,) = (line for line in printed.out.splitlines() if about["env"] in line)
        assert path.stem in line
        assert str(about["steps"]) in line
        assert f"{about['held_out']['loss'] / about['held_out']['copy_loss']:.3f}" in line


def test_a_benchmark_prints_its_figures_and_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--capacity", "64", "--interactions", "1500", "--trajectory-length", "20")
    assert run("bench", "pairs", *sizes, "--out", str(tmp_path), "--save", str(tmp_path / "pairs.h5")) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "pairs/interactions_per_s_per_core" in printed.out
    assert printed.out.splitlines()[-1] == f"wrote {tmp_path / 'pairs.json'}"
    assert len(FramePairs.load(tmp_path / "pairs.h5")) == 64


def press_control_c(once: Callable[[], bool]) -> threading.Thread:
    """Press it in this process as soon as `once` holds."""

    def press() -> None:
        while not once():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press, daemon=True)
    thread.start()
    return thread


SHORT = ("--pairs", "pong.h5", "--steps", "2", "--batch-size", "2", "--precision", "float32", "--device", "cpu")


@pytest.mark.parametrize("method", ["jakab", "zhang", "pixels"])
def test_other_methods_are_pretrained(here: Path, capsys: pytest.CaptureFixture[str], method: str) -> None:
    assert run("pretrain", *PONG, *SHORT, "--method", method, "--keypoints", "2", "--out", method) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"wrote {method}/best.safetensors")
    model = kpagent.load(f"{method}/best.safetensors", device="cpu")
    assert (method_of(model), model.num_keypoints) == (method, 2)


def test_spare_keypoints_are_dropped_and_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pretrain", *PONG, *SHORT, "--keypoints", "2", "--spare", "1", "--out", "spare") == 0
    printed = capsys.readouterr().out
    model = kpagent.load("spare/best.safetensors", device="cpu")
    assert model.num_keypoints == 2
    assert f"dropped keypoints {model.provenance['dropped'][0]} of the best weights:" in printed
    assert printed.count("step 2: held-out loss") == 2


def test_pretraining_goes_on_from_weights(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("pretrain", *PONG, *SHORT, "--init", "good.safetensors", "--out", "later")
    assert run(*command) == 0
    model = kpagent.load("later/best.safetensors", device="cpu")
    assert (model.num_keypoints, model.inference_only) == (3, False)
    assert model.provenance["init"] == {"weights": "good.safetensors", "provenance": {}}
    assert run(*command, "--resume") == 0
    again = ("pretrain", *PONG, *SHORT, "--init", "later/best.safetensors", "--keypoints", "3", "--out", "last")
    assert run(*again, "--method", "transporter", "--normalization", "batch") == 0
    init = kpagent.load("last/best.safetensors", device="cpu").provenance["init"]
    assert init == {"weights": "later/best.safetensors", "provenance": model.provenance}
    assert capsys.readouterr().err == ""


def test_control_c_keeps_a_pretraining_that_goes_on_with_resume(here: Path) -> None:
    out, steps = here / "started", "100000"
    arguments = ["pretrain", *PONG, "--pairs", "pong.h5", "--steps", steps, "--batch-size", "2", "--keypoints", "2"]
    arguments += ["--precision", "float32", "--device", "cpu", "--out", str(out)]
    done = []
    for resume in ([], ["--resume"]):
        known = len(list(out.rglob("events.*")))
        # The logs are opened when the first step is taken.
        with process(*arguments, *resume) as started:
            while len(list(out.rglob("events.*"))) == known and started.poll() is None:
                time.sleep(0.05)
            time.sleep(0.2)
            started.send_signal(signal.SIGINT)
            _, stderr = started.communicate()
        assert started.returncode == 2
        assert assert_refused(stderr) == f"interrupted: the run in {out} is kept; go on with --resume"
        done.append(int(load_tensors(out / "checkpoint.safetensors")[1]["step"]))
    assert 0 < done[0] < done[1] < int(steps)


def test_control_c_while_collecting_leaves_nothing_half_written(here: Path) -> None:
    before = files(here)
    with process(*PRETRAIN, "--capacity", "2000") as started:
        assert started.stdout is not None
        assert started.stdout.readline().startswith("collecting 2000 frame pairs")
        time.sleep(0.5)
        started.send_signal(signal.SIGINT)
        stderr = started.communicate()[1]
    assert started.returncode == 2
    assert assert_refused(stderr) == "interrupted"
    assert files(here) == before


def test_control_c_while_watching_keeps_what_was_played(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    press_control_c(lambda: any(here.glob(".film*")))
    assert run(*WATCH, "--steps", "100000", "--out", "film.mp4", "--device", "cpu") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("wrote film.mp4 (")
    assert {"film.mp4", "film.png"} <= set(os.listdir(here))


def test_an_agent_plays_what_it_learned(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*PLAY, "--max-steps", "12", "--out", "films/film.mp4") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    score = "score 0 (game not over) in 12 interactions"
    assert printed.out.strip() == f"{score}; wrote films/film.mp4 (13 frames) and films/film.png"
    assert set(os.listdir("films")) == {"film.mp4", "film.png"}


def test_control_c_while_playing_keeps_what_was_played(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    press_control_c(lambda: any(here.glob(".film*")))
    assert run(*PLAY, "--out", "film.mp4") == 0
    assert "; wrote film.mp4 (" in capsys.readouterr().out
    assert {"film.mp4", "film.png"} <= set(os.listdir(here))
