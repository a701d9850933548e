"""Pretraining on squares that move over a still picture: batches, weights and figures worked slowly, and whole runs."""

from __future__ import annotations

import itertools
import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kpagent
from kpagent.errors import UsageError
from kpagent.files import load_tensors, save_tensors, write_json
from kpagent.perception.conditional import ConditionalConfig, ConditionalGenerator
from kpagent.perception.detector import KeypointDetector
from kpagent.perception.landmarks import LandmarkAutoencoder, LandmarkConfig
from kpagent.perception.methods import load_for_training
from kpagent.perception.pretraining import (
    STILL,
    TOGETHER,
    Evaluation,
    PairBatches,
    PretrainingConfig,
    Report,
    copy_loss,
    evaluate,
    pixel_weights,
    pretrain,
    spread,
    training_pairs,
)
from kpagent.perception.pruning import prune, reconstruction_loss
from kpagent.perception.reconstructor import Reconstructor
from kpagent.perception.revival import revive
from kpagent.perception.transporter import Transporter, TransporterConfig
from kpagent.training import TrainingConfig

SIZE, SIDE = 32, 4
SHAPE = TransporterConfig.fast(2, image_size=SIZE, patch=1, filters=(8, 16), strides=(1, 2))
TINY = TransporterConfig.fast(2, image_size=16, patch=2, filters=(4, 4), strides=(1, 1))
TRAINING = TrainingConfig(steps=200, batch_size=16, anneal=True, precision="float32")
CONFIG = PretrainingConfig(training=TRAINING, held_out=100, evaluate_every=50)
SHORT = PretrainingConfig(
    training=replace(TRAINING, steps=30, batch_size=4, checkpoint_every_s=0), held_out=6, evaluate_every=7, revive_every=4
)


@dataclass(frozen=True)
class Squares:
    """A square at random places over a still picture of noise; `xy` are its true centres in the targets."""

    source: np.ndarray
    target: np.ndarray
    xy: np.ndarray


def squares(count: int, seed: int = 1, size: int = SIZE) -> Squares:
    rng = np.random.default_rng(seed)
    still = rng.integers(0, 80, (size, size, 3), dtype=np.uint8)
    frames = np.repeat(still[None], 2 * count, axis=0).reshape(2, count, size, size, 3)
    corners = rng.integers(0, size - SIDE + 1, (2, count, 2))
    for frame, (x, y) in zip(frames.reshape(-1, size, size, 3), corners.reshape(-1, 2), strict=True):
        frame[y : y + SIDE, x : x + SIDE] = (230, 200, 60)
    return Squares(frames[0], frames[1], (2 * corners[1] + SIDE) / size - 1)


def new_model(shape: TransporterConfig = SHAPE, seed: int = 0) -> Transporter:
    torch.manual_seed(seed)
    return Transporter(shape)


def run(out: Path, config: PretrainingConfig = SHORT, **options: Any) -> list[Report]:
    model, pairs = options.pop("model", None) or new_model(TINY), options.pop("pairs", None) or squares(60, size=16)
    return list(pretrain(model, pairs, config, out, **options))


def assert_same_file(found: Path, expected: Path) -> None:
    (tensors, header), (wanted, wanted_header) = load_tensors(found), load_tensors(expected)
    assert header == wanted_header
    assert tensors.keys() == wanted.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, wanted[name]), name


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Batches and weights


@pytest.mark.parametrize("tolerance", [0.0, 5.0])
def test_a_batch_is_a_function_of_seed_and_step(tolerance: float) -> None:
    pairs = squares(60)
    config = replace(SHORT, tolerance=tolerance)
    batches, again = PairBatches(pairs, config, SIZE), PairBatches(pairs, config, SIZE)
    forwards, backwards = [batches(step) for step in range(5)], [again(step) for step in reversed(range(5))][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)
        assert one["source"].shape == one["target"].shape == (4, SIZE, SIZE, 3)
        assert one["weight"].shape == (SIZE, SIZE)
    different = [*forwards, PairBatches(pairs, replace(config, training=replace(config.training, seed=1)), SIZE)(0)]
    for one, other in itertools.combinations(different, 2):
        assert not np.array_equal(one["source"], other["source"])


