"""Learning on small squares that walk: batches, held-out figures worked slowly, whole runs, killed and taken up again."""

from __future__ import annotations

import itertools
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kpagent.collect.sequence_making import FrameSequence, Provenance, write_sequences
from kpagent.collect.sequences import Sequences
from kpagent.dynamics.configuration import CodeConfig, DynamicsConfig, StructVRNNConfig
from kpagent.dynamics.frame_code import KeypointCode
from kpagent.dynamics.learning import BEST, MODEL, LearningConfig, Report, holds_run, learn
from kpagent.dynamics.learning_batches import CodeBatches, EncodedSequences, FrameBatches
from kpagent.dynamics.learning_evaluation import PAINTED, SAMPLES, HeldOut
from kpagent.dynamics.motion_start import MotionStart, MotionStartConfig, start_frames
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.errors import UsageError
from kpagent.files import load_tensors
from kpagent.training import TrainingConfig

SIZE, SIDE = 16, 4
CODE = CodeConfig(2, image_size=SIZE, filters=(4, 6), normalization="batch", location="softmax", extra_layers=0)
DYNAMICS = DynamicsConfig(
    observed=3, predicted=2, samples=4, latent=2, prior_units=4, posterior_units=6, rnn_units=8, actions=2
)
CONFIG = StructVRNNConfig(CODE, DYNAMICS)
PLAIN = StructVRNNConfig(CODE, replace(DYNAMICS, actions=0))
TRAINING = TrainingConfig(steps=12, batch_size=3, precision="float32", checkpoint_every_s=0, anneal=True)
START = MotionStartConfig(steps=4, batch_size=3, sequences=6)
SHORT = LearningConfig(START, code=TRAINING, dynamics=TRAINING, code_length=4, held_out=0.3, evaluate_every=5)
JOINT = replace(SHORT, joint=True)
FILES = {
    "two stages": ("checkpoint-code.safetensors", "checkpoint-dynamics.safetensors", MODEL, BEST),
    "at once": ("checkpoint.safetensors", MODEL, BEST),
}


class Walks:
    """A square that is pushed by its actions, over noise; sequences of many lengths. Frames are numbered by one pixel."""

    def __init__(self, count: int, lengths: tuple[int, ...], *, actions: bool = True, truth: bool = True) -> None:
        self.count, self.lengths, self.has_actions, self.has_truth = count, lengths, actions, truth

    @property
    def provenance(self) -> Provenance:
        return Provenance("test", "walks", {"lengths": list(self.lengths)}, 0, ("square",) if self.has_truth else ())

    def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
        for number in range(start, stop):
            rng = np.random.default_rng((1, number))
            length = self.lengths[number % len(self.lengths)]
            frames = np.repeat(rng.integers(0, 60, (1, SIZE, SIZE, 3), dtype=np.uint8), length, axis=0)
            corner = rng.integers(0, SIZE - SIDE + 1, 2)
            actions, truth = rng.integers(-2, 3, (length, 2)), []
            for t, frame in enumerate(frames):
                frame[corner[1] : corner[1] + SIDE, corner[0] : corner[0] + SIDE] = (230, 200, 60)
                frame[0, 0] = (number, t, 0)
                truth.append((2 * corner + SIDE) / SIZE - 1)
                corner = np.clip(corner + actions[t], 0, SIZE - SIDE)
            places = np.array(truth, np.float32)[:, None] if self.has_truth else None
            yield FrameSequence(frames, actions.astype(np.float32) if self.has_actions else None, truth=places)


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("walks") / "walks.h5"
    write_sequences(path, Walks(20, (7, 9, 5, 4, 12)))
    return path


@pytest.fixture
def sequences(walks: Path) -> Sequences:
    return Sequences(walks)


def new_model(config: StructVRNNConfig = CONFIG, seed: int = 0) -> StructVRNN:
    torch.manual_seed(seed)
    return StructVRNN(config)


