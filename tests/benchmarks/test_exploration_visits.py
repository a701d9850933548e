from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kpagent.agents.option_agent import OptionAgent
from kpagent.agents.option_evaluation import Step, play_options
from kpagent.agents.option_network import OptionNetwork, OptionNetworkConfig
from kpagent.benchmarks.exploration_visits import VisitRecorder, Visits, to_cells
from kpagent.envs.avatar import make_avatar_players
from kpagent.envs.later_screens import _LETTERS, _WAY_TO_SECOND_ROOM
from kpagent.perception.methods import new_detector

NOWHERE = (np.nan, np.nan)


def some_visits(**changes: Any) -> Visits:
    parts: dict[str, Any] = {
        "episode": [0, 1, 0, 1, 1, 0],
        # A cell is 0.125 wide and 0.0952 high.
        "avatar": [(-1, -1), (-0.99, -0.99), NOWHERE, (1, 1), (0.01, 0.01), (0.01, 0.01)],
        "room": [1, 1, 1, 1, 0, 1],
        "reward": [0, 0, 100, 0, 100, 300],
        "keypoint": [(-1, -1), (0, 0), (0, 0), (0.9, 1), (0.01, 0.11), (0.01, 0.06)],
    } | changes
    return Visits(**{name: np.array(values) for name, values in parts.items()})


def test_cells_are_squares_of_ten_pixels() -> None:
    # Row 115 and column 47 of 210 × 160 pixels, by their middles.
    xy = np.array([[(2 * 47 + 1) / 160 - 1, (2 * 115 + 1) / 210 - 1], [-1, -1], [1, 1]])
    assert to_cells(xy).tolist() == [[11, 4], [0, 0], [20, 15]]


def test_places_are_counted_by_hand() -> None:
    visits = some_visits()
    assert visits.first_room == 1
    assert visits.cells().tolist() == [[0, 10, 8], [1, 0, 0], [1, 10, 8], [1, 20, 15]]
    places = visits.places()
    assert {(row, column): int(places[row, column]) for row, column in zip(*np.nonzero(places), strict=True)} == {
        (0, 0): 2,
        (10, 8): 1,
        (20, 15): 1,
    }
    first = visits.first(2)
    assert len(first) == 2
    assert first.cells().tolist() == [[1, 0, 0]]
    assert first.keypoint is not None
    assert first.keypoint.tolist() == [[-1, -1], [0, 0]]


def test_the_first_key_is_a_hundred_in_the_first_room() -> None:
    visits = some_visits()
    assert visits.keys(3).tolist() == [True, False, False]
    assert some_visits(reward=[0, 300, 0, 1000, 100, 0]).keys(2).tolist() == [False, False]


def test_a_keypoint_on_the_avatar_is_near_it_while_it_is_seen() -> None:
    # Distances 0, 1.4, none, 0.1, 0.1 and 0.05.
    visits = some_visits()
    assert visits.share_on_avatar(0.075) == pytest.approx(2 / 5)
    assert visits.share_on_avatar(0.15) == pytest.approx(4 / 5)
    assert some_visits(avatar=[NOWHERE] * 6).share_on_avatar(0.1) is None
    with pytest.raises(ValueError, match="random actions"):
        Visits(visits.episode, visits.avatar, visits.room, visits.reward).share_on_avatar(0.1)


def test_a_scripted_player_takes_the_key_and_leaves_the_room() -> None:
    players, recorder = make_avatar_players("ALE/MontezumaRevenge-v5", 1, 36, seed=0), VisitRecorder()
    meanings: list[str] = players.env_method("get_action_meanings")[0]
    frames = np.asarray(players.reset())
    for letter in _WAY_TO_SECOND_ROOM + "....":
        actions = np.array([meanings.index(_LETTERS[letter])])
        after, rewards, dones, infos = players.step(actions)
        recorder.note(Step(np.zeros(1, np.int64), frames, actions, rewards, infos, dones))
        frames = np.asarray(after)
    players.close()
    visits = recorder.visits()
    # The key, then the door that it opens.
    assert visits.reward[visits.reward > 0].tolist() == [100, 300]
    taken = int(np.flatnonzero(visits.reward)[0])
    assert visits.keys(1).tolist() == [True]
    assert visits.first(taken).keys(1).tolist() == [False]
    assert visits.first_room == 1
    assert set(visits.cells()[:, 0].tolist()) == {0, 1}
    # The whole way: from the middle to the right ledge, down, to the key on the left, and back up to the door.
    assert 30 < len(visits.cells()) < 100
    assert not np.isnan(visits.avatar).any()


def test_what_is_recorded_is_what_copies_at_play_show() -> None:
    torch.manual_seed(0)
    agent = OptionAgent(OptionNetwork(3, 18, OptionNetworkConfig(36, (4, 4, 4), 16, 8)), 5)
    perception = new_detector("transporter", 3, seed=0, image_size=36).eval()
    recorder, steps = VisitRecorder(perception), []

    def note(step: Step) -> None:
        steps.append(step)
        recorder.note(step)

    players = make_avatar_players("ALE/Seaquest-v5", 2, 36, seed=0)
    played = play_options(agent, players, 3, longest=15, on_step=note)
    players.close()
    visits = recorder.visits()
    assert np.bincount(visits.episode).tolist() == played.interactions.tolist() == [15, 15, 15]
    expected = []
    for step in steps:
        assert step.controllable is not None
        for copy in np.flatnonzero(step.episode >= 0).tolist():
            xy = perception.encode(step.frames[copy : copy + 1], features=False).xy.numpy()[0, step.controllable[copy]]
            expected.append((step.episode[copy], step.rewards[copy], *step.infos[copy]["avatar"], *xy))
    assert visits.keypoint is not None
    found = np.column_stack([visits.episode, visits.reward, visits.avatar, visits.keypoint])
    np.testing.assert_allclose(found, np.array(expected), atol=1e-5)