def test_what_a_loss_draws_is_a_function_of_seed_and_step() -> None:
    batches = PairBatches(squares(60), SHORT, SIZE)
    seeds = [batches(0)["seed"], batches(1)["seed"], batches.large(0)["seed"], batches.large(1)["seed"]]
    other = PairBatches(squares(60), replace(SHORT, training=replace(SHORT.training, seed=1)), SIZE)(0)["seed"]
    assert batches(0)["seed"] == seeds[0]
    assert len({*seeds, other}) == 5
    assert "seed" not in batches.held_out()


@settings(max_examples=20)
@given(count=st.integers(6, 3_000), held_out=st.integers(2, 600), seed=st.integers(0, 1_000))
def test_held_out_pairs_are_never_drawn_and_all_others_may_be(count: int, held_out: int, seed: int) -> None:
    numbered = np.broadcast_to(np.arange(count, dtype=np.uint16).view(np.uint8).reshape(count, 1, 1, 2), (count, 16, 16, 2))
    frames = np.concatenate([numbered, np.zeros((count, 16, 16, 1), np.uint8)], axis=-1)
    pairs = Squares(frames, frames, np.zeros((count, 2)))
    config = PretrainingConfig(training=TrainingConfig(batch_size=4, seed=seed), held_out=held_out)

    def numbers(batch: dict[str, Any], name: str) -> np.ndarray:
        low, high, _ = np.moveaxis(batch[name][:, 3, 5].astype(int), -1, 0)
        return low + 256 * high

    kept = min(held_out, max(2, count // 10))
    assert training_pairs(count, config) == count - kept
    batches = PairBatches(pairs, config, 16)
    for name in ("source", "target"):
        assert numbers(batches.held_out(), name).tolist() == list(range(count - kept, count))
    drawn = np.concatenate([numbers(batches(step), "source") for step in range(40)])
    assert drawn.max() < count - kept
    assert all(np.array_equal(numbers(batches(step), "source"), numbers(batches(step), "target")) for step in range(3))
    if count - kept <= 20:
        assert set(drawn.tolist()) == set(range(count - kept))


def test_too_few_pairs_are_refused() -> None:
    assert training_pairs(6, SHORT) == 4
    for total in (0, 1, 5):
        with pytest.raises(UsageError, match=rf"^{total} pairs are too few: [^\n]* a batch is 4$"):
            training_pairs(total, SHORT)
    with pytest.raises(UsageError, match="5 pairs are too few"):
        PairBatches(squares(5), SHORT, SIZE)


def slow_variance(frames: np.ndarray) -> np.ndarray:
    """(S, S): the variance of each pixel over the frames, in mean over the colours, in [0, 1] units."""
    variance = np.zeros(frames.shape[1:3])
    for y, x, colour in itertools.product(*map(range, frames.shape[1:])):
        values = [float(value) / 255 for value in frames[:, y, x, colour]]
        mean = math.fsum(values) / len(values)
        variance[y, x] += math.fsum((value - mean) ** 2 for value in values) / len(values) / 3
    return variance


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_pixel_weights_are_those_of_a_slow_computation(balance: float) -> None:
    frames = squares(40, size=16).target
    variance = slow_variance(frames)
    expected = (variance + variance.mean() / 50) ** -balance
    # So scaled that the weighted variance has the mean of the plain one.
    expected *= variance.sum() / (expected * variance).sum()
    found = pixel_weights(frames, 16, balance).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    np.testing.assert_allclose((found * variance).mean(), variance.mean(), rtol=1e-4)
    if balance == 0:
        np.testing.assert_allclose(found, 1, rtol=1e-5)


def test_pixels_that_seldom_change_weigh_more() -> None:
    frames = np.zeros((100, 16, 16, 3), np.uint8)
    frames[::2, 2, 2] = 255
    frames[7, 9, 9] = 255
    weight = pixel_weights(frames, 16, 0.5)
    assert weight[0, 0] > weight[9, 9] > weight[2, 2] > 0
    assert weight.isfinite().all()


def test_weights_of_frames_that_never_change_are_ones() -> None:
    frames = np.full((10, 16, 16, 3), 77, np.uint8)
    assert torch.equal(pixel_weights(frames, 16, 0.5), torch.ones(16, 16))


def test_weights_have_the_size_of_the_model() -> None:
    frames = squares(20, size=32).target
    assert pixel_weights(frames, 16, 0.5).shape == (16, 16)


@given(total=st.integers(1, 300), count=st.integers(1, 300))
def test_frames_are_spread_evenly(total: int, count: int) -> None:
    chosen = spread(np.arange(total), count)
    assert 1 <= len(chosen) <= count
    assert len(chosen) >= min(total, count) / 2
    assert len(set(np.diff(chosen).tolist())) <= 1


# What held-out pairs say


def test_the_loss_of_copying_is_that_of_a_numpy_computation() -> None:
    pairs = squares(30)
    weight = pixel_weights(pairs.target, SIZE, 0.5)
    error = (pairs.source.astype(np.float64) / 255 - pairs.target.astype(np.float64) / 255) ** 2
    expected = (error.mean(axis=3) * weight.numpy()).mean()
    assert float(copy_loss(pairs.source, pairs.target, weight)) == pytest.approx(expected, rel=1e-5)
    batch = {"source": pairs.source, "target": pairs.target, "weight": weight}
    for chunk in (7, 64):
        assert evaluate(new_model(), batch, chunk=chunk).copy_loss == pytest.approx(expected, rel=1e-5)


def test_loss_and_l2_are_means_over_all_pairs_whatever_the_chunk() -> None:
    pairs = squares(30)
    weight = pixel_weights(pairs.target, SIZE, 0.5)
    batch = {"source": pairs.source, "target": pairs.target, "weight": weight}
    model = new_model()
    found = evaluate(model, batch, chunk=7)
    assert not model.training
    with torch.no_grad():
        target = torch.from_numpy(pairs.target).permute(0, 3, 1, 2).float() / 255
        image, _ = model.reconstruct(torch.from_numpy(pairs.source).permute(0, 3, 1, 2).float() / 255, target)
    error = (image - target).square().mean(dim=1)
    assert found.loss == pytest.approx(float((error * weight).mean()), rel=1e-4)
    assert found.l2 == pytest.approx(float(error.mean()), rel=1e-4)
    assert evaluate(model, batch).loss == pytest.approx(found.loss, rel=1e-4)


class Placed(Transporter):
    """A Transporter whose keypoints on a frame are where the test puts them."""

    places: torch.Tensor

    def encode(self, frames: Any, *, features: bool = True) -> kpagent.Keypoints:
        index = [int(frame[0, 0, 0]) for frame in frames]
        return kpagent.Keypoints(self.places[index], torch.ones(len(index), 4), torch.zeros(len(index), 4, 0))


def test_keypoints_that_stand_still_or_lie_on_each_other_are_told() -> None:
    count = 50
    model = Placed(TransporterConfig.fast(4, image_size=16, patch=2, filters=(4,), strides=(1,)))
    frames = np.zeros((count, 16, 16, 3), np.uint8)
    frames[:, 0, 0, 0] = np.arange(count)
    batch = {"source": frames, "target": frames, "weight": torch.ones(16, 16)}
    wander = torch.rand(count, 2) * 2 - 1
    along_x = torch.stack([torch.linspace(-1, 1, count), torch.full((count,), 0.3)], dim=1)
    nearly_still = torch.tensor([0.5, 0.5]) + 0.5 * STILL * torch.randn(count, 2).clamp(-2, 2)
    beside = wander + torch.tensor([0.9 * TOGETHER, 0.0])
    model.places = torch.stack([wander, nearly_still, along_x, beside], dim=1)
    found = evaluate(model, batch, chunk=16)
    assert found.still == (1,)
    assert found.together == ((0, 3),)
    assert found.warning == "keypoints 1 stand still; keypoints 0 and 3 lie on each other"
    model.places = torch.stack([wander, -wander, along_x, wander + 2 * TOGETHER], dim=1)
    found = evaluate(model, batch)
    assert (found.still, found.together, found.warning) == ((), (), None)


def test_the_warning_is_one_line() -> None:
    assert Evaluation(1, 1, 1, (0, 2), ()).warning == "keypoints 0, 2 stand still"
    assert Evaluation(1, 1, 1, (), ((0, 1), (2, 3))).warning == "keypoints 0 and 1, 2 and 3 lie on each other"


def test_reviving_changes_one_keypoint_or_none() -> None:
    pairs = squares(60)
    batch = PairBatches(pairs, CONFIG, SIZE).large(0)
    models = [new_model(), new_model()]
    before = {name: value.clone() for name, value in models[0].state_dict().items()}
    revived = [revive(model, batch) for model in models]
    assert revived[0] == revived[1]
    assert models[0].training
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[name])
        assert value.isfinite().all()
        if value.shape[:1] == (2,) and name.startswith("keynet."):
            changed = [k for k in range(2) if not torch.equal(value[k], before[name][k])]
            assert changed == ([] if revived[0] is None else [revived[0]])
        else:
            assert torch.equal(value, before[name]), name


# Whole runs


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Report]]:
    out = tmp_path_factory.mktemp("runs") / "squares"
    return out, run(out, CONFIG, model=new_model(), pairs=squares(600), provenance={"env": "squares", "pairs": {"seed": 1}})


