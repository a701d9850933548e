"""`kpagent explore` as its user meets it: what it makes, how it is interrupted, killed and taken up again."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from kpagent.agents.agent_file import load_agent
from kpagent.agents.exploration import CELLS, ExplorationConfig
from kpagent.agents.option_agent import OptionAgent
from kpagent.cli import main
from kpagent.cli.explore import Explore
from kpagent.files import load_tensors
from kpagent.perception.zoo import load

GAME = "ALE/MontezumaRevenge-v5"
NO_PYGAME = pytest.mark.skipif(importlib.util.find_spec("pygame") is not None, reason="has pygame")
TINY = ("--warm-up", "1000", "--warm-up-steps", "2", "--envs", "4", "--keypoints", "2", "--film-steps", "12")
SHORT = ("explore", "--env", GAME, "--frames", "4720", *TINY, "--device", "cpu")


def process(*arguments: str) -> subprocess.Popen[str]:
    """The command in its own process, which Ctrl-C reaches even where whoever runs the tests has turned it off."""
    return subprocess.Popen(
        [sys.executable, "-c", "import kpagent.cli as cli; cli.main()", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait(started: subprocess.Popen[str], until: Callable[[], bool]) -> None:
    while not until():
        assert started.poll() is None, started.communicate()
        time.sleep(0.02)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert isinstance(end.value.code, int) or end.value.code is None
    return end.value.code or 0


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is far too short to learn anything, but does all that a run does."""
    out = tmp_path_factory.mktemp("explored") / "run"
    with process(*SHORT, "--out", str(out)) as started:
        stdout, stderr = started.communicate()
    assert (started.returncode, stderr) == (0, "")
    names = ("agent.safetensors", "perception.safetensors", "places.png", "film.mp4", "film.png")
    assert stdout.splitlines()[-1] == f"wrote {', '.join(str(out / name) for name in names)} and logs"
    assert re.search(r"^4800 frames, \d+ s in this go$", stdout, re.MULTILINE)
    return out


def test_a_run_leaves_options_keypoints_pictures_settings_and_logs(explored: Path) -> None:
    names = {"agent.safetensors", "perception.safetensors", "places.png", "places.json", "film.mp4", "film.png", "logs"}
    assert set(os.listdir(explored)) == names | {"config.json"}
    agent = OptionAgent.load(explored / "agent.safetensors", "cpu")
    assert (agent.num_keypoints, agent.network.num_actions, agent.commitment) == (2, 18, 20)
    assert agent.provenance == {"env": GAME, "interactions": 1200, "seed": 0}
    assert load(explored / "perception.safetensors", "cpu").num_keypoints == 2
    settings = json.loads((explored / "config.json").read_text())
    assert settings["env"] == GAME
    assert (settings["exploration"]["interactions"], settings["exploration"]["warm_up"]) == (1180, 1000)
    # After the first update there was one round of 4 copies and 20 interactions, of which every fourth is looked at.
    places = np.array(json.loads((explored / "places.json").read_text())["cells"])
    assert places.shape == CELLS
    assert places.sum() == 20
    assert (np.asarray(cv2.imread(str(explored / "places.png"))).std(axis=(0, 1)) > 10).all()
    video, frames = cv2.VideoCapture(str(explored / "film.mp4")), 0
    while video.read()[0]:
        frames += 1
    assert frames == 13