def written(path: Path, count: int, lengths: tuple[int, ...], **parts: bool) -> Sequences:
    write_sequences(path, Walks(count, lengths, **parts))
    return Sequences(path)


def numbers(frames: np.ndarray) -> np.ndarray:
    """(..., 2): the number of the sequence and of the frame in it, as the first pixel tells."""
    return frames[..., 0, 0, :2].astype(int)


def assert_same_file(found: Path, expected: Path) -> None:
    (tensors, header), (wanted, wanted_header) = load_tensors(found), load_tensors(expected)
    assert header == wanted_header
    assert tensors.keys() == wanted.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, wanted[name]), name


# Configurations


def test_the_presets_are_what_they_say() -> None:
    paper, fast = LearningConfig.paper(), LearningConfig.fast()
    assert paper.joint
    assert not fast.joint
    assert (paper.code.steps, paper.code.batch_size, paper.code.learning_rate) == (100_000, 32, 1e-3)
    assert (paper.code.decay, paper.code.decay_every, paper.code.anneal) == (0.5, 30_000, False)
    assert (fast.code.steps, fast.code.batch_size, fast.code.learning_rate, fast.code_length) == (4_000, 8, 1e-3, 8)
    assert (fast.dynamics.steps, fast.dynamics.batch_size, fast.dynamics.learning_rate) == (10_000, 32, 1e-3)
    assert fast.code.anneal
    assert fast.dynamics.anneal


@pytest.mark.parametrize(
    "wrong", [{"code_length": 1}, {"held_out": 0.0}, {"held_out": 1.0}, {"mix": 1.5}, {"evaluate_every": 0}]
)
def test_configurations_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        LearningConfig(**wrong)
    with pytest.raises(UsageError, match="mix must be 0 where all is learned at once"):
        LearningConfig(joint=True, mix=0.5)


# Batches