def test_a_keypoint_learns_to_follow_what_moves(learned: tuple[Path, list[Report]]) -> None:
    out, reports = learned
    evaluations = {report.step: report.evaluation for report in reports if report.evaluation}
    assert [report.step for report in reports] == list(range(1, 201))
    assert list(evaluations) == [50, 100, 150, 200]
    losses = [report.loss for report in reports if report.loss is not None]
    assert losses[-1] < losses[0] / 2
    last = evaluations[200]
    assert last.loss < 0.5 * last.copy_loss
    pairs = squares(600)
    held_out = slice(-CONFIG.held_out, None)
    # A distance of 0.1 is a pixel and a half.
    xy = kpagent.load(out / "best.safetensors", device="cpu").encode(pairs.target[held_out]).numpy().xy
    distance = np.linalg.norm(xy - pairs.xy[held_out, None], axis=-1).mean(axis=0)
    assert distance.min() < 0.1


def test_a_run_leaves_weights_that_say_where_they_came_from(learned: tuple[Path, list[Report]]) -> None:
    out, reports = learned
    model = kpagent.load(out / "best.safetensors", device="cpu")
    assert model.config == SHAPE
    best = min((report.evaluation for report in reports if report.evaluation), key=lambda evaluation: evaluation.loss)
    about = model.provenance
    assert about["env"] == "squares"
    assert about["pairs"] == {"seed": 1}
    assert about["seed"] == 0
    assert about["steps"] in (50, 100, 150, 200)
    assert about["held_out"] == {"loss": best.loss, "l2": best.l2, "copy_loss": best.copy_loss}
    assert about["versions"] == {"kpagent": kpagent.__version__, "torch": torch.__version__}
    assert about["pretraining"]["training"]["steps"] == 200
    # They are the weights that the figure was measured with.
    again = evaluate(model, PairBatches(squares(600), CONFIG, SIZE).held_out())
    assert again.loss == pytest.approx(best.loss, rel=1e-3)


