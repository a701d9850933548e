from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_results import assert_result
from torchmetrics.functional.image import peak_signal_noise_ratio

from kpagent.benchmarks import video_evaluation, video_runs
from kpagent.benchmarks.results import Measurement
from kpagent.benchmarks.video import WEIGHTS, Video, add_figures, add_heatmap, add_network_figures
from kpagent.benchmarks.video_figures import COLOURS, draw_errors, draw_heatmap, draw_samples
from kpagent.benchmarks.video_runs import CODE, learn_code, learn_video, look_alike, make_learning, move_alike
from kpagent.collect.sequence_making import write_sequences
from kpagent.collect.sequences import Sequences
from kpagent.dynamics.configuration import StructVRNNConfig
from kpagent.dynamics.learning import LearningConfig
from kpagent.dynamics.methods import METHODS
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.envs.basketball import NAMES, Basketball, BasketballConfig, draw
from kpagent.errors import UsageError
from kpagent.evaluation.trajectories import Regression
from kpagent.evaluation.vgg import VGG16
from kpagent.files import load_tensors
from kpagent.training import describe

SMALL: dict[str, Any] = {
    "methods": ("struct_vrnn", "no_bom"),
    "seeds": (0,),
    "sequences": 20,
    "test_sequences": 3,
    "frames": 18,
    "code_steps": 2,
    "steps": 2,
    "start": False,
    "predicted": 10,
    "samples": 4,
    "painted": 2,
    "painted_samples": 3,
    "threads": 1,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("video")
    benchmark = Video(**SMALL, runs=folder / "runs", pictures=folder / "pictures")
    return benchmark.run(lambda line: None), folder


def arguments(measured: Path, method: str, **changes: Any) -> dict[str, Any]:
    """Those of a run in this process, on the sequences of the small benchmark."""
    run = Video(**SMALL, runs=measured / "runs").plan(method, 0)
    return dict(run.arguments) | changes


def test_a_small_run_gives_every_figure(measured: tuple[dict[str, Any], Path]) -> None:
    result, folder = measured
    assert_result(result)
    figures = {name.removeprefix("basketball/"): each["value"] for name, each in result["figures"].items()}
    for method in SMALL["methods"]:
        errors = [figures[f"{method}/trajectory_error@{step}"] for step in range(1, 11)]
        assert figures[f"{method}/trajectory_error_mean"] == pytest.approx(np.mean(errors))
        assert min(errors) > 0
        objects = [figures[f"{method}/detector_error/{name}"] for name in NAMES]
        assert figures[f"{method}/detector_error"] == pytest.approx(np.mean(objects))
        assert 0 <= figures[f"{method}/objects_found"] <= 6
        assert figures[f"{method}/diversity@10"] > 0
        images = json.loads((folder / f"runs/{method}/seed_0/result.json").read_text())["result"]["images"]
        for score, kinds in images.items():
            assert figures[f"{method}/{score}_closest@10"] == kinds["closest"][9]
            assert 0 < np.mean(kinds["furthest"]) <= np.mean(kinds["mean"]) <= np.mean(kinds["closest"])
        assert figures[f"{method}/cpu_s"] > 0
    # One code, learned once.
    assert figures["no_bom/detector_error"] == figures["struct_vrnn/detector_error"]
    assert "took over the code" in (folder / "runs/no_bom/seed_0/result.log").read_text()
    for name, step in (("no_bom", 8), ("no_bom", 10), ("constant", 8), ("constant", 10)):
        ratio = figures[f"struct_vrnn/trajectory_error@{step}"] / figures[f"{name}/trajectory_error@{step}"]
        assert figures[f"{name}/ratio@{step}"] == pytest.approx(ratio)
    assert not any("vgg" in name or "fvd" in name or "heatmap" in name for name in figures)
    for picture in ("video_errors", "video_detectors", "video_quality", "video_samples_no_bom"):
        image = cv2.imread(str(folder / "pictures" / f"{picture}.png"))
        assert image is not None
        assert image.std() > 5


def test_what_is_there_is_not_done_again(measured: tuple[dict[str, Any], Path]) -> None:
    result, folder = measured
    said: list[str] = []
    more = SMALL | {"methods": METHODS, "seeds": (0, 1)}
    again = Video(**more, finished=True, runs=folder / "runs").run(said.append)
    assert said == []
    assert again["figures"] == result["figures"]
    assert again["command"].endswith("--no-start --finished")
    with pytest.raises(UsageError, match="holds a run with other settings"):
        Video(**SMALL | {"predicted": 9}, runs=folder / "runs").run(said.append)
    with pytest.raises(UsageError, match="no run is finished"):
        Video(**SMALL, finished=True, runs=folder / "elsewhere").run(said.append)


def test_a_code_that_is_taken_over_is_the_one_that_would_be_learned(
    measured: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    _, folder = measured
    alone = arguments(folder, "no_bom", folder=str(tmp_path / "alone"), code_from=None)
    result = learn_video(**alone)
    shared = json.loads((folder / "runs/no_bom/seed_0/result.json").read_text())["result"]
    for key in ("detector_error", "trajectory_error", "diversity"):
        assert result[key] == pytest.approx(shared[key], rel=1e-4)
    taken, _ = load_tensors(folder / "runs/no_bom/seed_0" / CODE)
    learned, _ = load_tensors(tmp_path / "alone" / CODE)
    model = {name for name in learned if name.startswith("model.")}
    assert all(torch.allclose(learned[name], taken[name], atol=1e-6) for name in model)


def test_a_code_of_other_settings_is_not_taken_over(measured: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    _, folder = measured
    giver, own = folder / "runs/struct_vrnn/seed_0", tmp_path / "own"
    own.mkdir()
    settings = json.loads((giver / "config.json").read_text())

    def taken(change: Any) -> bool:
        other = json.loads(json.dumps(settings))
        change(other)
        (own / "config.json").write_text(json.dumps(other))
        found = video_runs.take_over_code(giver, own)
        assert (own / CODE).exists() == found
        return found

    assert not taken(lambda other: other["model"]["code"].update(separation=0.0))
    assert not taken(lambda other: other["learning"]["code"].update(steps=3))
    assert not taken(lambda other: other["learning"].update(start=None if settings["learning"]["start"] else {"steps": 1}))
    assert not taken(lambda other: other["provenance"]["data"].update(digest="0"))
    assert not video_runs.take_over_code(tmp_path / "nowhere", own)
    assert taken(lambda other: other["model"]["dynamics"].update(samples=1))
    # A run that has begun goes on with its own.
    assert not video_runs.take_over_code(giver, own)


def test_a_run_that_was_interrupted_is_taken_up(
    measured: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = measured
    vector = arguments(folder, "cnn_vrnn", folder=str(tmp_path / "run"))
    say, heard = video_runs.say, []

    def interrupt(report: Any) -> None:
        say(report)
        heard.append((report.stage, report.step))
        if heard[-1] == ("dynamics", 1):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(video_runs, "say", interrupt)
        with pytest.raises(KeyboardInterrupt):
            learn_video(**vector)
    before = json.loads((tmp_path / "run/spent.json").read_text())
    result = learn_video(**vector)
    assert all(result["spent"][name] > before[name] for name in ("wall_s", "cpu_s"))
    # It has no keypoints that could lie on things.
    assert result["found"] is None


def test_cells_of_the_heatmap_learn_a_code_alone(measured: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    _, folder = measured
    cells = Video(**SMALL, heatmap=2, runs=folder / "runs").plan_heatmap()
    assert len(cells) == len(WEIGHTS) ** 2
    run = cells[0.0, 1.0]
    code = run.arguments["model"]["code"]
    assert (code["separation"], code["sparsity"]) == (0, 1)
    assert run.arguments["learning"]["code"]["steps"] == 2
    cell = learn_code(**dict(run.arguments) | {"folder": str(tmp_path / "cell")})
    assert len(cell["detector_error"]) == len(cell["found"]) == len(NAMES)
    assert (tmp_path / "cell" / CODE).exists()
    assert not (tmp_path / "cell" / "model.safetensors").exists()


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    path = tmp_path_factory.mktemp("still") / "basketball.h5"
    write_sequences(path, Basketball(6, 3, BasketballConfig(frames=16)))
    return Sequences(path)


def known_model(monkeypatch: pytest.MonkeyPatch, step: np.ndarray) -> StructVRNN:
    """A model whose codes are true positions and whose sample s moves all of them by s times `step` at each step."""
    model = StructVRNN(StructVRNNConfig.fast(6)).eval()

    def imagine(belief: Any, steps: int, *, samples: int = 1, actions: Any = None, seed: int = 0) -> torch.Tensor:
        moved = torch.arange(samples).reshape(-1, 1, 1) * torch.arange(1, steps + 1).reshape(-1, 1)
        xy = belief.unflatten(-1, (6, 3)).clone()[:, None, None]
        xy = xy + torch.nn.functional.pad(torch.as_tensor(step), (0, 1))[None] * moved.unsqueeze(-1)
        return xy.flatten(-2)

    monkeypatch.setattr(model, "observe", lambda codes: (codes[:, -1], codes))
    monkeypatch.setattr(model, "imagine", imagine)
    return model


def test_errors_of_known_futures(monkeypatch: pytest.MonkeyPatch) -> None:
    step = np.zeros((6, 2), np.float32)
    # In two steps: one percent of the width to the right each, for the second player alone.
    step[1, 0] = 0.02
    model = known_model(monkeypatch, step)
    start = np.random.default_rng(0).uniform(-0.5, 0.5, (5, 1, 6, 2)).astype(np.float32)
    truth = start.repeat(10, axis=1)
    # Everyone stands still but the second player, who goes as sample 2 does, and the ball, which no sample follows.
    truth[:, 8:, 1, 0] += [0.04, 0.08]
    truth[:, 8:, 5, 1] += [0.1, 0.2]
    codes = torch.nn.functional.pad(torch.from_numpy(truth), (0, 1), value=0.5).flatten(-2)
    identity = np.zeros((18, 6, 2))
    for index in range(6):
        identity[3 * index : 3 * index + 2, index] = np.eye(2)
    regression = Regression(identity, np.zeros((6, 2)))
    seen = video_evaluation.Encoded(codes, truth)
    found = video_evaluation.future_figures(model, regression, seen, 4)
    # Over six things: the ball is 5% and 10% of the width off.
    assert found["trajectory_error"] == pytest.approx([5 / 6, 10 / 6], abs=1e-4)
    # The last observed positions are besides 2% and 4% off for the second player.
    assert found["constant_error"] == pytest.approx([7 / 6, 14 / 6], abs=1e-4)
    # Of six pairs of four samples, three are 1% apart, two 2% and one 3% at the first step, one of six things moving.
    assert found["diversity"] == pytest.approx([10 / 36, 20 / 36], abs=1e-4)
    assert video_evaluation.detector_figures(model, regression, seen) == {
        "detector_error": pytest.approx([0] * 6, abs=1e-4),
        "found": [True] * 6,
    }
    # Seen through keypoints that all lie 3% to the right, with one out of its place.
    away = codes.unflatten(-1, (6, 3)).clone()
    away[..., 0] += 0.06
    away[..., 4, :2] = torch.rand(away[..., 4, :2].shape, generator=torch.Generator().manual_seed(0)) - 0.5
    lost = video_evaluation.detector_figures(model, regression, video_evaluation.Encoded(away.flatten(-2), truth))
    assert np.delete(lost["detector_error"], 4) == pytest.approx([3] * 5, abs=1e-4)
    assert lost["found"] == [True, True, True, True, False, True]


def test_the_closest_sample_is_the_one_that_came(monkeypatch: pytest.MonkeyPatch, still: Sequences) -> None:
    model = StructVRNN(StructVRNNConfig.fast(6)).eval()
    windows = still.ordered(16, 2)
    number = iter(range(4))

    def render(first: np.ndarray, codes: torch.Tensor) -> np.ndarray:
        """Three samples: nothing but the first frame, the truth, and frames that are all black."""
        which = next(number) % 2
        assert codes.shape[:2] == (1, 24)
        assert (first[0] == windows["frames"][which, 0]).all()
        truth = windows["frames"][which, 8:]
        return np.concatenate([first.repeat(8, axis=0), truth, np.zeros_like(truth)])[None]

    monkeypatch.setattr(model, "render", render)
    found = video_evaluation.image_figures(model, still, 8, 2, 3)
    assert found["ssim"]["closest"] == pytest.approx([1] * 8, abs=1e-4)
    assert found["psnr"]["closest"] == [video_evaluation.LARGEST_PSNR] * 8
    black = [
        float(peak_signal_noise_ratio(torch.zeros(64, 64, 3), torch.from_numpy(frame / 255).float(), data_range=1.0))
        for frame in windows["frames"][:, -1]
    ]
    assert found["psnr"]["furthest"][-1] == pytest.approx(np.mean(black), abs=1e-3)
    futures, truth = next(video_evaluation.paint_futures(model, still, 8, 1, 3))
    assert (futures[1] == truth).all()
    assert not futures[2].any()


def recorded(errors: list[float], constant: list[float], **changes: Any) -> dict[str, Any]:
    scores = {"mean": [0.5, 0.4], "closest": [0.9, 0.8], "furthest": [0.2, 0.1]}
    return {
        "trajectory_error": errors,
        "constant_error": constant,
        "diversity": [1.0, 2.0],
        "detector_error": [1.0, 1.0, 1.0, 1.0, 2.0, 3.0],
        "found": [True] * 6,
        "images": {"ssim": scores, "psnr": scores},
        "learned": 1,
        "spent": {"wall_s": 10.0, "cpu_s": 20.0, "peak_memory_mb": 700.0},
        "evaluation_wall_s": 1.0,
    } | changes


def test_figures_are_those_of_recorded_runs() -> None:
    vector = {"found": None, "detector_error": [9.0] * 6}
    results = {
        "struct_vrnn": {
            0: recorded([1.0, 2.0], [2.0, 5.0]),
            1: recorded([3.0, 4.0], [4.0, 7.0], found=[True] * 5 + [False]),
        },
        "cnn_vrnn": {1: recorded([6.0, 8.0], [7.0, 9.0], **vector)},
    }
    measurement = Measurement("video", "kpagent bench video")
    add_figures(measurement, results)
    add_network_figures(measurement, {"vgg": {"struct_vrnn": [results["struct_vrnn"][0]["images"]["ssim"]] * 2}}, 7)
    add_network_figures(measurement, {"fvd": {"cnn_vrnn": [120.0, 140.0]}}, 7)
    add_heatmap(measurement, {(0.01, 1.0): {"detector_error": [1.0, 3.0], "found": [True, False]}})
    assert_result(measurement.result())
    figures = measurement.figures

    def value(name: str) -> float:
        found: float = figures[f"basketball/{name}"]["value"]
        return found

    assert figures["basketball/struct_vrnn/trajectory_error@2"]["per_seed"] == [2, 4]
    # Student's t with one degree of freedom, 12.706, times a standard error of 1.
    assert figures["basketball/struct_vrnn/trajectory_error@2"]["ci95"] == pytest.approx([3 - 12.706, 3 + 12.706], abs=1e-3)
    assert "ci95" not in figures["basketball/cnn_vrnn/trajectory_error@2"]
    assert value("struct_vrnn/trajectory_error_mean") == 2.5
    assert value("constant/trajectory_error@1") == 3
    assert value("struct_vrnn/detector_error") == 1.5
    assert value("struct_vrnn/detector_error/ball") == 3
    assert figures["basketball/struct_vrnn/objects_found"]["per_seed"] == [6, 5]
    assert "basketball/cnn_vrnn/objects_found" not in figures
    assert value("struct_vrnn/ssim_closest@2") == 0.8
    assert value("struct_vrnn/psnr_furthest@2") == 0.1
    assert value("struct_vrnn/diversity@2") == 2
    # Against seeds that both have: seed 1 alone.
    assert value("cnn_vrnn/ratio@1") == 0.5
    assert value("cnn_vrnn/ratio@2") == 0.5
    assert value("constant/ratio@2") == 0.5
    assert value("constant/ratio@1") == pytest.approx(4 / 6)
    assert value("struct_vrnn/vgg_closest@2") == 0.8
    assert figures["basketball/cnn_vrnn/fvd"] == {
        "value": 130, "unit": "of 7 videos", "per_seed": [120, 140], "ci95": pytest.approx([2.94, 257.06], abs=0.01),
    }  # fmt: skip
    assert value("heatmap/separation_0.01/sparsity_1/detector_error") == 2
    assert value("heatmap/separation_0.01/sparsity_1/objects_found") == 1


def test_networks_are_asked_where_their_weights_are_given(
    measured: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = measured
    torch.manual_seed(0)
    weights = tmp_path / "vgg.safetensors"
    save_file(VGG16().state_dict(), weights)
    benchmark = Video(**SMALL, runs=folder / "runs", vgg_weights=weights)
    asked = benchmark._plan_vgg(benchmark.plan("struct_vrnn", 0))
    assert asked.path == folder / "runs/struct_vrnn/seed_0/vgg.json"
    found = look_alike(**dict(asked.arguments) | {"painted": 1, "painted_samples": 2})
    assert len(found["mean"]) == 10
    assert 0 < np.mean(found["furthest"]) <= np.mean(found["mean"]) <= np.mean(found["closest"]) < 1

    # I3D takes a second a video: here its features are colours.
    monkeypatch.setattr("kpagent.evaluation.perceptual.load_i3d", lambda path, device: None)
    seen: list[tuple[int, ...]] = []

    def colours(net: None, videos: np.ndarray) -> np.ndarray:
        seen.append(videos.shape[-4:])
        return videos.reshape(-1, videos[..., 0].size, 3).mean(axis=1)

    monkeypatch.setattr("kpagent.evaluation.perceptual.i3d_features", colours)
    asked = replace(benchmark, videos=3)._plan_fvd(benchmark.plan("struct_vrnn", 0))
    assert move_alike(**asked.arguments) > 0
    assert seen == [(10, 64, 64, 3)] * 6


def test_a_run_is_described_by_its_arguments() -> None:
    benchmark = Video(code_steps=3, steps=4, keypoints=7)
    run = benchmark.plan("struct_rnn", 2)
    assert run.arguments["code_from"] == "runs/video/struct_vrnn/seed_2"
    assert [benchmark.plan(method, 0).arguments["code_from"] is None for method in METHODS].count(False) == 2
    config = StructVRNNConfig.from_dict(run.arguments["model"])
    assert config.dynamics == replace(StructVRNNConfig.fast(7).dynamics, stochastic=False)
    learning = make_learning(run.arguments["learning"])
    assert (learning.code.steps, learning.dynamics.steps, learning.code.seed, learning.dynamics.seed) == (3, 4, 2, 2)
    preset = LearningConfig.fast()
    assert make_learning(describe(preset)) == preset
    assert make_learning(Video(start=False).plan("struct_vrnn", 0).arguments["learning"]).start is None


def test_curves_have_the_colours_of_their_methods(tmp_path: Path) -> None:
    draw_errors(tmp_path / "errors.png", {"struct_vrnn": [[1.0, 2.0], [1.0, 4.0]], "cnn_vrnn": [[5.0, 6.0]]}, trained=1)
    image = cv2.imread(str(tmp_path / "errors.png"))
    assert image is not None
    found = {"#{:02X}{:02X}{:02X}".format(*colour) for colour in np.unique(image[..., ::-1].reshape(-1, 3), axis=0)}
    assert {COLOURS["struct_vrnn"], COLOURS["cnn_vrnn"]} <= found
    assert COLOURS["no_bom"] not in found


def test_the_sheet_shows_truth_closest_and_furthest(tmp_path: Path) -> None:
    positions = np.random.default_rng(0).uniform(-0.9, 0.9, (5, 6, 2))
    frames = draw(positions)
    futures = np.stack([np.zeros_like(frames[3:]), frames[3:], frames[:2]])
    draw_samples(tmp_path / "samples.png", frames[:3], frames[3:], futures)
    image = cv2.imread(str(tmp_path / "samples.png"))
    assert image is not None
    cells = image[2:, 2:, ::-1].reshape(3, 70, 5, 70, 3).swapaxes(1, 2)[:, :, 2:66, 2:66]
    for row in cells:
        assert (row[:3] == frames[:3]).all()
    assert (cells[0, 3:] == frames[3:]).all()
    assert (cells[1, 3:] == frames[3:]).all()
    assert not cells[2, 3:].any()


def test_a_heatmap_may_lack_cells(tmp_path: Path) -> None:
    cell = {"detector_error": [1.0] * 5 + [4.0], "found": [True] * 6}
    draw_heatmap(tmp_path / "heatmap.png", WEIGHTS, {(0.0, 0.1): cell, (0.1, 1.0): cell | {"detector_error": [3.0] * 6}})
    image = cv2.imread(str(tmp_path / "heatmap.png"))
    assert image is not None
    assert image.std() > 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ()}, "methods must be given"),
        ({"methods": ("transporter",)}, "no method called 'transporter'"),
        ({"seeds": (1, 1)}, "seeds must be different"),
        ({"sequences": 9}, "sequences must be at least 10"),
        ({"test_sequences": 0}, "test_sequences must be at least 1"),
        ({"frames": 23}, "frames must be at least 24"),
        ({"frames": 12, "predicted": 4}, "frames must be at least 16"),
        ({"keypoints": 5}, "keypoints must be at least 6"),
        ({"samples": 1}, "samples must be at least 2"),
        ({"code_steps": 0}, "steps must be at least 1"),
        ({"heatmap": 0}, "heatmap must be at least 1"),
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"device": "abacus"}, "abacus"),
        ({"vgg_weights": Path("nowhere.safetensors")}, "no weights file at nowhere"),
        ({"i3d_weights": Path("nowhere.safetensors"), "predicted": 8}, "predicted must be at least 9 for FVD"),
    ],
)
def test_mistakes_are_known_before_anything_is_run(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        Video(**changes, runs=tmp_path / "runs").run(print)
    assert not (tmp_path / "runs").exists()
