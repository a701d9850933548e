"""The zoo: names and paths, what it says to a wrong one, and what every shipped file must be."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kpagent
from kpagent.benchmarks.games import GAMES
from kpagent.benchmarks.tracked_play import record_play
from kpagent.cli import _parse
from kpagent.errors import UsageError
from kpagent.files import read_header
from kpagent.perception import zoo
from kpagent.perception.transporter import Transporter, TransporterConfig

SMALL = TransporterConfig(num_keypoints=2, image_size=16, filters=(4,), strides=(1,))
NAMES = sorted(path.stem for path in zoo.SHIPPED.glob("*.safetensors"))


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo of two models in a folder of its own, with another folder to work in."""
    folder = tmp_path / "weights"
    for index, name in enumerate(("breakout", "pong")):
        Transporter(SMALL, {"env": name, "index": index}).save(folder / f"{name}.safetensors", inference_only=True)
    (folder / "notes.txt").write_text("no weights")
    monkeypatch.setattr(zoo, "SHIPPED", folder)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_names_are_found_wherever_one_works(shelf: Path) -> None:
    assert zoo.find("pong") == shelf / "pong.safetensors"
    assert zoo.load("breakout", device="cpu").provenance == {"env": "breakout", "index": 0}
    assert list(zoo.shipped()) == ["breakout", "pong"]
    assert zoo.shipped()["pong"] == read_header(shelf / "pong.safetensors")


def test_paths_are_found(shelf: Path) -> None:
    shutil.copy(shelf / "pong.safetensors", "mine.safetensors")
    shutil.copy(shelf / "pong.safetensors", "no-suffix")
    for path in (
        "mine.safetensors",
        Path("mine.safetensors"),
        "./mine.safetensors",
        "no-suffix",
        str(shelf / "pong.safetensors"),
    ):
        assert zoo.load(path, device="cpu").provenance["env"] == "pong"


def test_a_file_here_goes_before_a_name_and_a_folder_does_not(shelf: Path) -> None:
    Path("pong").mkdir()
    assert zoo.find("pong") == shelf / "pong.safetensors"
    shutil.copy(shelf / "breakout.safetensors", "breakout")
    assert zoo.find("breakout") == Path("breakout")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pog", "no weights called 'pog' (did you mean pong?); there are breakout, pong, or give the path of a file"),
        ("Pong", "no weights called 'Pong' (did you mean pong?); there are breakout, pong, or give the path of a file"),
        ("qbert", "no weights called 'qbert'; there are breakout, pong, or give the path of a file"),
        ("", "no weights called ''; there are breakout, pong, or give the path of a file"),
        ("pong.safetensors", "no weights file at pong.safetensors"),
        ("runs/pong", "no weights file at runs/pong"),
        (Path("/nowhere/pong"), "no weights file at /nowhere/pong"),
    ],
)
def test_what_is_neither_is_refused_in_one_line(shelf: Path, name: Any, message: str) -> None:
    for look_up in (zoo.find, zoo.load):
        with pytest.raises(UsageError) as refusal:
            look_up(name)
        assert str(refusal.value) == message


def test_an_empty_zoo_says_so(shelf: Path) -> None:
    for path in shelf.iterdir():
        path.unlink()
    assert zoo.shipped() == {}
    with pytest.raises(UsageError, match=r"^no weights called 'pong'; there are none, or give the path of a file$"):
        zoo.find("pong")


def test_a_file_that_is_no_model_is_refused(shelf: Path) -> None:
    Path("mine.safetensors").write_text("no weights")
    with pytest.raises(UsageError, match=r"^mine.safetensors is damaged[^\n]*$"):
        zoo.load("mine.safetensors")


def test_an_unknown_device_is_refused(shelf: Path) -> None:
    with pytest.raises(UsageError, match=r"^no device 'abacus'"):
        zoo.load("pong", device="abacus")


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_are_small_and_hold_what_inference_needs(name: str) -> None:
    path = zoo.find(name)
    header = zoo.shipped()[name]
    assert path.stat().st_size < 5e6
    assert header["inference_only"] is True
    model = kpagent.load(name, device="cpu")
    assert not model.training
    assert model.inference_only
    with pytest.raises(UsageError, match="inference"):
        model.loss({name: np.zeros((2, 84, 84, 3), np.uint8) for name in ("source", "target")})


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_say_where_they_came_from(name: str) -> None:
    about = kpagent.load(name, device="cpu").provenance
    assert {"env", "steps", "seed", "pairs", "versions", "held_out", "pretraining"} <= about.keys()
    assert about["env"] == GAMES[name].env
    assert about["pairs"]["env"] == about["env"]
    assert about["pairs"]["interactions"] > 0
    assert about["versions"].keys() >= {"kpagent", "torch"}
    assert 0 < about["held_out"]["loss"] < about["held_out"]["copy_loss"]


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_give_keypoints_that_move(name: str) -> None:
    model = kpagent.load(name, device="cpu")
    (stretch,) = record_play(model.provenance["env"], 1, 151, seed=0)
    found = model.encode(stretch.frames[::3]).numpy()
    assert found.xy.shape == (51, model.num_keypoints, 2)
    assert np.isfinite(found.xy).all()
    assert (np.abs(found.xy) <= 1).all()
    assert np.isfinite(found.features).all()
    assert (found.xy.std(axis=0).max(axis=-1) > 0.1).sum() >= 2


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_say_how_well_they_track_and_how_to_train_them(name: str) -> None:
    about = kpagent.load(name, device="cpu").provenance
    assert about["tracking"].keys() >= {"precision@200", "recall@200", "switches", "tracked_fraction", "epsilon"}
    assert about["tracking"]["recall@200"] > 0.4
    command = _parse(shlex.split(about["command"].split(" && ")[-1])[1:])
    assert command.env == about["env"]
    assert command.keypoints == kpagent.load(name, device="cpu").num_keypoints
    assert command.steps == about["pretraining"]["training"]["steps"]
    assert command.seed == about["seed"]