def test_a_run_leaves_its_settings_and_logs(learned: tuple[Path, list[Report]]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out, reports = learned
    settings = json.loads((out / "config.json").read_text())
    assert TransporterConfig(**settings["model"]) == SHAPE
    assert settings["pretraining"]["training"]["batch_size"] == 16
    assert settings["provenance"] == {"env": "squares", "pairs": {"seed": 1}}
    logs = EventAccumulator(str(out / "logs"))
    logs.Reload()
    assert {"loss/train", "held_out/loss", "held_out/l2", "held_out/copy_loss"} <= set(logs.Tags()["scalars"])
    held_out = [(event.step, event.value) for event in logs.Scalars("held_out/loss")]
    expected = [(report.step, pytest.approx(report.evaluation.loss)) for report in reports if report.evaluation]
    assert held_out == expected
    pictures = logs.Images("held_out/keypoints")
    assert [picture.step for picture in pictures] == [50, 100, 150, 200]
    assert pictures[0].encoded_image_string.startswith(b"\x89PNG")
    assert {path.name for path in out.iterdir()} == {"config.json", "checkpoint.safetensors", "best.safetensors", "logs"}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "uninterrupted"
    run(out)
    return out


def pretrain_and_tell(out: str, after: int) -> None:
    """What the process that is killed does; it waits a little later than where it is to be killed."""
    torch.set_num_threads(1)
    for report in pretrain(new_model(TINY), squares(60, size=16), SHORT, Path(out), resume=True):
        print(report.step, flush=True)
        if report.step == after + 5:
            time.sleep(600)


def test_a_killed_run_leaves_the_files_of_an_uninterrupted_one(tmp_path: Path, uninterrupted: Path) -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_pretraining as test; "
    code += "test.pretrain_and_tell(sys.argv[2], 15)"
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 15:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    reports = run(tmp_path, resume=True)
    assert 15 <= reports[0].step <= 21
    assert reports[-1].step == 30
    for name in ("best.safetensors", "checkpoint.safetensors"):
        assert_same_file(tmp_path / name, uninterrupted / name)


@pytest.mark.parametrize("stop", [4, 7, 21, 29])
def test_a_run_that_is_closed_early_goes_on_where_it_was(tmp_path: Path, uninterrupted: Path, stop: int) -> None:
    config = replace(SHORT, training=replace(SHORT.training, checkpoint_every_s=3600))
    loop = pretrain(new_model(TINY), squares(60, size=16), config, tmp_path)
    for _ in range(stop):
        next(loop)
    loop.close()  # type: ignore[attr-defined]
    assert load_tensors(tmp_path / "checkpoint.safetensors")[1]["step"] == stop
    assert [report.step for report in run(tmp_path, config, resume=True, model=new_model(TINY, seed=9))] == list(
        range(stop + 1, 31)
    )
    (tensors, header), (wanted, expected) = (load_tensors(out / "best.safetensors") for out in (tmp_path, uninterrupted))
    assert header["provenance"]["held_out"] == expected["provenance"]["held_out"]
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    assert_same_file(tmp_path / "checkpoint.safetensors", uninterrupted / "checkpoint.safetensors")


def test_resuming_a_finished_run_changes_nothing(uninterrupted: Path) -> None:
    before = {name: value for name, value in contents(uninterrupted).items() if not name.startswith("logs")}
    assert run(uninterrupted, resume=True) == []
    assert before == {name: value for name, value in contents(uninterrupted).items() if not name.startswith("logs")}


def test_resume_without_a_run_starts_one(tmp_path: Path, uninterrupted: Path) -> None:
    assert len(run(tmp_path, resume=True)) == 30
    assert_same_file(tmp_path / "best.safetensors", uninterrupted / "best.safetensors")


def test_a_run_is_not_written_over(uninterrupted: Path) -> None:
    before = contents(uninterrupted)
    with pytest.raises(UsageError, match=rf"^{uninterrupted} holds a run already; add --resume [^\n]*$"):
        run(uninterrupted)
    assert contents(uninterrupted) == before


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"config": replace(SHORT, balance=0.25)}, "balance 0.5, not 0.25"),
    ({"config": replace(SHORT, training=replace(SHORT.training, steps=31))}, "steps 30, not 31"),
    ({"config": replace(SHORT, training=replace(SHORT.training, seed=1))}, "seed 0, not 1"),
    ({"model": new_model(replace(TINY, num_keypoints=3))}, "num_keypoints 2, not 3"),
    ({"provenance": {"env": "another"}}, "other frame pairs"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_a_run_is_not_resumed_with_other_settings(uninterrupted: Path, change: dict[str, Any], message: str) -> None:
    before = contents(uninterrupted)
    with pytest.raises(UsageError, match=rf"^[^\n]*{message}[^\n]*; resume it as it was started$"):
        run(uninterrupted, resume=True, **change)
    assert contents(uninterrupted) == before


@pytest.mark.parametrize("content", ["{", "[]", "3", "{}", '{"pretraining": 3, "model": {}}', '{"model": {"a": 1}}'])
def test_settings_that_cannot_be_read_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    save_tensors(tmp_path / "checkpoint.safetensors", {}, {})
    with pytest.raises(UsageError, match=rf"^{tmp_path}/config.json does not say how the run was started; [^\n]*$"):
        run(tmp_path, resume=True)
    assert (tmp_path / "config.json").read_text() == content


def test_a_damaged_run_is_refused(tmp_path: Path, uninterrupted: Path) -> None:
    for name in ("checkpoint.safetensors", "best.safetensors"):
        out = tmp_path / name
        out.mkdir()
        for file in ("config.json", "checkpoint.safetensors", "best.safetensors"):
            content = (uninterrupted / file).read_bytes()
            (out / file).write_bytes(content[: len(content) // 2] if file == name else content)
        with pytest.raises(UsageError, match=rf"^{out}/{name} is damaged[^\n]*$"):
            run(out, resume=True)


def test_a_mistake_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UsageError, match="too few"):
        run(out, pairs=squares(5, size=16))
    assert not out.exists()
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UsageError, match=r"^cannot write [^\n]*$"):
        run(tmp_path / "file" / "run")
    assert contents(tmp_path) == {"file": b"no folder"}


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(tmp_path: Path, uninterrupted: Path) -> None:
    write_json(tmp_path / "config.json", json.loads((uninterrupted / "config.json").read_text()))
    run(tmp_path)
    assert_same_file(tmp_path / "best.safetensors", uninterrupted / "best.safetensors")


# Other methods


def other_model(method: str, keypoints: int = 2, seed: int = 0) -> KeypointDetector:
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"image_size": 16, "patch": 2, "filters": (4, 4), "strides": (1, 1)}
    if method == "zhang":
        return LandmarkAutoencoder(LandmarkConfig.fast(keypoints, **shape))
    return ConditionalGenerator(ConditionalConfig.fast(keypoints, **shape))


