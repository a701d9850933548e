from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kpagent.agents.exploration import CELLS, Turn
from kpagent.agents.exploration_log import ExplorationLog

NAN = float("nan")


def a_turn(interactions: int, **changes: Any) -> Turn:
    turn: dict[str, Any] = {
        "interactions": interactions,
        "per_second": 500.0,
        "learning": True,
        "keypoint_loss": 0.5,
        "option_loss": 0.25,
        "displacement": (0.01, 0.02, 0.0, NAN),
        "keypoint": 2,
        "returns": (),
        "places": np.zeros(CELLS, np.int64),
    }
    return Turn(**turn | changes)


def test_the_line_says_how_it_goes(tmp_path: Path) -> None:
    log = ExplorationLog(tmp_path, 4, 20)
    nothing = {"learning": False, "keypoint_loss": None, "option_loss": None, "displacement": None}
    log.note(a_turn(320, **nothing))
    assert log.line() == "warming up, 0 frames/s"
    log.note(a_turn(640, displacement=(0.03, NAN, 0.0, NAN), keypoint=1, returns=(100.0, 0.0)))
    for turn in range(3, 6):
        log.note(a_turn(320 * turn, returns=(50.0,) if turn == 4 else ()))
    log.close()
    speed, *rest = log.line().removeprefix("exploring, ").split(" frames/s, ")
    assert float(speed.replace(",", "")) == pytest.approx(log.frames_per_s(), rel=0.1)
    # Returns are those of 20 interactions: (0.03 + 3 × 0.01) / 4 × 20 to the right.
    assert rest == ["right +0.30 left +0.40 down +0.00 up ?, keypoint 2, score 50, best 100"]
    assert (log.games, log.best) == (3, 100)


def test_figures_are_logged_by_frames_and_a_run_that_is_taken_up_writes_over_what_was_lost(tmp_path: Path) -> None:
    for begin, loss in ((1, 1.0), (3, 9.0)):
        log = ExplorationLog(tmp_path, 4, 20)
        for turn in range(begin, begin + 4):
            log.note(a_turn(10 * turn, option_loss=loss, returns=(7.0, 8.0) if turn == 3 else ()))
        log.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(each.step, each.value) for each in events.Scalars("options/loss")] == [
        (40, 1), (80, 1), (120, 9), (160, 9), (200, 9), (240, 9)
    ]  # fmt: skip
    assert [(each.step, each.value) for each in events.Scalars("extrinsic/score")] == [(120, 7.5)]
    assert events.Scalars("options/return_left")[0].value == pytest.approx(0.4)
    assert events.Scalars("frames/per_second")[0].value == 2000
    tags = set(events.Tags()["scalars"])
    assert "options/return_up" not in tags
    assert {"keypoints/loss", "options/most_controllable", "options/return_right", "options/return_down"} <= tags
