from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from test_results import assert_result

from kpagent.agents.exploration import ExplorationConfig
from kpagent.agents.option_learner import OptionLearningConfig
from kpagent.benchmarks import scaling
from kpagent.benchmarks.scaling import Scaling
from kpagent.benchmarks.scaling_estimate import (
    Assumptions,
    Costs,
    draw_estimate,
    first_to_saturate,
    report,
    saturation,
    speed_up_needed,
)
from kpagent.errors import UsageError

COSTS = Costs(
    actor_per_s=500,
    update_s=0.4,
    keypoint_step_s=0.1,
    round_s=0.004,
    publish_s=0.128,
    store_s=0.032,
    sample_s=0.02,
    pairs_s=0.012,
    weights_bytes=10e6,
    segments_bytes=7e6,
    pairs_bytes=1e6,
)
ASSUMED = Assumptions(bandwidth=1e9)
"""A round of 320 interactions, and one update and one step for it."""


def assume(**changes: Any) -> Assumptions:
    return dataclasses.replace(ASSUMED, **changes)


def test_each_part_saturates_where_its_time_or_bandwidth_is_used_up() -> None:
    assert saturation(COSTS, ASSUMED) == pytest.approx(
        {
            "actors": 64_000,
            # Of a round: 10 MB of weights out, 8 MB of batches in.
            "network": 1e9 / 10e6 * 320,
            # Of a round: 32 ms to store, 32 ms to draw, on each of eight shards by turns.
            "shards": 8 / 0.064 * 320,
            # Of a round: 4 ms of calls, 128 ms of weights once for 128 rounds, 500 ms of learning.
            "learner": 320 / 0.505,
        }
    )
    found = saturation(COSTS, assume(actors=64, shards=2, speed_up=100, replay_ratio=4))
    expected = {"actors": 32_000, "network": 1e9 / 32e6 * 320, "shards": 2 / 0.16 * 320, "learner": 320 / 0.026}
    assert found == pytest.approx(expected)


def test_weights_are_fetched_once_a_machine_and_not_more_often_than_rounds_are_played() -> None:
    def network(**changes: Any) -> float:
        return saturation(COSTS, assume(**changes))["network"]

    assert network(replay_ratio=0.1, rounds_per_version=4) == pytest.approx(1e9 / 10e6 * 320)
    # Four machines fetch one version in sixteen rounds: 2.5 MB a round, against 8 MB of batches, or 0.8.
    assert network(rounds_per_version=16) == pytest.approx(1e9 / 8e6 * 320)
    assert network(rounds_per_version=16, replay_ratio=0.1) == pytest.approx(1e9 / 2.5e6 * 320)
    assert network(rounds_per_version=16, replay_ratio=0.1, actors=33) == pytest.approx(1e9 / 1.25e6 * 320)


def test_the_learner_is_first_until_it_is_fast_enough() -> None:
    assert first_to_saturate(COSTS, ASSUMED) == ("learner", pytest.approx(320 / 0.505))
    # The network takes a round in 10 ms; 5 ms of those are left for 500 ms of learning.
    assert speed_up_needed(COSTS, ASSUMED) == pytest.approx(100)
    assert first_to_saturate(COSTS, assume(speed_up=99))[0] == "learner"
    assert first_to_saturate(COSTS, assume(speed_up=101)) == ("network", pytest.approx(32_000))
    assert speed_up_needed(COSTS, assume(bandwidth=1e12, shards=1000)) == math.inf
    assert speed_up_needed(COSTS, assume(actors=1)) == pytest.approx(0.5 / (0.64 - 0.132))


def test_the_report_says_what_is_first_and_what_was_assumed() -> None:
    lines = report(COSTS, ASSUMED)
    assert "128 actors" in lines[0]
    assert "8 Gbit/s" in lines[0]
    assert "actors: saturated at 64,000 interactions/s" in lines
    assert "learner, its updates as fast as here: saturated at 634; first of all learner, at 634, with 1% of" in lines[4]
    assert "assumed 1000 times as fast as here: saturated at 58,182; first of all network, at 32,000, with 50%" in lines[-2]
    assert lines[-1] == "first: the learner, until its updates are 100.0 times as fast as here; then network"
    assert report(COSTS, assume(actors=1))[-1] == "first: actors, even with updates as fast as here"
    assert "since its calls alone end at 64,000" in report(COSTS, assume(bandwidth=1e12, shards=1000))[-1]