def test_frame_batches_are_a_function_of_seed_and_step(sequences: Sequences) -> None:
    batches = FrameBatches(sequences, 5, TRAINING, CONFIG)
    forwards, backwards = [batches(step) for step in range(4)], [batches(step) for step in reversed(range(4))][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert set(one) == {"frames", "actions", "progress", "seed"}
        assert all(np.array_equal(one[name], other[name]) for name in one)
    different = [*forwards, FrameBatches(sequences, 5, replace(TRAINING, seed=1), CONFIG)(0)]
    for one, other in itertools.combinations(different, 2):
        assert not np.array_equal(one["frames"], other["frames"])
        assert one["seed"] != other["seed"]
    assert [batch["progress"] for batch in forwards] == [0, 1 / 12, 2 / 12, 3 / 12]


def test_mixed_batches_are_of_frames_from_anywhere(sequences: Sequences) -> None:
    batches = FrameBatches(sequences, 5, TRAINING, CONFIG, mix=1.0)
    one, again, next_one = batches(3), batches(3), batches(4)
    assert one["frames"].shape == (3, 5, SIZE, SIZE, 3)
    assert np.array_equal(one["frames"], again["frames"])
    assert not np.array_equal(one["frames"], next_one["frames"])
    assert all(len(set(row)) > 1 for row in numbers(one["frames"])[..., 0].tolist())


def test_what_stands_still_in_each_sequence_gets_keypoints_where_they_are_mixed(tmp_path: Path) -> None:
    """Of a square that moves and one that differs between sequences alone, the start sees both only of mixed frames."""
    still, moving = (40, 220, 60), (230, 40, 40)
    frames = np.zeros((12, 8, 16, 16, 3), np.uint8)
    for number, t in np.ndindex(12, 8):
        frames[number, t, number : number + 4, 10:14] = still
        frames[number, t, t : t + 4, 2:6] = moving

    class Squares:
        count, provenance = len(frames), Provenance("test", "squares", {}, 0)

        def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
            yield from (FrameSequence(one) for one in frames[start:stop])

    path = tmp_path / "squares.h5"
    write_sequences(path, Squares())
    model = new_model(replace(CONFIG, code=replace(CODE, num_keypoints=2)))
    assert isinstance(model.code, KeypointCode)
    found = {}
    for mix in (0.0, 1.0):
        given = start_frames(Sequences(path), START, seed=0, mix=mix)
        colors = MotionStart(model.code, given, START).colors
        found[mix] = [
            bool((colors - torch.tensor(color) / 255).abs().amax(dim=1).lt(0.05).any()) for color in (moving, still)
        ]
    assert found == {0.0: [True, False], 1.0: [True, True]}


def test_a_batch_has_what_the_model_uses(sequences: Sequences) -> None:
    supervised = replace(PLAIN, code=replace(CODE, supervision=1.0))
    batch = FrameBatches(sequences, 5, TRAINING, supervised)(0)
    assert set(batch) == {"frames", "truth", "progress", "seed"}
    assert batch["truth"].shape == (3, 5, 1, 2)


def test_encoded_sequences_hold_the_code_of_every_frame_beside_its_action(sequences: Sequences) -> None:
    model = new_model().eval()
    encoded = EncodedSequences(sequences, model)
    assert list(encoded.encode())[-1] == sequences.num_frames == sum((7, 9, 5, 4, 12)) * 4
    row = 0
    for number, (length,) in enumerate(zip(sequences.lengths, strict=True)):
        whole = sequences.stretch(number, 0, int(length))
        assert numbers(whole["frames"]).tolist() == [[number, t] for t in range(length)]
        codes = torch.cat([model.code.read(model.code.to_images(frame[None, None])[0]) for frame in whole["frames"]])
        torch.testing.assert_close(encoded.codes[row : row + length], codes, atol=1e-5, rtol=1e-4)
        assert encoded.actions is not None
        assert torch.equal(encoded.actions[row : row + length], torch.from_numpy(whole["actions"]))
        row += int(length)


def test_code_windows_are_those_of_frames(sequences: Sequences) -> None:
    """Codes that say which frame they are of are drawn as `Sequences.windows` draws frames."""
    encoded = EncodedSequences(sequences, new_model())
    row = 0
    for number, length in enumerate(sequences.lengths):
        for t in range(length):
            encoded.codes[row] = torch.tensor([number, t, 0, 0, 0, 0])
            row += 1
    codes = encoded.windows(400, 5, np.random.default_rng(3))["codes"]
    frames = sequences.windows(400, 5, np.random.default_rng(3))["frames"]
    assert np.array_equal(codes[..., :2].numpy(), numbers(frames))


def test_code_batches_are_a_function_of_seed_and_step(sequences: Sequences) -> None:
    encoded = EncodedSequences(sequences, new_model().eval())
    list(encoded.encode())
    batches = CodeBatches(encoded, 5, TRAINING)
    first, again, other = batches(2), batches(2), batches(3)
    assert torch.equal(first["codes"], again["codes"])
    assert torch.equal(first["actions"], again["actions"])
    assert first["codes"].shape == (3, 5, 6)
    assert first["actions"].shape == (3, 5, 2)
    assert (first["progress"], first["seed"]) == (again["progress"], again["seed"])
    assert not torch.equal(first["codes"], other["codes"])


# Held-out figures


def test_held_out_figures_are_those_of_a_slow_computation(sequences: Sequences) -> None:
    held_out, model = HeldOut(sequences, CONFIG), new_model()
    model.train()
    found = held_out.image_figures(model)
    assert not model.training
    frames = held_out.frames[:PAINTED].astype(np.float64) / 255
    painted = model.render(held_out.frames[:PAINTED, 0], model.encode_sequence(held_out.frames[:PAINTED])) / 255.0
    assert found.copy_l2 == pytest.approx(((frames[:, 1:] - frames[:, :1]) ** 2).mean(), rel=1e-4)
    # `render` rounds to bytes and clips.
    assert found.l2 == pytest.approx(((frames[:, 1:] - painted[:, 1:]) ** 2).mean(), rel=0.1)
    with torch.no_grad():
        loss, _ = model.code.loss({"frames": held_out.frames[:PAINTED]})
    assert found.loss == pytest.approx(float(loss), rel=1e-4)


def test_code_errors_are_those_of_the_best_future_and_of_the_last_code(sequences: Sequences) -> None:
    held_out, model = HeldOut(sequences, CONFIG), new_model()
    codes = held_out.codes(model)
    found = held_out.future_figures(model, codes)
    belief, _ = model.observe(codes[:, :3], held_out.actions[:, :3])
    futures = model.imagine(belief, 2, samples=SAMPLES, actions=held_out.actions[:, 2:4], seed=0).numpy()
    came, last = codes[:, 3:].numpy(), codes[:, 2].numpy()
    nearest, constant = np.zeros(2), np.zeros(2)
    for index in range(len(came)):
        each = [((future - came[index]) ** 2).mean(axis=-1) for future in futures[index]]
        nearest += min(each, key=lambda error: float(error.mean())) / len(came)
        constant += ((last[index] - came[index]) ** 2).mean(axis=-1) / len(came)
    assert found.errors == pytest.approx(np.sqrt(nearest).tolist(), rel=1e-4)
    assert found.constant_errors == pytest.approx(np.sqrt(constant).tolist(), rel=1e-4)


# Whole runs


def run(out: Path, path: Path, config: LearningConfig = SHORT, **options: Any) -> list[Report]:
    model = options.pop("model", None) or new_model()
    return list(learn(model, Sequences(path), config, out, **options))


@pytest.fixture(scope="module", params=FILES)
def uninterrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, walks: Path) -> tuple[str, Path]:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run")
    run(out, walks, SHORT if request.param == "two stages" else JOINT, provenance={"made_by": "test"})
    return request.param, out


