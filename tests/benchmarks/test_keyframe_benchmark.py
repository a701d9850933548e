from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs_here import do_here
from test_results import assert_result

from kpagent.benchmarks import keyframe_evaluation, keyframe_runs
from kpagent.benchmarks.keyframe_codes import Codes, keep_truth
from kpagent.benchmarks.keyframe_evaluation import (
    NOWHERE,
    WALL_END,
    WALL_START,
    Follower,
    discovery_figures,
    find_followers,
    reconstruction_error,
    side_figures,
    ways_around,
)
from kpagent.benchmarks.keyframe_figures import draw_paths, draw_scores
from kpagent.benchmarks.keyframe_methods import DATASETS, METHODS, PAPER, model_config
from kpagent.benchmarks.keyframe_results import add_code_figures, add_figures
from kpagent.benchmarks.keyframe_runs import INTERPOLATOR, learn_keyframes, make_learning, take_over_interpolator
from kpagent.benchmarks.keyframes import KeyframeDiscovery
from kpagent.benchmarks.results import Measurement
from kpagent.benchmarks.runs import Run
from kpagent.collect.sequences import Sequences
from kpagent.envs.pushing.demonstrations import Demonstrations, locate
from kpagent.errors import UsageError
from kpagent.files import load_tensors, save_tensors
from kpagent.subgoals.configuration import CodecConfig, KeyInConfig
from kpagent.subgoals.keyin import KeyIn
from kpagent.subgoals.learning import LearningConfig
from kpagent.training import describe

SMALL: dict[str, Any] = {
    "seeds": (0,),
    "sequences": 20,
    "test_sequences": 3,
    "code_steps": 2,
    "interpolator_steps": 2,
    "steps": 2,
    "samples": 3,
    "threads": 1,
    "device": "cpu",
}


def small(folder: Path, **changes: Any) -> KeyframeDiscovery:
    return KeyframeDiscovery(**SMALL | {"runs": folder / "runs"} | changes)


def quick(arguments: Any, **changes: Any) -> dict[str, Any]:
    """Arguments of a run, for batches of three and a code that begins at once."""
    learning = json.loads(json.dumps(arguments["learning"]))
    if "start" in learning:
        learning["start"] = None
    else:
        learning["keyframes"]["batch_size"] = learning["interpolator"]["batch_size"] = 3
    return dict(arguments) | {"learning": learning} | changes


def do_quickly(run: Run) -> None:
    """A run in this process; what it leaves is taken for the run itself."""
    do_here(run, quick(run.arguments) if "learning" in run.arguments else None)


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyframe_evaluation, "TIMED", 1)
        patch.setattr(keyframe_evaluation, "UNTIMED", 0)
        yield


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("keyframes")
    benchmark = small(folder)
    benchmark._make_sequences(lambda line: None)
    for dataset in DATASETS:
        do_quickly(benchmark.plan_truth(dataset))
        do_quickly(benchmark.plan_code(dataset, 0))
        for method in METHODS:
            # One is left for a process of its own.
            if (dataset, method) != ("pushing", "random"):
                do_quickly(benchmark.plan(dataset, method, 0))
    said: list[str] = []
    result = benchmark.run(said.append)
    path = folder / "runs/pushing/random/seed_0/result.json"
    assert said == [f"{path}: begun, 1 of 1", f"{path}: done"]
    return result, folder