def test_the_workload_is_that_of_the_settings() -> None:
    assert Assumptions.of(ExplorationConfig()) == Assumptions()
    learning = OptionLearningConfig(batch_size=8, sequence_length=11)
    config = ExplorationConfig(envs=4, round_length=10, updates=2, keypoint_steps=1, learning=learning)
    found = Assumptions.of(config)
    assert (found.replay_ratio, found.rows_per_update, found.steps_per_update, found.round_interactions) == (4, 80, 0.5, 40)
    assert found.updates == 2 / 40


def test_the_picture_has_every_part(tmp_path: Path) -> None:
    draw_estimate(tmp_path / "scaling.png", COSTS, ASSUMED)
    image = cv2.imread(str(tmp_path / "scaling.png"))
    assert image is not None
    found = {tuple(colour) for colour in image[..., ::-1].reshape(-1, 3).tolist()}
    assert {(0, 114, 178), (0, 158, 115), (204, 121, 167), (213, 94, 0)} <= found


def test_one_actor_is_measured_on_this_machine_and_on_a_node_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(scaling, "_LEAST_CALLS", 1)
    said: list[str] = []
    threads = torch.get_num_threads()
    result = Scaling(actors=(1,), seconds=0.1, rounds=1, device="cpu", pictures=tmp_path).run(said.append)
    assert not ray.is_initialized()
    assert torch.get_num_threads() == threads
    assert_result(result)
    figures = {name: figure["value"] for name, figure in result["figures"].items()}
    assert figures.keys() == {
        "actors/0/interactions_per_s", "actors/1/interactions_per_s", "actors/1/ray_share", "solo/interactions_per_s",
        "cluster/1/interactions_per_s", "cluster/1/ray_share", "learner/updates_per_s", "learner/keypoint_steps_per_s",
        "learner/bytes_per_update", "learner/bytes_per_keypoint_step", "learner/round_ms", "weights/publish_ms",
        "weights/bytes", "experience/bytes_per_interaction", "shard/sample_ms", "shard/pairs_ms", "shard/store_ms",
    }  # fmt: skip
    shares = ("actors/1/ray_share", "cluster/1/ray_share")
    assert all(figure > 0 for name, figure in figures.items() if name not in shares)
    # Rounds that lie half inside of what was measured make a share inexact.
    assert all(-0.5 < figures[name] < 1 for name in shares)
    # An 84×84 frame of three colours is 21 KB; the state beside it is 512 numbers of two bytes.
    assert 1024 < figures["experience/bytes_per_interaction"] < 1024 + 21_168
    assert figures["learner/bytes_per_update"] == pytest.approx(16 * 21 * (21_168 + 1024), rel=0.1)
    assert figures["learner/bytes_per_keypoint_step"] == pytest.approx(2 * 32 * 21_168, rel=0.01)
    assert said[-2].startswith("first: ")
    assert cv2.imread(str(tmp_path / "scaling.png")) is not None
    assert Costs.of(result["figures"]).actor_per_s == figures["actors/1/interactions_per_s"]


def test_numbers_of_actors_double_up_to_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for cpus, counts in ((1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))):
        monkeypatch.setattr(os, "cpu_count", lambda cpus=cpus: cpus)
        assert Scaling().counts() == counts
    assert Scaling(actors=(3, 1)).counts() == (1, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actors": (0,)}, "actors must be different and at least 1"),
        ({"actors": (1, 1)}, "actors must be different"),
        ({"actors": (900,)}, "900 actors need as many CPUs, and this machine has"),
        ({"seconds": 0.0}, "seconds must be positive; got 0.0"),
        ({"rounds": 0}, "rounds must be at least 1; got 0"),
        ({"device": "abacus"}, "no device 'abacus'"),
        ({"env": "ALE/Tetriss-v5"}, "Tetriss"),
        ({"pictures": Path(__file__)}, "cannot write"),
    ],
)
def test_mistakes_are_known_before_anything_is_measured(changes: dict[str, Any], message: str) -> None:
    said: list[str] = []
    with pytest.raises(UsageError, match=message) as error:
        dataclasses.replace(Scaling(actors=(1,)), **changes).run(said.append)
    assert "\n" not in str(error.value)
    assert said == []
