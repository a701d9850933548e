from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from kpagent.agents.exploration import CELLS
from kpagent.agents.exploration_pictures import draw_places, random_places
from kpagent.agents.option_agent import OptionAgent
from kpagent.agents.option_network import OptionNetwork, OptionNetworkConfig
from kpagent.envs.frame_players import make_frame_players
from kpagent.perception.methods import new_detector

SCREEN = np.full((210, 160, 3), 90, np.uint8)


def saturation(path: Path) -> np.ndarray:
    """How far each pixel is from grey."""
    picture = np.asarray(cv2.imread(str(path)), int)
    return np.asarray(picture.max(axis=-1) - picture.min(axis=-1))


def test_a_heatmap_is_coloured_where_somebody_has_been(tmp_path: Path) -> None:
    left, right = np.zeros(CELLS, np.int64), np.zeros(CELLS, np.int64)
    left[2, 3], right[18, 12] = 40, 7
    draw_places(tmp_path / "places.png", SCREEN, {"one": left, "other": right})
    colour = saturation(tmp_path / "places.png") > 40
    middle = 0.431 * colour.shape[1]
    rows, columns = np.nonzero(colour[:, : int(2 * middle)])
    one, other = columns < middle, columns > middle
    assert one.any()
    assert other.any()
    # The first is high up on the left of its panel, the second low on the right of its own; beyond lies the colour bar.
    assert rows[one].max() < rows[other].min()
    assert columns[one].mean() < 0.3 * middle
    assert columns[other].mean() > 1.6 * middle


def test_nothing_seen_is_no_colour(tmp_path: Path) -> None:
    draw_places(tmp_path / "places.png", SCREEN, {"nothing": np.zeros(CELLS, np.int64)})
    colour = saturation(tmp_path / "places.png")
    assert (colour[:, : colour.shape[1] // 2] < 5).all()


def test_random_play_is_looked_at_every_fourth_interaction() -> None:
    torch.manual_seed(0)
    small = OptionNetworkConfig(image_size=36, filters=(4, 4, 4), embedding=8, hidden=8)
    agent = OptionAgent(OptionNetwork(2, 4, small), 5)
    players = make_frame_players("ALE/Breakout-v5", 3, 36, seed=0)
    perception = new_detector("transporter", 2, seed=0, image_size=36)
    places = random_places(agent, perception.eval(), players, 10, 0)
    players.close()
    assert places.shape == CELLS
    assert places.sum() == 3 * 3