def stopped_and_resumed(out: Path, make: Any, config: PretrainingConfig, stop: int) -> list[Report]:
    """What the second of two processes reports."""
    long = replace(config, training=replace(config.training, checkpoint_every_s=3600))
    loop = pretrain(make(0), squares(60, size=16), long, out)
    for _ in range(stop):
        next(loop)
    loop.close()  # type: ignore[attr-defined]
    return run(out, long, resume=True, model=make(9))


@pytest.mark.parametrize("method", ["jakab", "zhang"])
def test_every_method_goes_on_where_it_was(tmp_path: Path, method: str) -> None:
    reports = run(tmp_path / "whole", model=other_model(method))
    assert [report.step for report in reports] == list(range(1, 31))
    later = stopped_and_resumed(tmp_path / "parts", lambda seed: other_model(method, seed=seed), SHORT, 14)
    assert [report.step for report in later] == list(range(15, 31))
    assert_same_file(tmp_path / "parts" / "checkpoint.safetensors", tmp_path / "whole" / "checkpoint.safetensors")
    best, expected = (load_tensors(tmp_path / name / "best.safetensors") for name in ("parts", "whole"))
    assert best[1]["provenance"]["held_out"] == expected[1]["provenance"]["held_out"]
    assert all(torch.equal(best[0][name], expected[0][name]) for name in expected[0])
    assert kpagent.load(tmp_path / "whole" / "best.safetensors", device="cpu").kind == method