def test_a_run_reports_every_step_of_its_stages(tmp_path: Path, walks: Path) -> None:
    reports = run(tmp_path, walks)
    stages = {name: list(those) for name, those in itertools.groupby(reports, key=lambda report: report.stage)}
    assert list(stages) == ["start", "code", "encoding", "dynamics"]
    assert [report.step for report in stages["start"]] == [1, 2, 3, 4]
    assert [report.step for report in stages["code"]] == [report.step for report in stages["dynamics"]] == [*range(1, 13)]
    assert stages["encoding"][-1].step == stages["encoding"][-1].steps
    for stage in ("code", "dynamics"):
        evaluated = {report.step: report.evaluation for report in stages[stage] if report.evaluation}
        assert list(evaluated) == [5, 10, 12]
        assert all((figures.future is None) == (stage == "code") for figures in evaluated.values())
    assert stages["dynamics"][-1].evaluation is not None
    assert stages["code"][-1].evaluation is not None
    # The code does not change while its dynamics are learned.
    assert stages["dynamics"][-1].evaluation.image == stages["code"][-1].evaluation.image


def test_a_run_leaves_models_settings_and_logs(uninterrupted: tuple[str, Path], walks: Path) -> None:
    kind, out = uninterrupted
    found = {path.name for path in out.iterdir()}
    assert found == {"config.json", "logs", *FILES[kind]}
    model, best = StructVRNN.load(out / MODEL), StructVRNN.load(out / BEST)
    assert model.config == best.config == CONFIG
    about = model.provenance
    assert about["made_by"] == "test"
    assert about["data"] == {
        "source": "test", "name": "walks", "seed": 0, "sequences": 20, "digest": Sequences(walks).digest
    }  # fmt: skip
    assert (about["steps"], about["seed"]) == (12, 0)
    assert best.provenance["held_out"]["loss"] <= about["held_out"]["loss"]
    assert len(about["held_out"]["code_errors"]) == len(about["held_out"]["constant_errors"]) == 2
    assert json.loads((out / "config.json").read_text())["learning"]["joint"] == (kind == "at once")