def test_a_finished_run_stays_as_it_is_and_its_pictures_can_be_made_again(
    explored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(explored, out)
    (out / "places.png").unlink()
    before = (out / "agent.safetensors").read_bytes()
    assert run(*SHORT, "--out", str(out)) == 2
    assert "holds a run already; add --resume to take it up, or choose another --out" in capsys.readouterr().err
    assert run(*SHORT, "--out", str(out), "--resume", "--seed", "1") == 2
    assert f"{out} holds a run of other settings; resume it as it was started" in capsys.readouterr().err
    assert run(*SHORT, "--out", str(out), "--resume", "--film-steps", "0") == 0
    assert f"the run in {out} was finished before\n" in capsys.readouterr().out
    assert (out / "agent.safetensors").read_bytes() == before
    assert (out / "places.png").read_bytes() == (explored / "places.png").read_bytes()


def test_one_seed_gives_one_result_in_one_process(explored: Path, tmp_path: Path) -> None:
    assert run(*SHORT, "--out", str(tmp_path / "again")) == 0
    for name in ("places.json", "config.json", "film.mp4", "places.png"):
        assert (tmp_path / "again" / name).read_bytes() == (explored / name).read_bytes(), name
    for name in ("agent.safetensors", "perception.safetensors"):
        # The order of what a header says is not fixed.
        (tensors, header), (again, same) = (load_tensors(folder / name) for folder in (explored, tmp_path / "again"))
        assert header == same
        assert all(torch.equal(tensors[part], again[part]) for part in tensors | again)


def interactions(out: Path) -> int:
    return int(load_agent(out / "checkpoint.safetensors", "Exploration")[0]["progress"]["interactions"])


def test_a_killed_run_is_taken_up_interrupted_and_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    command = [*SHORT, "--out", str(out), "--checkpoint-every-s", "0"]
    command[command.index("--frames") + 1] = "5760"
    with process(*command) as started:
        wait(started, lambda: (out / "checkpoint.safetensors").exists())
        started.kill()
        started.communicate()
    assert started.returncode == -signal.SIGKILL
    killed = interactions(out)
    assert 80 <= killed < 1440
    with process(*command, "--resume") as started:
        wait(started, lambda: interactions(out) > killed)
        started.send_signal(signal.SIGINT)
        _, stderr = started.communicate()
    assert (started.returncode, stderr) == (2, f"kpagent: interrupted: the run in {out} is kept; go on with --resume\n")
    interrupted = interactions(out)
    assert killed < interrupted < 1440
    assert OptionAgent.load(out / "agent.safetensors", "cpu").provenance["interactions"] == interrupted
    assert run(*command, "--resume", "--film-steps", "0") == 0
    assert re.search(r"^57\d\d frames, ", capsys.readouterr().out, re.MULTILINE)
    # It looked on while it played options.
    assert sum(map(sum, json.loads((out / "places.json").read_text())["cells"])) > 0
    assert not (out / "checkpoint.safetensors").exists()
    assert (out / "places.png").exists()
    assert not (out / "film.mp4").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--env", "ALE/Montezuma-v5"), "no environment called 'ALE/Montezuma-v5'; did you mean ALE/MontezumaRevenge-v5"),
        (("--env", "Pendulum-v1"), "Pendulum-v1 has no numbered actions, which options choose among; it has Box"),
        pytest.param(("--env", "CartPole-v1"), "CartPole-v1 cannot render: pygame is not installed", marks=NO_PYGAME),
        (("--env", GAME, "--frames", "0"), "--frames must be at least 1, not 0"),
        (("--env", GAME, "--frames", "80000"), "learned in the warm-up's 80000 frames: --frames must be more, not 80000"),
        (("--env", "CartPole-v1", "--frames", "20000"), "in the warm-up's 20000 frames: --frames must be more, not 20000"),
        (("--env", GAME, "--actors", "-1"), "--actors must be at least 0, not -1"),
        (("--env", GAME, "--shards", "0"), "--shards must be at least 1, not 0"),
        (("--env", GAME, "--ray-address", "auto"), "--ray-address is for actors: give --actors too, or leave it out"),
        (("--env", GAME, "--film-steps", "-1"), "--film-steps must be at least 0, not -1"),
        (("--env", GAME, "--checkpoint-every-s", "-1"), "--checkpoint-every-s must be at least 0, not -1"),
        (("--env", GAME, "--keypoints", "0"), "num_keypoints must be at least 1; got 0"),
        (("--env", GAME, "--warm-up", "10"), "warm_up must be at least 1000; got 10"),
        (("--env", GAME, "--capacity", "10"), "capacity must be at least warm_up; got 10"),
        (("--env", GAME, "--seed", "-1"), "seed must not be negative; got -1"),
        (("--env", GAME, "--device", "abacus"), "no device 'abacus' on this machine"),
        (("--env", GAME, "--out", "file/below"), "cannot write file/below/agent.safetensors: "),
        (("--env", GAME, "--out", "kept"), "kept holds a run already; add --resume to take it up, or choose another --out"),
    ],
)
def test_a_mistake_gets_one_line_and_writes_nothing(
    flags: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("no folder")
    Path("kept").mkdir()
    Path("kept/agent.safetensors").write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert run("explore", *flags) == 2
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1
    assert message in stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_flags_have_the_defaults_of_the_configuration() -> None:
    assert Explore(GAME)._config() == ExplorationConfig(interactions=2_500_000)
    assert Explore("CartPole-v1")._config().interactions == 10_000_000
    assert Explore("kpagent/MontezumaSecondRoom-v0", frames=100_001)._config().interactions == 25_001