def test_a_run_is_not_resumed_with_another_method(tmp_path: Path, uninterrupted: Path) -> None:
    run(tmp_path, model=other_model("jakab"))
    with pytest.raises(UsageError, match=r"^[^\n]*; resume it as it was started$"):
        run(tmp_path, model=new_model(TINY), resume=True)
    with pytest.raises(UsageError, match=r"has method transporter, not jakab; resume it as it was started$"):
        run(uninterrupted, model=other_model("jakab"), resume=True)


# Spare keypoints


SPARE = replace(SHORT, spare=2)
MORE = replace(TINY, num_keypoints=4)


def spare_model(method: str, seed: int = 0) -> KeypointDetector:
    return new_model(MORE, seed) if method == "transporter" else other_model(method, 4, seed)


@pytest.fixture(scope="module", params=["transporter", "jakab"])
def pruned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, list[Report]]:
    out = tmp_path_factory.mktemp("spare") / request.param
    return request.param, out, run(out, SPARE, model=spare_model(request.param))


def test_spare_keypoints_are_dropped_from_the_best_weights_alone(pruned: tuple[str, Path, list[Report]]) -> None:
    _, out, reports = pruned
    best = kpagent.load(out / "best.safetensors", device="cpu")
    assert best.num_keypoints == 2
    checkpoint, _ = load_tensors(out / "checkpoint.safetensors")
    assert checkpoint["model.keynet.1.weight"].shape[0] == 4
    assert [report.step for report in reports] == [*range(1, 31), 30]
    assert all(not report.dropped for report in reports[:-1])
    last = reports[-1]
    assert last.evaluation is not None
    assert len(set(last.dropped)) == 2
    assert best.provenance["dropped"] == list(last.dropped)
    assert best.provenance["pretraining"]["spare"] == 2
    held_out = PairBatches(squares(60, size=16), SPARE, 16).held_out()
    assert evaluate(best, held_out).loss == pytest.approx(last.evaluation.loss, rel=1e-5)
    assert best.provenance["held_out"]["loss"] == last.evaluation.loss


