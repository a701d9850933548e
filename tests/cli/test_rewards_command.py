"""`kpagent rewards` as its user meets it: record, train, evaluate, and what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import Command

from kpagent.collect.sequence_making import write_sequences
from kpagent.collect.sequences import Sequences
from kpagent.dynamics.reward_learning import CHECKPOINT, MODEL
from kpagent.dynamics.rewards import RewardPredictor
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.envs.basketball import Basketball, BasketballConfig
from kpagent.files import load_tensors, save_tensors

pytestmark = pytest.mark.usefixtures("short_start")

TASKS = ("dm_control/cartpole-balance-v0", "dm_control/cheetah-run-v0")
TINY = ("--steps", "4", "--evaluate-every", "2", "--futures", "2", "--device", "cpu")


COMMAND = Command()
run, refused = COMMAND.run, COMMAND.refused


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording, a model that takes its actions, and its rewards."""
    folder = tmp_path_factory.mktemp("made")
    data, dynamics = str(folder / "control.h5"), str(folder / "dynamics")
    assert run("rewards", "record", "--env", *TASKS, "--sequences", "10", "--before", "20", "--out", data) == 0
    steps = ("--preset", "control", "--keypoints", "3", "--code-steps", "2", "--steps", "2", "--device", "cpu")
    assert run("dynamics", "train", "--data", data, "--actions", "--out", dynamics, *steps) == 0
    where = ("--dynamics", f"{dynamics}/model.safetensors", "--data", data, "--out", str(folder / "rewards"))
    assert run("rewards", "train", *where, *TINY) == 0
    return folder


def test_a_recording_is_for_training(made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "again.h5"
    again = ("rewards", "record", "--env", *TASKS, "--sequences", "10", "--before", "20", "--out", str(path))
    assert run(*again) == 0
    said, errors = capfd.readouterr()
    # Cheetah's model makes MuJoCo's compiler warn.
    assert errors == ""
    wrote = f"wrote {path}: 20 sequences of 2 environments, 400 frames, actions of 6 numbers, in"
    assert wrote in said
    recorded = Sequences(path)
    assert recorded.digest == Sequences(made / "control.h5").digest
    assert recorded.frame_size == 64
    model = StructVRNN.load(made / "dynamics" / "model.safetensors")
    assert (model.config.dynamics.actions, model.config.dynamics.latent, model.num_keypoints) == (6, 128, 3)
    before = path.stat().st_mtime_ns
    assert run(*again, "--resume") == 0
    assert path.stat().st_mtime_ns == before
    assert "is there already; remove it, or choose another --out" in refused(capsys_of(capfd), *again)


def capsys_of(capfd: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    return capfd


def test_rewards_are_learned_and_measured(made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    predictor = RewardPredictor.load(made / "rewards" / MODEL)
    assert predictor.config.domains == ("cartpole-balance", "cheetah-run")
    where = ("--weights", str(made / "rewards" / MODEL), "--dynamics", str(made / "dynamics" / "model.safetensors"))
    picture = tmp_path / "errors.png"
    assert run("rewards", "eval", *where, "--data", str(made / "control.h5"), "--out", str(picture)) == 0
    said, errors = capfd.readouterr()
    assert errors == ""
    # A fifth of 20 sequences was held out when they were learned.
    assert f"on 4 windows of {made / 'control.h5'}" in said
    for name, each in predictor.provenance["held_out"].items():
        row = next(line for line in said.splitlines() if name in line)
        assert f"{each['observed_share']:.3f}" in row
        assert f"{each['imagined_share']:.3f}" in row
    drawn = cv2.imread(str(picture))
    assert drawn is not None
    assert drawn.std() > 5
    # Of another recording, all counts.
    other = str(tmp_path / "other.h5")
    assert run("rewards", "record", "--env", *TASKS, "--sequences", "3", "--seed", "1", "--out", other) == 0
    assert run("rewards", "eval", *where, "--data", other) == 0
    assert f"on 6 windows of {other}" in capfd.readouterr().out


def test_a_finished_run_is_left_and_an_unfinished_one_taken_up(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--dynamics", str(made / "dynamics" / "model.safetensors"), "--data", str(made / "control.h5"))
    assert "holds a run already; add --resume" in refused(
        capsys, "rewards", "train", *where, "--out", str(made / "rewards"), *TINY
    )
    out = tmp_path / "run"
    assert run("rewards", "train", *where, "--out", str(out), *TINY) == 0
    (out / MODEL).unlink()
    assert run("rewards", "train", *where, "--out", str(out), *TINY, "--resume") == 0
    (found, _), (expected, _) = (load_tensors(folder / MODEL) for folder in (out, made / "rewards"))
    assert all((found[name] == expected[name]).all() for name in expected)
    assert (out / CHECKPOINT).exists()


def test_mistakes_get_one_line(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data, rewards = made / "dynamics" / "model.safetensors", made / "control.h5", made / "rewards" / MODEL
    write_sequences(tmp_path / "game.h5", Basketball(4, 1, BasketballConfig(frames=20)))
    tensors, header = load_tensors(rewards)
    save_tensors(tmp_path / "bare.safetensors", tensors, header | {"provenance": {}})
    out = str(tmp_path / "out")
    mistakes = [
        (("record", "--out", f"{out}.txt"), "out.txt: its name must end in .h5"),
        (("record", "--out", f"{out}.h5", "--env", "CartPole-v1"), "actions in a Discrete space"),
        (("record", "--out", f"{out}.h5", "--env", "dm_control/walker-wal-v0"), "did you mean dm_control/walker-walk-v0"),
        (("record", "--out", f"{out}.h5", "--workers", "0"), "--workers must be at least 1, not 0"),
        (("record", "--out", f"{out}.h5", "--length", "1"), "length must be at least 2; got 1"),
        (("train", "--dynamics", data, "--data", data, "--out", out), "control.h5"),
        (("train", "--dynamics", model, "--data", tmp_path / "game.h5", "--out", out), "game.h5 has no rewards"),
        (("train", "--dynamics", model, "--data", data, "--out", out, "--imagined", "13"), "observed + imagined; got 20"),
        (("train", "--dynamics", model, "--data", data, "--out", out, "--length", "21"), "the longest in"),
        (("train", "--dynamics", model, "--data", data, "--out", out, "--steps", "0"), "steps must be at least 1; got 0"),
        (("eval", "--weights", model, "--dynamics", model, "--data", data), "holds a 'struct_vrnn', not a rewards"),
        (("eval", "--weights", rewards, "--dynamics", made / "dynamics/best.safetensors", "--data", "none.h5"), ""),
        (("eval", "--weights", rewards, "--dynamics", model, "--data", "none.h5"), "no sequences at none.h5"),
        (("eval", "--weights", tmp_path / "bare.safetensors", "--dynamics", model, "--data", data), "does not say how"),
        (("eval", "--weights", rewards, "--dynamics", model, "--data", data, "--out", "a.jpg"), "must end in .png"),
    ]
    for arguments, message in mistakes:
        assert message in refused(capsys, "rewards", *map(str, arguments)), arguments
    assert not Path(out).exists()
    assert np.all([not path.exists() for path in (Path("none.h5"), Path("a.jpg"))])
