"""The training loop: a killed run ends where an uninterrupted one does, and what goes wrong is said and costs nothing."""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kpagent.errors import UsageError
from kpagent.files import load_tensors, save_tensors
from kpagent.training import (
    Progress,
    TrainingConfig,
    describe,
    learning_rate,
    load_checkpoint,
    pick_device,
    prefers_bf16,
    save_checkpoint,
    train,
)

PRECISIONS: tuple[Literal["auto", "bf16", "float32"], ...] = ("auto", "bf16", "float32")
CONFIG = TrainingConfig(steps=60, batch_size=8, learning_rate=0.01, precision="float32", anneal=True, seed=3)


class Net(nn.Module):
    """Convolution, batch normalisation and a linear head: parameters, and statistics that are none."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
        self.layers(torch.zeros(2, 3, 8, 8))

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        found = self.layers(batch["image"])
        loss = (found.float() - batch["wanted"]).square().mean()
        return loss, {"largest": found.detach().abs().max()}


class Slope(nn.Module):
    """A loss whose gradient is 1 everywhere, so that each step of Adam is its learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.place.sum() * batch.get("factor", 1.0), {}


def new_net(width: int = 4) -> Net:
    torch.manual_seed(0)
    return Net(width)


def batches(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    image = torch.rand(8, 3, 8, 8, generator=generator)
    return {"image": image, "wanted": torch.stack([image.mean((1, 2, 3)), image[:, 0, 3, 3]], dim=1)}


def run(model: nn.Module, config: TrainingConfig = CONFIG, **options: Any) -> list[Progress]:
    return list(train(model, options.pop("batches", batches), config, **options))


def steps_of(path: Path) -> int:
    return int(load_tensors(path)[1]["step"])


def assert_same_state(found: nn.Module, expected: nn.Module) -> None:
    wanted = expected.state_dict()
    assert found.state_dict().keys() == wanted.keys()
    for name, value in found.state_dict().items():
        assert torch.equal(value, wanted[name]), name


@pytest.fixture(scope="module")
def uninterrupted() -> Net:
    model = new_net()
    run(model)
    return model


def train_and_tell(checkpoint: str, after: int) -> None:
    """What the process that is killed does; it waits a little later than where it is to be killed."""
    torch.set_num_threads(1)
    for progress in train(new_net(), batches, replace(CONFIG, checkpoint_every_s=0), checkpoint=checkpoint, resume=True):
        print(progress.step, flush=True)
        if progress.step == after + 10:
            time.sleep(600)


def killed_run(checkpoint: Path, after: int) -> None:
    """Kill -9 a training in its own process once it has said `after` steps."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_training as test; "
    code += "test.train_and_tell(sys.argv[2], int(sys.argv[3]))"
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(checkpoint), str(after)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= after:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL


def test_a_killed_run_ends_with_the_parameters_of_an_uninterrupted_one(tmp_path: Path, uninterrupted: Net) -> None:
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    killed_run(checkpoint, after=5)
    first = steps_of(checkpoint)
    killed_run(checkpoint, after=20)
    second = steps_of(checkpoint)
    assert 4 <= first < second < CONFIG.steps
    model = new_net()
    told = run(model, checkpoint=checkpoint, resume=True)
    assert [progress.step for progress in told] == list(range(second + 1, CONFIG.steps + 1))
    assert_same_state(model, uninterrupted)


@pytest.mark.parametrize("stops", [(1,), (59,), (7, 8, 31)])
def test_a_run_that_is_closed_early_is_taken_up_exactly(tmp_path: Path, uninterrupted: Net, stops: tuple[int, ...]) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    for stop in stops:
        with contextlib.closing(train(new_net(), batches, CONFIG, checkpoint=checkpoint, resume=True)) as loop:  # type: ignore[type-var]
            assert next(progress for progress in loop if progress.step == stop)
            before = steps_of(checkpoint) if checkpoint.exists() else 0
            assert before < stop
        assert steps_of(checkpoint) == stop
    # Whatever the parameters of the model that resumes, those of the checkpoint count.
    model = Net()
    run(model, checkpoint=checkpoint, resume=True)
    assert_same_state(model, uninterrupted)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, uninterrupted: Net) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    run(new_net(), checkpoint=checkpoint)
    content = checkpoint.read_bytes()
    model = Net()
    assert run(model, checkpoint=checkpoint, resume=True) == []
    assert_same_state(model, uninterrupted)
    assert checkpoint.read_bytes() == content


def test_without_resume_an_old_checkpoint_is_not_read(tmp_path: Path, uninterrupted: Net) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(b"anything")
    model = new_net()
    run(model, checkpoint=checkpoint)
    assert_same_state(model, uninterrupted)
    assert steps_of(checkpoint) == CONFIG.steps


def test_checkpoints_are_as_far_apart_as_asked_for(tmp_path: Path) -> None:
    rare, often = tmp_path / "rare.safetensors", tmp_path / "often.safetensors"
    seen = []
    for progress in train(new_net(), batches, replace(CONFIG, steps=4, checkpoint_every_s=3600), checkpoint=rare):
        seen.append(rare.exists())
        assert progress.seconds > 0
    assert seen == [False] * 4
    assert steps_of(rare) == 4
    for progress in train(new_net(), batches, replace(CONFIG, steps=4, checkpoint_every_s=0), checkpoint=often):
        assert progress.step == 1 or steps_of(often) == progress.step - 1
    assert steps_of(often) == 4


def test_each_step_asks_for_its_own_batch_once_and_reports_it() -> None:
    asked = []

    def noting(step: int) -> dict[str, Tensor]:
        asked.append(step)
        return batches(step)

    model = new_net()
    expected, metrics = new_net().train().loss(batches(0))
    told = run(model, replace(CONFIG, steps=5), batches=noting)
    assert asked == [0, 1, 2, 3, 4]
    assert [progress.step for progress in told] == [1, 2, 3, 4, 5]
    assert told[0].metrics.keys() == {"loss", "largest"}
    assert float(told[0].metrics["loss"]) == float(expected.detach())
    assert float(told[0].metrics["largest"]) == float(metrics["largest"])
    assert not any(value.requires_grad for progress in told for value in progress.metrics.values())


def test_a_listener_may_put_the_model_into_evaluation_mode(uninterrupted: Net) -> None:
    model = new_net()
    for _ in train(model, batches, CONFIG):
        model.eval()
        model.layers(torch.rand(1, 3, 8, 8))
    assert_same_state(model, uninterrupted)


def test_a_line_is_fitted() -> None:
    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 1)

        def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
            return (self.linear(batch["x"]).squeeze(1) - batch["y"]).square().mean(), {}

    def points(step: int) -> dict[str, Tensor]:
        x = torch.from_numpy(np.random.default_rng(step).normal(size=(32, 3)).astype(np.float32))
        return {"x": x, "y": x @ torch.tensor([2.0, -1.0, 0.5]) + 3}

    model = Line()
    told = run(model, TrainingConfig(steps=400, learning_rate=0.1, anneal=True, precision="float32"), batches=points)
    assert told[-1].metrics["loss"] < 1e-6 < told[0].metrics["loss"]
    torch.testing.assert_close(model.linear.weight.detach(), torch.tensor([[2.0, -1.0, 0.5]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(model.linear.bias.detach(), torch.tensor([3.0]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("settings", "step", "expected"),
    [
        ({}, 0, 1e-3),
        ({}, 99_999, 1e-3),
        ({}, 100_000, 0.95e-3),
        ({}, 250_000, 0.9025e-3),
        ({"decay": 1.0}, 250_000, 1e-3),
        ({"learning_rate": 0.5, "warm_up": 10}, 0, 0.05),
        ({"learning_rate": 0.5, "warm_up": 10}, 9, 0.5),
        ({"learning_rate": 0.5, "warm_up": 10, "steps": 40, "anneal": True}, 20, 0.25),
        ({"learning_rate": 0.5, "decay": 0.1, "decay_every": 10}, 29, 0.005),
        ({"steps": 100, "anneal": True}, 0, 1e-3),
        ({"steps": 100, "anneal": True}, 25, 0.853553390593e-3),
        ({"steps": 100, "anneal": True}, 50, 0.5e-3),
        ({"steps": 100, "anneal": True}, 75, 0.146446609407e-3),
        ({"steps": 100, "anneal": True, "decay": 0.5, "decay_every": 50}, 75, 0.0732233047e-3),
    ],
)
def test_learning_rates_worked_by_hand(settings: dict[str, Any], step: int, expected: float) -> None:
    assert learning_rate(TrainingConfig(**settings), step) == pytest.approx(expected, rel=1e-9)


def test_the_optimiser_follows_the_schedule() -> None:
    config = TrainingConfig(steps=4, learning_rate=0.1, decay=0.5, decay_every=2, anneal=True)
    model = Slope()
    places = [float(model.place.detach()[0]) for _ in train(model, lambda step: {}, config)]
    # 0.1 · (1, 1, ½, ½) · (1 + cos(0, 45°, 90°, 135°)) / 2
    np.testing.assert_allclose(-np.diff([0.0, *places]), [0.1, 0.0853553390593, 0.025, 0.00732233047034], rtol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_and_changes_no_parameter(tmp_path: Path, bad: float) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    model = new_net()
    config = replace(CONFIG, checkpoint_every_s=0)
    loop = train(
        model,
        lambda step: batches(step) | ({"wanted": torch.tensor(bad)} if step == 2 else {}),
        config,
        checkpoint=checkpoint,
    )
    for _ in range(2):
        next(loop)
    before = {name: value.clone() for name, value in model.named_parameters()}
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step 3"):
        next(loop)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert steps_of(checkpoint) == 2


def test_float32_and_bf16_run_in_what_they_say() -> None:
    seen = {}
    for precision in PRECISIONS:
        model = new_net()
        model.layers[0].register_forward_hook(lambda module, inputs, found, name=precision: seen.update({name: found.dtype}))
        run(model, replace(CONFIG, steps=2, precision=precision))
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert seen["float32"] == torch.float32
    assert seen["bf16"] == torch.bfloat16
    assert seen["auto"] == (torch.bfloat16 if prefers_bf16(torch.device("cpu")) else torch.float32)


def test_the_precisions_learn_the_same() -> None:
    models = {precision: new_net() for precision in PRECISIONS}
    for precision, model in models.items():
        run(model, replace(CONFIG, precision=precision))
    losses = {name: float(model.eval().loss(batches(1000))[0].detach()) for name, model in models.items()}
    start = float(new_net().eval().loss(batches(1000))[0].detach())
    assert losses["float32"] < start / 3
    assert losses["bf16"] == pytest.approx(losses["float32"], abs=start / 20)
    assert losses["auto"] in (losses["bf16"], losses["float32"])


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device() == torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "", "cuda:99", "cpu:x", "Cuda"):
        with pytest.raises(UsageError, match=r"^no device '.*' on this machine; take auto, cpu or.*$"):
            pick_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"^no device 'cuda' on this machine; [^\n]*$"):
        pick_device("cuda")


def saved(path: Path, model: nn.Module | None = None) -> Path:
    model = model or new_net()
    save_checkpoint(path, model, torch.optim.Adam(model.parameters()), 7)
    return path


def truncated(path: Path) -> None:
    content = saved(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def altered(path: Path) -> None:
    content = bytearray(saved(path).read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


SPOILED: list[tuple[Callable[[Path], Any], str]] = [
    (truncated, "damaged"),
    (altered, "altered"),
    (lambda path: path.write_bytes(b""), "damaged"),
    (lambda path: torch.save(new_net().state_dict(), path), "damaged"),
    (lambda path: save_tensors(path, new_net().state_dict(), {"model": "transporter"}), "no training checkpoint"),
    (lambda path: saved(path, new_net(width=5)), "another shape"),
    (lambda path: saved(path, Slope()), "another shape"),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILED)
def test_what_is_no_checkpoint_of_this_model_is_refused(tmp_path: Path, spoil: Callable[[Path], Any], message: str) -> None:
    path = tmp_path / "checkpoint.safetensors"
    spoil(path)
    content = path.read_bytes()
    model = new_net()
    with pytest.raises(UsageError, match=rf"^[^\n]*{path}[^\n]*{message}[^\n]*$"):
        run(model, checkpoint=path, resume=True)
    assert_same_state(model, new_net())
    assert path.read_bytes() == content


def test_a_checkpoint_holds_model_optimiser_and_step(tmp_path: Path) -> None:
    model = new_net()
    run(model, replace(CONFIG, steps=3), checkpoint=tmp_path / "c.safetensors")
    again = Net()
    optimizer = torch.optim.Adam(again.parameters(), lr=123.0)
    assert load_checkpoint(tmp_path / "c.safetensors", again, optimizer) == 3
    assert_same_state(again, model)
    state = optimizer.state_dict()["state"]
    assert len(state) == len(list(model.parameters()))
    assert all(float(slots["step"]) == 3 and slots["exp_avg_sq"].any() for slots in state.values())


@contextlib.contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    """Every write past `size` bytes of a file fails in the kernel, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_in_one_line_and_leaves_the_last_checkpoint(tmp_path: Path, uninterrupted: Net) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    loop = train(new_net(), batches, replace(CONFIG, checkpoint_every_s=0), checkpoint=checkpoint)
    for _ in range(4):
        next(loop)
    assert steps_of(checkpoint) == 3
    with no_room_beyond(1024), pytest.raises(UsageError, match=rf"^cannot write {checkpoint}: [^\n]*$"):
        next(loop)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name]
    model = Net()
    run(model, checkpoint=checkpoint, resume=True)
    assert_same_state(model, uninterrupted)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 1},
        {"learning_rate": 0.0},
        {"warm_up": -1},
        {"learning_rate": float("nan")},
        {"decay": 0.0},
        {"decay": 1.5},
        {"decay_every": 0},
        {"precision": "float16"},
        {"seed": -1},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(UsageError, match=rf"^{name} must be [^\n]*$"):
        TrainingConfig(**wrong)


def test_a_configuration_is_described_in_plain_values() -> None:
    described = describe(CONFIG)
    assert TrainingConfig(**described) == CONFIG
    assert {type(value) for value in described.values()} <= {int, float, str, bool}