def test_what_is_kept_is_the_best_of_the_run_pruned(pruned: tuple[str, Path, list[Report]], tmp_path: Path) -> None:
    """The same run, with nothing to drop, leaves the weights that pruning began with."""
    method, out, reports = pruned
    run(tmp_path, SHORT, model=spare_model(method))
    whole = kpagent.load(tmp_path / "best.safetensors", device="cpu")
    assert isinstance(whole, Reconstructor)
    held_out = PairBatches(squares(60, size=16), SPARE, 16).held_out()
    expected = prune(whole, held_out, 2).state_dict()
    found, _ = load_tensors(out / "best.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    last = reports[-1].evaluation
    assert last is not None
    assert last.loss == pytest.approx(reconstruction_loss(whole, held_out, reports[-1].dropped), rel=1e-5)


# At 30 all steps are done and nothing is dropped yet.
@pytest.mark.parametrize("stop", [14, 30])
def test_a_run_with_spare_keypoints_goes_on_where_it_was(
    pruned: tuple[str, Path, list[Report]], tmp_path: Path, stop: int
) -> None:
    method, out, _ = pruned
    later = stopped_and_resumed(tmp_path, lambda seed: spare_model(method, seed), SPARE, stop)
    assert [report.step for report in later] == [*range(stop + 1, 31), 30]
    assert_same_file(tmp_path / "checkpoint.safetensors", out / "checkpoint.safetensors")
    (best, header), (expected, wanted) = (load_tensors(folder / "best.safetensors") for folder in (tmp_path, out))
    assert all(torch.equal(best[name], expected[name]) for name in expected)
    for name in ("held_out", "dropped", "steps"):
        assert header["provenance"][name] == wanted["provenance"][name]


def test_resuming_a_finished_run_drops_no_more(pruned: tuple[str, Path, list[Report]]) -> None:
    method, out, _ = pruned
    before = {name: value for name, value in contents(out).items() if not name.startswith("logs")}
    assert run(out, SPARE, resume=True, model=spare_model(method, seed=9)) == []
    assert before == {name: value for name, value in contents(out).items() if not name.startswith("logs")}


def test_spare_keypoints_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^spare must be 0 for zhang, which cannot paint a frame without [^\n]*$"):
        run(tmp_path / "run", SPARE, model=other_model("zhang", 4))
    with pytest.raises(UsageError, match=r"^no keypoint would be left: 2 in all, 2 to spare$"):
        run(tmp_path / "run", SPARE, model=new_model(TINY))
    assert not (tmp_path / "run").exists()


# Going on from weights


@pytest.mark.parametrize("inference_only", [False, True])
def test_training_goes_on_from_weights(learned: tuple[Path, list[Report]], tmp_path: Path, inference_only: bool) -> None:
    out, reports = learned
    weights = tmp_path / "weights.safetensors"
    kpagent.load(out / "best.safetensors", device="cpu").save(weights, inference_only=inference_only)
    config = replace(CONFIG, training=replace(TRAINING, steps=20, batch_size=8))
    later = run(tmp_path / "run", config, model=load_for_training(weights), pairs=squares(600, seed=2))
    begun = next(report.evaluation for report in reports if report.evaluation)
    found = later[-1].evaluation
    assert begun is not None
    assert found is not None
    # Twenty steps of eight pairs do more than the first fifty of sixteen did.
    assert found.loss < begun.loss


@pytest.mark.parametrize(
    "wrong",
    [{"balance": -0.1}, {"balance": 1.5}, {"tolerance": -1}, {"held_out": 1}, {"evaluate_every": 0}, {"spare": -1}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]*must be [^\n]*$"):
        PretrainingConfig(**wrong)


def test_the_paper_preset_is_appendix_a() -> None:
    paper = PretrainingConfig.paper()
    assert (paper.balance, paper.tolerance, paper.revive_every) == (0, 0, 0)
    training = paper.training
    assert (training.steps, training.batch_size, training.learning_rate) == (1_000_000, 64, 1e-3)
    assert (training.decay, training.decay_every, training.anneal) == (0.95, 100_000, False)
    assert PretrainingConfig.paper(balance=0.5).balance == 0.5
    assert PretrainingConfig.fast() == PretrainingConfig()
