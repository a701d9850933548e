from __future__ import annotations

import numpy as np
import pytest

from kpagent.envs.pushing.demonstrations import Demonstrations
from kpagent.envs.pushing.scene import Scene, path_length
from kpagent.envs.pushing.tasks import HARD_DETOUR, detour, draw_tasks
from kpagent.errors import UsageError


def test_detours_worked_by_hand() -> None:
    # The way turns at 0.52 from the middle of the wall.
    across = Scene(puck=(0.0, 0.39), goal=(0.0, -0.39), wall=(0.0, 0.0), wall_angle=0.0)
    assert path_length(across, across.puck, across.goal) == pytest.approx(2 * 0.65)
    assert detour(across) == pytest.approx(1.3 - 0.78)
    turned = Scene(puck=(-0.39, 0.0), goal=(0.39, 0.0), wall=(0.0, 0.0), wall_angle=np.pi / 2)
    assert detour(turned) == pytest.approx(0.52)
    # 0.12 from one end: the ways to it are 5 and 13 hundredths.
    beside = Scene(puck=(0.4, 0.05), goal=(0.4, -0.35), wall=(0.0, 0.0), wall_angle=0.0)
    assert detour(beside) == pytest.approx(0.13 + 0.37 - 0.4)
    past = Scene(puck=(0.6, 0.3), goal=(0.6, -0.3), wall=(0.0, 0.0), wall_angle=0.0)
    assert detour(past) == 0
    moved = Scene(puck=(0.1, 0.59), goal=(0.1, -0.19), wall=(0.1, 0.2), wall_angle=0.0)
    assert detour(moved) == pytest.approx(0.52)


def test_tasks_have_the_share_of_hard_ones_and_a_solution() -> None:
    tasks = draw_tasks(6, seed=3, hard_share=0.5)
    assert [task.hard for task in tasks].count(True) == 3
    assert [task.number for task in tasks] == sorted({task.number for task in tasks})
    for task in tasks:
        assert task.hard == (task.detour > HARD_DETOUR)
        assert task.subgoals.shape == (6, 2)
        assert float(path_length(task.scene, task.subgoals[-1], task.scene.goal)) < 0.1
    again = draw_tasks(4, seed=3, hard_share=0.25)
    ordinary = [task.number for task in tasks if not task.hard]
    assert [task.number for task in again if not task.hard] == ordinary
    assert [task.number for task in again if task.hard] == [next(task.number for task in tasks if task.hard)]
    np.testing.assert_array_equal(again[0].subgoals, tasks[0].subgoals)
    assert not any(task.hard for task in draw_tasks(2, seed=3, hard_share=0.0))


def test_tasks_are_no_demonstrations_of_the_same_seed() -> None:
    task = draw_tasks(1, seed=0, hard_share=0.0)[0]
    assert Demonstrations(1, 0).demonstration(task.number).scene != task.scene


@pytest.mark.parametrize(("count", "seed", "share"), [(0, 0, 0.5), (1, -1, 0.5), (1, 0, 1.5), (1, 0, float("nan"))])
def test_mistakes_are_named(count: int, seed: int, share: float) -> None:
    with pytest.raises(UsageError, match="tasks need a count of at least 1"):
        draw_tasks(count, seed=seed, hard_share=share)
