"""One game whose frames are shown, played as those that agents learn in."""

from __future__ import annotations

import ale_py
import gymnasium as gym
import numpy as np
import pytest
import torch

from kpagent.envs.players import LONGEST_GAME, OBJECTS, make_player, newest_frame
from kpagent.errors import UsageError
from kpagent.perception.transporter import Transporter, TransporterConfig


@pytest.fixture(scope="module")
def model() -> Transporter:
    torch.manual_seed(0)
    return Transporter(TransporterConfig.fast(2)).eval()


def emulator() -> ale_py.ALEInterface:
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    rom = ale_py.roms.get_rom_path("pong")
    assert rom is not None
    ale.loadROM(rom)
    return ale


def test_atari_is_the_emulators_own_game_after_idle_frames(model: Transporter) -> None:
    player, ale = make_player("ALE/Pong-v5", model), emulator()
    actions, idle = ale.getMinimalActionSet(), []
    for seed in range(4):
        observation, info = player.reset(seed=seed)
        ale.reset_game()
        begun = ale.getEpisodeFrameNumber()
        idle.append(info["episode_frame_number"] - begun)
        for _ in range(idle[-1]):
            ale.act(ale_py.Action.NOOP)
        np.testing.assert_array_equal(newest_frame(player), ale.getScreenRGB())
        for action in (2, 3, 3):
            observation, *_ = player.step(action)
            for _ in range(4):
                ale.act(actions[action])
        np.testing.assert_array_equal(newest_frame(player), ale.getScreenRGB())
        np.testing.assert_array_equal(observation["xy"], model.encode(ale.getScreenRGB()[None]).numpy().xy[0])
    assert len(set(idle)) > 1
    assert all(0 <= count < 30 for count in idle)
    assert player.reset(seed=3)[1]["episode_frame_number"] - begun == idle[3]
    assert player.get_wrapper_attr("ale").getInt("max_num_frames_per_episode") == LONGEST_GAME


def test_true_positions_come_with_frames_of_the_same_moment() -> None:
    player = make_player("ALE/Pong-v5", OBJECTS)
    player.reset(seed=0)
    for _ in range(30):
        observation, *_ = player.step(2)
    frame = newest_frame(player)
    assert (frame.shape, frame.dtype) == ((210, 160, 3), np.uint8)
    index = player.get_wrapper_attr("objects").index("player")
    x, y = ((observation["xy"][index] + 1) / 2 * (160, 210)).astype(int)
    # The player's paddle is green.
    assert frame[y, x].tolist() == [92, 186, 92]


def test_features_can_be_left_out(model: Transporter) -> None:
    player = make_player("ALE/Pong-v5", model, features=False)
    assert isinstance(player.observation_space, gym.spaces.Dict)
    assert set(player.observation_space.spaces) == {"xy", "presence"}


@pytest.mark.parametrize(
    ("env_id", "see", "message"),
    [
        ("ALE/Pog-v5", OBJECTS, "no environment called 'ALE/Pog-v5'"),
        ("ALE/Pong-v5", "breakout", "the weights 'breakout' are for ALE/Breakout-v5, not for ALE/Pong-v5"),
        ("ALE/Pong-v5", "none.safetensors", "no weights file at none.safetensors"),
        ("ALE/Tennis-v5", OBJECTS, "no ground truth"),
    ],
)
def test_a_mistake_is_said_in_one_line(env_id: str, see: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make_player(env_id, see)
    assert "\n" not in str(caught.value)
