"""`kpagent plan reach` as its user meets it: what it makes, says and refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from commands import Command

from kpagent.drawing import write_png
from kpagent.dynamics.configuration import StructVRNNConfig
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.envs.pushing.environment import Pushing
from kpagent.subgoals.configuration import CodecConfig, KeyInConfig
from kpagent.subgoals.keyin import KeyIn

TINY = ("--samples", "6", "--steps", "3", "--device", "cpu")
SMALL = {"given": 1, "frames": 30, "keyframes": 6, "longest": 6, "longest_segment": 6, "units": 8, "start_units": 8}


COMMAND = Command("plan", "reach")
run, refused = COMMAND.run, COMMAND.refused


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, trained on nothing, and pictures of goals."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    config = StructVRNNConfig.fast(2)
    dynamics = StructVRNN(replace(config, dynamics=replace(config.dynamics, actions=3, rnn_units=16)))
    dynamics.save(folder / "dynamics.safetensors")
    StructVRNN(config).save(folder / "passive.safetensors")
    KeyIn(KeyInConfig.keypoints(8, **SMALL)).save(folder / "positions.safetensors")
    KeyIn(KeyInConfig.keypoints(6, **SMALL)).save(folder / "six.safetensors")
    frames = KeyIn(KeyInConfig(CodecConfig(size=8, image_size=32, filters=(4, 8)), **SMALL))  # type: ignore[arg-type]
    frames.save(folder / "frames.safetensors")
    frames.provenance = {"trained_on": "brownian"}
    frames.save(folder / "brownian.safetensors")
    keypoints = KeyIn.on(dynamics, **SMALL)
    keypoints.provenance = {"trained_on": "pushing"}
    keypoints.save(folder / "keypoints.safetensors")
    env = Pushing(show_goal=False)
    env.reset(seed=2)
    write_png(folder / "goal.png", env.goal_image())
    env.close()
    write_png(folder / "large.png", np.zeros((96, 80, 3), np.uint8))
    write_png(folder / "empty.png", np.zeros((64, 64, 3), np.uint8))
    (folder / "text.png").write_text("no picture")
    return folder


@pytest.mark.parametrize("weights", ["positions", "frames", "keypoints", None])
def test_a_task_is_planned_acted_and_filmed(
    weights: str | None, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = () if weights is None else ("--weights", str(made / f"{weights}.safetensors"))
    assert run("--goal", "3", "--out", str(tmp_path), *given, *TINY) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "not reached: stopped after 3 actions; the puck is " in printed.out
    assert "(no success, which is under 0.3)" in printed.out
    assert "0 subgoals" in printed.out or weights is not None
    assert f"wrote {tmp_path / 'reach.mp4'}, {tmp_path / 'reach.png'}, {tmp_path / 'plan.png'}" in printed.out
    # The frame at the start, and one after each action.
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "reach.mp4"))[0] == 4
    for name in ("reach.png", "plan.png"):
        image = cv2.imread(str(tmp_path / name))
        assert image is not None
        assert image.std() > 5


def test_an_image_is_a_goal_too(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learned = ("--weights", str(made / "keypoints.safetensors"), "--dynamics", str(made / "dynamics.safetensors"))
    assert run("--goal", str(made / "goal.png"), "--task", "2", "--out", str(tmp_path), *learned, *TINY) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "around the wall" not in printed.out
    assert "after 3 actions" in printed.out or "reached after" in printed.out


def test_a_goal_that_no_way_leads_to_is_said(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--goal", "3", "--weights", str(made / "positions.safetensors"), "--out", str(tmp_path), *TINY) == 0
    assert "no way that the model knows leads to the goal: the nearest ends" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--goal", "{}/large.png"), "large.png is 80x96; the environment's frames are 64x64"),
        (("--goal", "{}/text.png"), "text.png is no number and no image that can be read"),
        (("--goal", "{}/none.png"), "none.png is no number and no image that can be read"),
        (("--goal", "{}/empty.png"), "the goal image does not show what the planner looks for"),
        (("--goal", "-3"), "-3 is no number and no image that can be read; give a goal image or a task's seed"),
        (("--goal", "3", "--steps", "0"), "--steps must be at least 1, not 0"),
        (("--goal", "3", "--samples", "1"), "--samples must be at least 2, not 1"),
        (("--goal", "3", "--fps", "0"), "--fps must be above 0, not 0"),
        (("--goal", "3", "--weights", "{}/none.safetensors"), "none.safetensors"),
        (("--goal", "3", "--weights", "{}/dynamics.safetensors"), "dynamics.safetensors"),
        (("--goal", "3", "--weights", "{}/brownian.safetensors"), "was trained on brownian, not on pushing"),
        (("--goal", "3", "--weights", "{}/six.safetensors"), "codes of 6 numbers and has no perception model with it"),
        (("--goal", "3", "--dynamics", "{}/passive.safetensors"), "the dynamics know no actions"),
        (
            ("--goal", "3", "--dynamics", "{}/dynamics.safetensors", "--weights", "{}/six.safetensors"),
            "the dynamics have 2 keypoints, and the model of keyframes has not learned on these",
        ),
    ],
)
def test_mistakes_get_one_line(
    arguments: tuple[str, ...], message: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [each.format(made) for each in arguments]
    assert message in refused(capsys, *given, "--out", str(tmp_path / "out"), "--device", "cpu")
    assert not (tmp_path / "out" / "reach.mp4").exists()
