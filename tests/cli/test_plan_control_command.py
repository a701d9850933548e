"""`kpagent plan control` as its user meets it: what it makes, says and refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import imageio_ffmpeg
import pytest
from commands import Command

CARTPOLE = "dm_control/cartpole-balance-v0"
SMALL = ("--keypoints", "2", "--code-steps", "2", "--first-updates", "3", "--updates", "0.02")
QUICK = ("--candidates", "4", "--rounds", "1", "--horizon", "2", "--device", "cpu")
LEARN = ("--env", CARTPOLE, "--repeat", "25", "--steps", "50", "--random", "40", *SMALL, *QUICK, "--episodes", "1")


COMMAND = Command("plan", "control")
run, refused = COMMAND.run, COMMAND.refused


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in a process of its own, interrupted once and taken up."""
    out = tmp_path_factory.mktemp("learned") / "run"
    command = [sys.executable, "-c", "import kpagent.cli as cli; cli.main()", "plan", "control", *LEARN, "--out", str(out)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as started:
        assert started.stdout is not None
        # The first episode has ended, and is on disk.
        assert started.stdout.readline().startswith("40 interactions: return ")
        started.send_signal(signal.SIGINT)
        _, stderr = started.communicate()
    assert started.returncode == 2
    assert stderr == f"kpagent: interrupted: the run in {out} is kept; go on with --resume\n"
    return out


def test_a_run_goes_on_and_is_filmed(learned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds a run already; add --resume" in refused(capsys, *LEARN, "--out", str(learned))
    assert run(*LEARN, "--out", str(learned), "--resume") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "40 interactions: return" not in printed.out
    assert "50 interactions: return" in printed.out
    assert "episode 1: return" in printed.out
    assert "in 40 interactions" in printed.out
    last = printed.out.splitlines()[-1]
    agent, video, sheet = (learned / name for name in ("agent.safetensors", "control.mp4", "control.png"))
    assert last == f"wrote {agent}, {video}, {sheet} and logs"
    assert imageio_ffmpeg.count_frames_and_secs(str(video))[0] == 41
    image = cv2.imread(str(sheet))
    assert image is not None
    assert image.std() > 5
    assert run(*LEARN, "--out", str(learned), "--resume") == 0
    assert "was finished before" in capsys.readouterr().out


def test_weights_play(learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not (learned / "agent.safetensors").exists():
        assert run(*LEARN, "--out", str(learned), "--resume") == 0
    weights = ("--weights", str(learned / "agent.safetensors"))
    capsys.readouterr()
    assert run(*weights, *QUICK, "--episodes", "2", "--out", str(tmp_path)) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "mean return" in printed.out
    assert "of 2 episodes" in printed.out
    assert {path.name for path in tmp_path.iterdir()} == {"control.mp4", "control.png"}
    message = refused(capsys, *weights, "--env", "dm_control/reacher-easy-v0", "--out", str(tmp_path))
    assert f"has learned {CARTPOLE}, not dm_control/reacher-easy-v0" in message
    assert "--resume is for learning" in refused(capsys, *weights, "--resume", "--out", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --env, such as dm_control/reacher-easy-v0, or --weights"),
        (("--env", "CartPole-v1"), "CartPole-v1 has actions in a Discrete space, where a box of numbers is needed"),
        (("--env", "dm_control/reacher-eazy-v0"), "did you mean dm_control/reacher-easy-v0"),
        (("--env", CARTPOLE, "--steps", "0"), "--steps must be at least 1, not 0"),
        (("--env", CARTPOLE, "--random", "60000"), "--random must be at most --steps, which is 50000, not 60000"),
        (("--env", CARTPOLE, "--repeat", "0"), "--repeat must be at least 1, not 0"),
        (("--env", CARTPOLE, "--keypoints", "0"), "num_keypoints must be from 1 to 256; got 0"),
        (("--env", CARTPOLE, "--candidates", "1"), "candidates must be at least 2; got 1"),
        (("--env", CARTPOLE, "--futures", "-1"), "futures must not be negative; got -1"),
        (("--env", CARTPOLE, "--fps", "0"), "--fps must be above 0, not 0"),
        (("--env", CARTPOLE, "--device", "abacus"), "no device 'abacus'"),
        (("--weights", "none.safetensors"), "no weights file at none.safetensors"),
    ],
)
def test_mistakes_get_one_line_and_make_nothing(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, *arguments, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