def test_a_small_run_gives_every_figure(measured: tuple[dict[str, Any], Path]) -> None:
    result, _ = measured
    assert_result(result)
    figures = {name: each["value"] for name, each in result["figures"].items()}
    for dataset in DATASETS:
        for method in METHODS:
            names = {name.rpartition("/")[2] for name in figures if name.startswith(f"{dataset}/{method}/")}
            wanted = {"f1", "f1_tolerance1"}
            if method not in ("random", "constant"):
                wanted |= {"step_ms", "wall_s", "cpu_s", "peak_memory_mb"}
            if method not in ("random", "constant", "surprise", "tap"):
                wanted |= {"reconstruction"}
                if dataset == "pushing" and method != "keyin":
                    wanted |= {"both_sides", "around"}
            assert names == wanted, (dataset, method)
            searched = {name.rpartition("/")[2] for name in figures if name.startswith(f"{dataset}/{method}_searched/")}
            assert searched == ({"f1", "f1_tolerance1", "reconstruction"} if method.startswith("keyin") else set())
            assert 0 <= figures[f"{dataset}/{method}/f1"] <= figures[f"{dataset}/{method}/f1_tolerance1"] <= 1
            assert result["figures"][f"{dataset}/{method}/f1"].get("paper") == PAPER[dataset].get(method)
    assert figures["brownian/code/distance_ball"] > 0
    assert {name for name in figures if name.startswith("pushing/code/distance")} == {
        f"pushing/code/distance_{name}" for name in ("puck", "hand", "wall_start", "wall_end")
    }
    # Straight ways between true turns are those of the ball, whatever an interpolator adds that has hardly learned.
    assert figures["brownian/keyin_positions_searched/f1"] > 0.9


def test_pictures_show_what_models_find_make_again_and_sample(measured: tuple[dict[str, Any], Path]) -> None:
    _, folder = measured
    methods = ("keyin_positions", "keyin", "surprise")
    small(folder, methods=methods, pictures=folder / "pictures").run(print)
    trained = [f"keyframes_{dataset}_{method}" for dataset in DATASETS for method in methods]
    sampled = [f"{name}_samples" for name in trained if not name.endswith("surprise")]
    pictures = {path.name for path in (folder / "pictures").iterdir()}
    names = ["keyframes", *trained, *sampled, "keyframes_pushing_keyin_positions_ways"]
    assert pictures == {f"{name}.png" for name in names}
    for picture in pictures:
        image = cv2.imread(str(folder / "pictures" / picture))
        assert image is not None
        assert image.std() > 5


def test_f1_of_constant_keyframes_by_hand(measured: tuple[dict[str, Any], Path]) -> None:
    result, folder = measured
    for dataset, constant, last in (("brownian", {10, 16, 22, 28}, 33), ("pushing", {6, 12, 18, 24}, 29)):
        matched = total = 0
        for turns in Sequences(folder / f"runs/{dataset}/sequences_test.h5").ordered(last + 2, 3)["keyframes"]:
            true = {frame for frame in np.flatnonzero(turns).tolist() if frame <= last}
            matched, total = matched + len(true & constant), total + len(true) + len(constant)
        assert result["figures"][f"{dataset}/constant/f1"]["value"] == pytest.approx(2 * matched / total)


def test_what_is_there_is_not_done_again(measured: tuple[dict[str, Any], Path]) -> None:
    result, folder = measured
    said: list[str] = []
    again = small(folder, finished=True, seeds=(0, 1)).run(said.append)
    assert said == []
    assert again["figures"] == result["figures"]
    assert again["command"].endswith("--samples 3 --finished")
    with pytest.raises(UsageError, match="holds a run with other settings"):
        small(folder, steps=3).run(said.append)
    with pytest.raises(UsageError, match="no run is finished"):
        small(folder, finished=True, runs=folder / "elsewhere").run(said.append)
    # Nor is a run on fewer sequences taken for one on more.
    for finished in (False, True):
        with pytest.raises(UsageError, match=r"truth\.json holds a run with other settings"):
            small(folder, sequences=21, finished=finished).run(said.append)


