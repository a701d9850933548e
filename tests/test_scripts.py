from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kpagent.agents.option_agent import OptionAgent
from kpagent.agents.option_network import OptionNetwork, OptionNetworkConfig
from kpagent.perception.transporter import Transporter, TransporterConfig

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    Transporter(TransporterConfig.fast(4)).save(path, inference_only=True)
    return str(path)


def run(script: str, *arguments: str, folder: Path) -> str:
    command = [sys.executable, "-W", "error", str(SCRIPTS / script), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wrap_your_env(weights: str, tmp_path: Path) -> None:
    printed = run("wrap_your_env.py", "--weights", weights, folder=tmp_path)
    assert "xy (4, 2)" in printed
    assert "features (4, 32)" in printed
    assert "PPO learned for 512 interactions from 140 numbers each" in printed


def test_train_ppo_on_keypoints(weights: str, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "agent.zip"
    arguments = ("--weights", weights, "--steps", "256", "--copies", "2", "--episodes", "0", "--out", str(out))
    assert f"saved {out}" in run("train_ppo_on_keypoints.py", *arguments, folder=tmp_path)
    assert out.is_file()


def test_train_keyqn(weights: str, tmp_path: Path) -> None:
    out = tmp_path / "agent.safetensors"
    arguments = ("--weights", weights, "--steps", "2100", "--copies", "4", "--episodes", "0", "--out", str(out))
    assert f"saved {out}" in run("train_keyqn.py", *arguments, folder=tmp_path)
    assert out.is_file()


def test_explore_options(weights: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = OptionNetworkConfig(image_size=36, filters=(4, 4, 4), embedding=8, hidden=8)
    OptionAgent(OptionNetwork(2, 18, small), 20).save(tmp_path / "agent.safetensors")
    shutil.copy(weights, tmp_path / "perception.safetensors")
    printed = run("explore_options.py", "--run", ".", "--episodes", "1", "--steps", "64", folder=tmp_path)
    assert re.search(r"^game 1: score 0 in \d+ interactions$", printed, re.MULTILINE)
    assert "PPO learned from 64 options" in printed


def test_find_keyframes(tmp_path: Path) -> None:
    few = ("--sequences", "60", "--interpolator-steps", "2", "--steps", "2")
    printed = run("find_keyframes.py", *few, "--out", "run", folder=tmp_path)
    for name in ("inferred", "searched", "constant", "random"):
        assert re.search(rf"^{name}: F1 \d\.\d\d, \d\.\d\d within one frame$", printed, re.MULTILINE)
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_every_script_runs_in_a_test_of_its_own() -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {script.stem for script in SCRIPTS.glob("*.py")} <= tested