def test_logs_hold_scalars_pictures_and_films(uninterrupted: tuple[str, Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    kind, out = uninterrupted
    events = EventAccumulator(str(out / "logs"), size_guidance={"images": 0})
    events.Reload()
    scalars, images = set(events.Tags()["scalars"]), set(events.Tags()["images"])
    last, code = ("dynamics", "code") if kind == "two stages" else ("joint", "joint")
    assert {f"{last}_code_error/01", f"{last}_constant_error/02", f"{last}/kl", f"{code}/l2"} <= scalars
    assert {f"{code}_held_out/share_of_copying", f"{last}_held_out/loss"} <= scalars
    assert {f"{code}/keypoints", f"{last}/film"} <= images
    films = [event.encoded_image_string for event in events.Images(f"{last}/film")]
    assert [film[:6] for film in films] == [b"GIF89a"] * 3


def test_in_two_stages_dynamics_do_not_touch_the_code(tmp_path: Path, walks: Path) -> None:
    run(tmp_path, walks)
    code, _ = load_tensors(tmp_path / "checkpoint-code.safetensors")
    whole, _ = load_tensors(tmp_path / MODEL)
    for name, value in code.items():
        if name.startswith("model."):
            assert torch.equal(value, whole[f"code.{name.removeprefix('model.')}"]), name


def test_learning_lowers_both_losses(tmp_path: Path, walks: Path) -> None:
    longer = replace(TRAINING, steps=60, batch_size=8, learning_rate=3e-3)
    reports = run(tmp_path, walks, replace(SHORT, code=longer, dynamics=longer, evaluate_every=20), model=new_model(PLAIN))
    for stage in ("code", "dynamics"):
        seen = [report.evaluation.loss for report in reports if report.stage == stage and report.evaluation]
        assert seen[-1] < 0.9 * seen[0]


@pytest.mark.parametrize("config", [SHORT, JOINT], ids=["two stages", "at once"])
def test_a_supervised_vector_and_a_deterministic_model_are_learned(
    tmp_path: Path, walks: Path, config: LearningConfig
) -> None:
    shape = StructVRNNConfig(replace(CODE, kind="vector", supervision=10.0), replace(DYNAMICS, stochastic=False, actions=0))
    reports = run(tmp_path, walks, config, model=new_model(shape))
    assert reports[-1].evaluation is not None
    assert math.isfinite(reports[-1].evaluation.loss)


# Interrupted, killed, resumed


def learn_and_tell(out: str, path: str, joint: str, stop: str) -> None:
    """What the process that is killed does; it waits a little later than where it is to be killed."""
    torch.set_num_threads(1)
    stage, step = stop.split(":")
    reports = learn(
        new_model(), Sequences(path), JOINT if joint == "at once" else SHORT, Path(out),
        provenance={"made_by": "test"}, resume=True,
    )  # fmt: skip
    waiting = None
    for report in reports:
        if (report.stage, report.step) == (stage, int(step)):
            print("now", flush=True)
            waiting = 2
        elif waiting:
            waiting -= 1
        if waiting == 0:
            time.sleep(600)


@pytest.mark.parametrize("stop", ["encoding", "dynamics:5"])
def test_a_killed_run_leaves_the_files_of_an_uninterrupted_one(
    tmp_path: Path, uninterrupted: tuple[str, Path], walks: Path, stop: str
) -> None:
    kind, expected = uninterrupted
    if kind == "at once":
        if stop != "dynamics:5":
            pytest.skip("has one stage")
        stop = "joint:5"
    if stop == "encoding":
        stop = f"encoding:{int(Sequences(walks).split(0.3)[0].lengths[:2].sum())}"
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_learning as test; test.learn_and_tell(*sys.argv[2:])"
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path), str(walks), kind, stop]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / MODEL).exists()
    config = JOINT if kind == "at once" else SHORT
    reports = run(tmp_path, walks, config, provenance={"made_by": "test"}, resume=True)
    assert reports[-1].step == 12
    for name in FILES[kind]:
        assert_same_file(tmp_path / name, expected / name)