def test_codes_are_those_of_the_sequences(measured: tuple[dict[str, Any], Path]) -> None:
    _, folder = measured
    for dataset, points in (("brownian", 1), ("pushing", 4)):
        true = Codes.load(folder / f"runs/{dataset}/truth.safetensors")
        test = Sequences(folder / f"runs/{dataset}/sequences_test.h5")
        for number in range(3):
            whole = test.stretch(number, 0, 99)
            np.testing.assert_array_equal(true.test[number], whole["truth"].reshape(-1, 2 * points))
            np.testing.assert_array_equal(true.keyframes[number], whole["keyframes"])
        counts = json.loads((folder / f"runs/{dataset}/truth.json").read_text())
        assert counts["result"] == {"keyframes": pytest.approx(true.keyframes.sum() / 3)}
        with pytest.raises(UsageError, match=r"have \[20, 3\] sequences, not \[20, 4\]"):
            keep_truth(**counts["arguments"] | {"counts": [20, 4]})
        assert true.names == test.truth_names
        assert len(true.training) == 20
        learned = Codes.load(folder / f"runs/{dataset}/code/seed_0/codes.safetensors")
        assert learned.training.shape == (*true.training.shape[:2], {"brownian": 2, "pushing": 12}[dataset])
        assert np.abs(learned.test).max() <= 1
        assert learned.names == ()
    model = KeyIn.load(folder / "runs/pushing/keyin_keypoints/seed_0/model.safetensors")
    np.testing.assert_allclose(model.encode(test.ordered(31, 3)["frames"]).numpy(), learned.test, atol=1e-5)
    np.testing.assert_array_equal(true.walls(true.test), true.test.reshape(3, -1, 4, 2)[:, 0, 2:])


def test_an_interpolator_that_is_taken_over_is_the_one_that_would_be_learned(
    measured: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    _, folder = measured
    planned = small(folder).plan("brownian", "static", 0)
    assert planned.arguments["interpolator_from"]
    taken = json.loads(planned.path.read_text())["result"]
    arguments = quick(planned.arguments, folder=str(tmp_path / "alone"), interpolator_from=None)
    alone = learn_keyframes(**arguments)
    assert alone["found"] == taken["found"]
    own, theirs = (load_tensors(each / INTERPOLATOR)[0] for each in (tmp_path / "alone", planned.path.parent))
    assert all(torch.equal(own[name], theirs[name]) for name in own | theirs)


def test_an_interpolator_of_other_settings_is_not_taken_over(measured: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    _, folder = measured
    giver, own = folder / "runs/pushing/keyin_keypoints/seed_0", tmp_path / "own"
    own.mkdir()
    settings = json.loads((giver / "config.json").read_text())

    def taken(change: Any) -> bool:
        other = json.loads(json.dumps(settings))
        change(other)
        (own / "config.json").write_text(json.dumps(other))
        found = take_over_interpolator(giver, own)
        assert (own / INTERPOLATOR).exists() == found
        return found

    assert not taken(lambda other: other["model"].update(longest=7))
    assert not taken(lambda other: other["learning"]["interpolator"].update(steps=3))
    assert not taken(lambda other: other["learning"].update(joint=True))
    # By which it chooses its segments.
    assert not taken(lambda other: other["model"].update(guided=3))
    assert not taken(lambda other: other["provenance"]["data"].update(digest="0"))
    assert not taken(lambda other: other.pop("model"))
    assert not take_over_interpolator(tmp_path / "nowhere", own)
    assert taken(lambda other: other["model"].update(guide_share=0.0, fixed_offsets=[5] * 6))
    # A run that has begun goes on with its own.
    assert not take_over_interpolator(giver, own)


@pytest.mark.parametrize("method", ["keyin_keypoints", "surprise", "tap"])
def test_a_run_that_was_interrupted_is_taken_up(
    method: str, measured: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = measured
    planned = small(folder).plan("pushing", method, 0)
    arguments = quick(planned.arguments, folder=str(tmp_path / "run"))
    last = "keyframes" if method.startswith("keyin") else "joint"

    def interrupt(report: Any) -> None:
        if (report.stage, report.step) == (last, 1):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(keyframe_runs, "say", interrupt)
        with pytest.raises(KeyboardInterrupt):
            learn_keyframes(**arguments)
    before = json.loads((tmp_path / "run/spent.json").read_text())
    result = learn_keyframes(**arguments)
    assert all(result["spent"][name] > before[name] for name in ("wall_s", "cpu_s"))
    through = json.loads(planned.path.read_text())["result"]
    assert result["found"] == through["found"]


# Ways around the wall


def around(path: list[tuple[float, float]], wall: Any = ((-0.4, 0.0), (0.4, 0.0))) -> int:
    return int(ways_around(np.array(path), np.array(wall)))


def test_ways_around_by_hand() -> None:
    assert around([(0, 1), (0.9, 0.5), (0.9, -0.5), (0, -1)]) == WALL_END
    assert around([(0, 1), (-0.9, 0.5), (-0.9, -0.5), (0, -1)]) == WALL_START
    # Through it, or not to the other side; both ends of a way may lie beyond an end where the way does not.
    assert around([(0, 1), (0, -1)]) == NOWHERE
    assert around([(0, 1), (0.9, 0.2), (-0.9, 0.2)]) == NOWHERE
    assert around([(-0.9, 1), (0.9, -1)]) == NOWHERE
    # The first crossing counts, where the straight way between two frames meets the line: here at 0.41, then at 0.39.
    assert around([(0.31, 0.1), (0.51, -0.1), (-0.9, 0.1)]) == WALL_END
    assert around([(0.29, 0.1), (0.49, -0.1), (-0.9, 0.1)]) == NOWHERE
    # A wall that stands across, and one of no length to speak of.
    assert around([(-1, 0.0), (-0.1, 0.9), (1, 0.6)], ((0.0, -0.5), (0.0, 0.5))) == WALL_END
    assert around([(-1, 0.0), (-0.1, -0.9), (1, -0.6)], ((0.0, -0.5), (0.0, 0.5))) == WALL_START


@given(st.integers(0, 10_000))
def test_ways_around_do_not_depend_on_where_things_stand(seed: int) -> None:
    draws = np.random.default_rng(seed)
    paths, walls = draws.normal(size=(4, 6, 2)), draws.normal(size=(4, 2, 2))
    found = ways_around(paths, walls)
    turn, move = draws.uniform(0, 2 * np.pi), draws.normal(size=2)
    moved = [
        2 * each @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) + move for each in (paths, walls)
    ]
    np.testing.assert_array_equal(ways_around(*moved), found)
    other = ways_around(paths, walls[:, ::-1])
    np.testing.assert_array_equal(other, np.choose(found + 1, [NOWHERE, WALL_END, WALL_START]))


def test_demonstrations_go_by_the_side_that_they_say() -> None:
    source = Demonstrations(20, 5)
    demonstrations = [source.demonstration(number) for number in range(20)]
    places = np.stack([locate(each) for each in demonstrations])
    sides = [each.route.side for each in demonstrations]
    assert {*sides} == {WALL_START, WALL_END}
    np.testing.assert_array_equal(ways_around(places[:, :, 0], places[:, 0, 2:]), sides)


def test_both_sides_are_a_tenth_of_the_samples_each(monkeypatch: pytest.MonkeyPatch) -> None:
    by = {
        WALL_START: [(0, 1), (-0.9, 0), (0, -1)],
        WALL_END: [(0, 1), (0.9, 0.1), (0, -1)],
        NOWHERE: [(0, 1), (0, -1), (0, -1)],
    }
    scenes = [[WALL_START] * 10 + [WALL_END] * 10, [WALL_START] * 18 + [WALL_END] * 2, [WALL_START] * 19 + [WALL_END]]
    scenes += [[NOWHERE] * 16 + [WALL_START] * 2 + [WALL_END] * 2]
    paths = np.array([[by[way] for way in scene] for scene in scenes], float)
    monkeypatch.setattr(keyframe_evaluation, "sampled_paths", lambda *arguments: paths)
    walls = np.broadcast_to([[-0.4, 0.0], [0.4, 0.0]], (4, 2, 2))
    model = KeyIn(KeyInConfig.keypoints(2))
    found = side_figures(model, np.zeros((4, 3, 2)), walls, Follower(0, np.zeros(2), 0.0), 20)
    assert found == {"both_sides": 0.75, "around": 64 / 80}


def test_samples_begin_where_the_sequence_stands() -> None:
    torch.manual_seed(0)
    config = replace(KeyInConfig.keypoints(4, given=2, frames=6, keyframes=2, longest=4, longest_segment=4), units=8)
    model = KeyIn(config).eval()
    codes = np.random.default_rng(0).uniform(-1, 1, (3, 8, 4)).astype(np.float32)
    offset = np.array([0.25, -0.5])
    paths = keyframe_evaluation.sampled_paths(model, codes, Follower(1, offset, 0.0), 5)
    assert paths.shape == (3, 5, 7, 2)
    np.testing.assert_allclose(paths[:, :, 0], np.broadcast_to(codes[:, None, 1, 2:] + offset, (3, 5, 2)), rtol=1e-6)
    assert paths[:, :, -1].std(axis=1).min() > 0


# Other figures


def test_keyframes_that_are_given_and_the_last_frame_do_not_count() -> None:
    true = np.zeros((2, 10), bool)
    true[0, [1, 4, 9]] = true[1, [3, 7]] = True
    found = [np.array([1, 4, 9]), np.array([2, 4, 6])]
    # Of frames 2 to 8: 1 of 1 and 1; none, and within one frame two of three and two.
    figures = discovery_figures(found, true, 2)
    assert figures == {"f1": pytest.approx(2 / (4 + 3)), "f1_tolerance1": pytest.approx(6 / (4 + 3))}


def test_reconstruction_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    model = KeyIn(KeyInConfig.keypoints(4))
    after = np.zeros((1, 2, 4), np.float32)
    # Two points: 0.6 and 0.8 away is 1, and there; then there, and 0.2 away.
    made = torch.tensor([[[0.6, 0.8, 0, 0], [0, 0, 0, 0.2]]])
    assert reconstruction_error(model, made, after) == pytest.approx([(1 + 0.2) / 4 / 2])
    frames = KeyIn(KeyInConfig(CodecConfig(image_size=8)))
    monkeypatch.setattr(frames, "render", lambda codes: np.full((1, 2, 8, 8, 3), 51, np.uint8))
    truth = np.zeros((1, 2, 8, 8, 3), np.uint8)
    truth[:, 1] = 102
    assert reconstruction_error(frames, torch.zeros(1, 2, 128), truth) == pytest.approx([0.04])


def test_a_keypoint_may_follow_at_any_place_of_a_thing() -> None:
    draws = np.random.default_rng(0)
    truth = draws.uniform(-1, 1, (4, 5, 2, 2))
    codes = np.stack([draws.uniform(-1, 1, (4, 5, 2)), truth[:, :, 1] - [0.2, -0.1], truth[:, :, 0]], axis=2)
    codes[:, ::2, 2, 0] += 0.05
    codes[:, 1::2, 2, 0] -= 0.05
    first, second = find_followers(codes.reshape(4, 5, 6), truth)
    assert (first.number, second.number) == (2, 1)
    np.testing.assert_allclose(second.offset, [0.2, -0.1])
    np.testing.assert_allclose(first.offset, [-0.01, 0], atol=1e-9)
    assert second.distance == pytest.approx(0, abs=1e-9)
    # 0.04 of three frames in five and 0.06 of two, in a width of 2.
    assert first.distance == pytest.approx((3 * 0.04 + 2 * 0.06) / 5 / 2)


def recorded(f1: float, **more: Any) -> dict[str, Any]:
    spent = {"wall_s": 10.0, "cpu_s": 20.0, "peak_memory_mb": 700.0}
    found = {"f1": f1, "f1_tolerance1": 0.9, "reconstruction": 0.02}
    return {"found": found, "step_ms": 40.0, "spent": spent} | more


def test_figures_are_those_of_recorded_runs(tmp_path: Path) -> None:
    searched = {"searched": {"f1": 0.6, "f1_tolerance1": 0.7, "reconstruction": 0.01}}
    results = {
        ("brownian", "keyin"): {0: recorded(0.5, **searched), 1: recorded(0.7, **searched)},
        ("pushing", "keyin_keypoints"): {1: recorded(0.4, sides={"both_sides": 0.25, "around": 0.75})},
        ("pushing", "random"): {0: {"found": {"f1": 0.1, "f1_tolerance1": 0.2}}},
    }
    measurement = Measurement("keyframes", "kpagent bench keyframes")
    add_figures(measurement, results)
    add_code_figures(
        measurement, "pushing", [{"distance": {"puck": value}, "spent": {"wall_s": 1.0}} for value in (0.1, 0.3)]
    )
    add_code_figures(measurement, "brownian", [])
    assert_result(measurement.result())
    figures = measurement.figures
    assert figures["brownian/keyin/f1"] == {
        # Student's t with one degree of freedom, 12.706, times a standard error of 0.1.
        "value": pytest.approx(0.6), "unit": "", "per_seed": [0.5, 0.7], "paper": 0.84,
        "ci95": pytest.approx([0.6 - 1.2706, 0.6 + 1.2706], abs=1e-3),
    }  # fmt: skip
    assert figures["brownian/keyin_searched/f1"]["value"] == 0.6
    assert "paper" not in figures["brownian/keyin_searched/f1"]
    assert figures["brownian/keyin/reconstruction"]["unit"] == "squared error of a pixel"
    assert figures["pushing/keyin_keypoints/reconstruction"] == {"value": 0.02, "unit": "image widths", "per_seed": [0.02]}
    assert figures["pushing/keyin_keypoints/both_sides"]["value"] == 0.25
    assert figures["pushing/keyin_keypoints/step_ms"] == {"value": 40, "unit": "ms", "per_seed": [40]}
    assert figures["pushing/random/f1"]["paper"] == 0.18
    assert figures["pushing/code/distance_puck"]["per_seed"] == [0.1, 0.3]
    assert "brownian/code/wall_s" not in figures
    draw_scores(tmp_path / "scores.png", figures)
    image = cv2.imread(str(tmp_path / "scores.png"))
    assert image is not None
    assert (image[..., ::-1] == (255, 0, 0)).all(axis=-1).any()


def test_scenes_show_samples_above_demonstrations(tmp_path: Path) -> None:
    ways = np.linspace((-0.5, 0.5), (0.5, -0.5), 7)
    paths = np.broadcast_to(ways, (2, 30, 7, 2))
    draw_paths(tmp_path / "ways.png", paths, np.array([[[-0.4, 0.0], [0.4, 0.0]]] * 2), paths[:, 0])
    image = cv2.imread(str(tmp_path / "ways.png"))
    assert image is not None
    # The wall in four panels.
    assert (image[..., ::-1] == (0x00, 0x72, 0xB2)).all(axis=-1).sum() > 4 * 100


def test_forms_of_the_model() -> None:
    base = model_config("brownian", "keyin_keypoints")
    assert (base.codec.size, base.length, base.longest, base.guide_share) == (2, 35, 10, 1)
    pushing = model_config("pushing", "keyin_positions")
    assert (pushing.codec.size, pushing.length, pushing.longest, pushing.longest_segment) == (8, 31, 6, 6)
    assert model_config("pushing", "keyin_keypoints").codec.size == 12
    assert model_config("pushing", "keyin") == KeyInConfig.pushing()
    assert model_config("brownian", "keyin") == KeyInConfig.brownian()
    plain = model_config("brownian", "keyin_paper_loss")
    own: dict[str, Any] = {
        "prior": "unit",
        "attention": "keyframe",
        "guide_share": 0.0,
        "keyframe_cost": 0.0,
        "choosing": 0.0,
        "keyframe_noise": 0.0,
    }
    assert plain == replace(base, **own, segment_kl_scale=1e-3)
    assert model_config("brownian", "keyin_joint") == base
    fixed = replace(base, guide_share=0.0, choosing=0.0, fixed_offsets=(4, 6, 5, 5, 4, 8))
    assert model_config("brownian", "static") == fixed
    # Six pushes, and what comes after them; baselines keep to the paper's six.
    assert pushing.keyframes == 7
    assert model_config("pushing", "surprise").keyframes == 6
    assert model_config("pushing", "static").fixed_offsets == (4, 5, 5, 5, 5, 6)
    assert model_config("pushing", "jumpy").fixed_offsets == (6,) * 6


def test_a_run_is_described_by_its_arguments() -> None:
    benchmark = KeyframeDiscovery(interpolator_steps=30, steps=4, code_steps=7)
    static = benchmark.plan("pushing", "static", 2)
    assert static.path == Path("runs/keyframes/pushing/static/seed_2/result.json")
    assert static.arguments["interpolator_from"] == "runs/keyframes/pushing/jumpy/seed_2"
    assert static.arguments["codes"] == "runs/keyframes/pushing/code/seed_2/codes.safetensors"
    assert benchmark.plan("pushing", "keyin_positions", 2).arguments["codes"] == "runs/keyframes/pushing/truth.safetensors"
    assert benchmark.plan("pushing", "keyin", 2).arguments["codes"] is None
    two, one = (
        make_learning(benchmark.plan("brownian", name, 2).arguments["learning"]) for name in ("static", "keyin_joint")
    )
    assert (two.joint, two.interpolator.steps, two.keyframes.steps, two.keyframes.seed) == (False, 30, 4, 2)
    assert (one.joint, one.keyframes.steps) == (True, 34)
    assert make_learning(describe(LearningConfig.fast())) == LearningConfig.fast()
    assert benchmark.plan_code("brownian", 1).arguments["learning"]["code"]["steps"] == 7
    # A pattern that is the same for all seeds is measured once.
    assert benchmark._seeds("constant") == (0,)


def test_codes_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "codes.safetensors"
    whole = {name: torch.zeros(2, 3, 2) for name in ("training", "test", "keyframes")}
    header: dict[str, Any] = {"model": "codes", "format": 1, "names": []}
    for tensors, text, message in (
        ({"training": whole["training"]}, header, "holds no codes of sequences"),
        (whole | {"more": torch.zeros(1)}, header, "holds no codes of sequences"),
        (whole, {"model": "codes", "format": 1}, "holds no codes of sequences: 'names'"),
        (whole, header | {"model": "keyin"}, "holds a 'keyin', not a codes"),
        (whole, header | {"format": 2}, "has format 2"),
    ):
        save_tensors(path, tensors, text)
        with pytest.raises(UsageError, match=message) as refusal:
            Codes.load(path)
        assert "\n" not in str(refusal.value)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UsageError, match="damaged"):
        Codes.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": ()}, "datasets must be of brownian, pushing, each once"),
        ({"datasets": ("brownian", "brownian")}, "datasets must be of brownian, pushing, each once"),
        ({"methods": ("keyout",)}, "methods must be of keyin_keypoints, "),
        ({"seeds": (1, 1)}, "seeds must be different"),
        ({"seeds": ()}, "seeds must be different"),
        ({"sequences": 19}, "sequences must be at least 20"),
        ({"test_sequences": 0}, "test_sequences must be at least 1"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"code_steps": 0}, "steps must be at least 1"),
        ({"interpolator_steps": 0}, "steps must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_mistakes_are_known_before_anything_is_run(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        KeyframeDiscovery(**changes, runs=tmp_path / "runs").run(print)
    assert not (tmp_path / "runs").exists()