def test_a_run_that_is_closed_early_goes_on_where_it_was(
    tmp_path: Path, uninterrupted: tuple[str, Path], walks: Path
) -> None:
    kind, expected = uninterrupted
    config = JOINT if kind == "at once" else SHORT
    about = {"made_by": "test"}
    # In the start, after three steps of what comes next, and after four more.
    for stop in (2, START.steps + 3, 4):
        loop = learn(new_model(), Sequences(walks), config, tmp_path, provenance=about, resume=True)
        for _ in range(stop):
            next(loop)
        loop.close()  # type: ignore[attr-defined]
    first = FILES[kind][0]
    assert load_tensors(tmp_path / first)[1]["step"] == 7
    run(tmp_path, walks, config, provenance=about, resume=True)
    for name in FILES[kind]:
        assert_same_file(tmp_path / name, expected / name)


def test_resuming_a_finished_run_changes_nothing(uninterrupted: tuple[str, Path], walks: Path) -> None:
    kind, out = uninterrupted
    before = {name: (out / name).read_bytes() for name in FILES[kind]}
    config = JOINT if kind == "at once" else SHORT
    assert run(out, walks, config, provenance={"made_by": "test"}, resume=True, model=new_model(seed=5)) == []
    assert {name: (out / name).read_bytes() for name in FILES[kind]} == before


# What is refused before any work


def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(
    tmp_path: Path, uninterrupted: tuple[str, Path], walks: Path
) -> None:
    kind, out = uninterrupted
    config = JOINT if kind == "at once" else SHORT
    assert holds_run(out)
    about = {"made_by": "test"}
    with pytest.raises(UsageError, match="holds a run already; add --resume"):
        learn(new_model(), Sequences(walks), config, out, provenance=about)
    others: list[tuple[StructVRNN, LearningConfig, Sequences, str]] = [
        (new_model(), replace(config, held_out=0.4), Sequences(walks), "learning.held_out 0.3, not 0.4"),
        (new_model(PLAIN), config, Sequences(walks), "model.dynamics.actions 2, not 0"),
        (new_model(), config, written(tmp_path / "other.h5", 20, (7, 9)), "provenance.data.digest"),
    ]
    for model, other, data, message in others:
        with pytest.raises(UsageError, match=message):
            learn(model, data, other, out, provenance=about, resume=True)
    (tmp_path / MODEL).touch()
    with pytest.raises(UsageError, match="does not say how the run was started"):
        learn(new_model(), Sequences(walks), config, tmp_path, provenance=about, resume=True)


def refused(out: Path, data: Sequences, message: str, config: StructVRNNConfig = CONFIG) -> None:
    with pytest.raises(UsageError, match=message) as error:
        learn(new_model(config), data, SHORT, out / "run")
    assert "\n" not in str(error.value)
    assert not (out / "run").exists()


def test_data_that_will_not_do_is_refused_before_any_work(tmp_path: Path) -> None:
    refused(tmp_path, written(tmp_path / "a.h5", 9, (4, 3)), r"windows of 5 frames need .* has 4$")
    refused(tmp_path, written(tmp_path / "b.h5", 1, (50,)), "a single sequence cannot be split")
    # The first of two sequences is held out.
    refused(
        tmp_path, written(tmp_path / "c.h5", 2, (3, 12)), "1 are held out, and the longest has 3 frames, where 5 are needed"
    )
    refused(tmp_path, written(tmp_path / "r.h5", 2, (12, 3)), "windows of 5 frames need a sequence of at least 5; .* has 3$")
    bare = written(tmp_path / "d.h5", 9, (6,), actions=False, truth=False)
    refused(tmp_path, bare, "takes actions of 2 numbers, and .*d.h5 has no actions")
    refused(tmp_path, bare, "needs true positions, and .* has none", replace(PLAIN, code=replace(CODE, supervision=1.0)))
    full = written(tmp_path / "e.h5", 9, (6,))
    wide = replace(CONFIG, dynamics=replace(DYNAMICS, actions=3))
    refused(tmp_path, full, "actions of 3 numbers, and .* has actions of 2 numbers", wide)
