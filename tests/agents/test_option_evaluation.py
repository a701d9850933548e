"""Whole games of random options and of random actions: what is counted, and what is played."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scipy.stats import chisquare

from kpagent.agents.option_agent import OptionAgent
from kpagent.agents.option_evaluation import Episodes, Step, play_options, play_random
from kpagent.agents.option_network import OptionNetwork, OptionNetworkConfig
from kpagent.agents.recurrence import State
from kpagent.envs.frame_players import make_frame_players
from kpagent.envs.vec_env import GymnasiumVecEnv
from kpagent.errors import UsageError

K, T, SIZE = 3, 5, 36
SMALL = OptionNetworkConfig(image_size=SIZE, filters=(4, 4, 4), embedding=16, hidden=8)


def an_agent(actions: int) -> OptionAgent:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = OptionNetwork(K, actions, SMALL)
        for parameter in network.parameters():
            parameter.data.mul_(4)
    return OptionAgent(network, T)


class Count(gym.Env[np.ndarray, Any]):
    """Its episodes last `first`, then `first + 1` interactions, and so on; the reward is 100 a game and 1 a step."""

    observation_space = gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    action_space = gym.spaces.Discrete(4)

    def __init__(self, first: int) -> None:
        self.length, self.count = first - 1, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.length, self.count = self.length + 1, 0
        return np.zeros((SIZE, SIZE, 3), np.uint8), {"lives": 2}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        frame = np.full((SIZE, SIZE, 3), min(255, 10 * self.count), np.uint8)
        lives = 2 if self.count < 3 else 1
        return frame, 101.0 if self.count == 1 else 1.0, self.count == self.length, False, {"lives": lives}


def counters(*lengths: int) -> GymnasiumVecEnv:
    makers = [partial(Count, length) for length in lengths]
    return GymnasiumVecEnv(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP), life_loss=True)


@pytest.mark.parametrize("options", [False, True])
def test_every_copy_plays_its_share_of_whole_games(options: bool) -> None:
    players = counters(2, 30)
    steps: list[Step] = []
    play = partial(play_options, an_agent(4)) if options else play_random
    found = play(players, 5, on_step=steps.append)
    # Five games for two copies: two of the first, three of the second, however short those of the first are.
    assert found.interactions.tolist() == [2, 3, 30, 31, 32]
    assert found.scores.tolist() == [102, 103, 130, 131, 132]
    assert not found.cut.any()
    episodes = np.array([step.episode for step in steps])
    assert np.bincount(episodes[episodes >= 0]).tolist() == found.interactions.tolist()
    assert (episodes[5:, 0] == -1).all()
    ends = [(step.episode[copy], len(step.infos)) for step in steps for copy in np.flatnonzero(step.over)]
    assert {(episode, 2) for episode in range(5)} <= set(ends)
    assert all(step.frames.shape == (2, SIZE, SIZE, 3) for step in steps)


def test_a_game_that_lasts_too_long_is_cut_off_and_the_next_begins() -> None:
    players = counters(4, 9)
    steps: list[Step] = []
    found = play_random(players, 6, longest=6, on_step=steps.append)
    # The first copy's third game ends by itself when it would be cut off.
    assert found.interactions.tolist() == [4, 5, 6, 6, 6, 6]
    assert found.cut.tolist() == [False, False, False, True, True, True]
    assert found.scores.tolist() == [104, 105, 106, 106, 106, 106]
    black = [bool((step.frames[1] == 0).all()) for step in steps]
    assert np.flatnonzero(black).tolist() == [0, 6, 12]
    # Statistics of the players are those of the games that were cut off, too.
    last = play_random(counters(4), 1).interactions
    assert last.tolist() == [4]


def test_random_actions_are_uniform_and_their_seed_decides() -> None:
    def actions(seed: int) -> np.ndarray:
        steps: list[Step] = []
        play_random(counters(1000, 1000), 2, seed=seed, on_step=steps.append)
        return np.array([step.actions for step in steps])

    assert chisquare(np.bincount(actions(0).ravel())).pvalue > 0.01
    np.testing.assert_array_equal(actions(1), actions(1))
    assert (actions(1) != actions(2)).any()


def options_by_hand(agent: OptionAgent, steps: list[Step]) -> None:
    """Play each copy again, slowly, from the frames it saw; the directions are taken as they were drawn."""
    for copy in range(len(steps[0].episode)):
        state: State | None = None
        lives: int | None = None
        first, left, option = True, 0, (-1, -1)
        for step in steps:
            assert step.option is not None
            assert step.controllable is not None
            values, state = agent.values(step.frames[copy][None], np.array([first]), state)
            each = values[0].numpy()
            gap = (each.max(axis=-1) - each.min(axis=-1)).mean(axis=-1)
            assert step.controllable[copy] == gap.argmax()
            if first or left == 0:
                option, left = (int(gap.argmax()), int(step.option[copy, 1])), T
            left -= 1
            assert tuple(step.option[copy]) == option
            assert step.actions[copy] == each[option].argmax()
            before, lives = lives, step.infos[copy].get("lives", 0)
            lost = before is not None and 0 < lives < before
            first = bool(step.over[copy]) or lost
            lives = None if step.over[copy] else lives


def test_options_of_a_real_game_are_those_of_a_plain_loop() -> None:
    agent = an_agent(4)
    steps: list[Step] = []
    players = make_frame_players("ALE/Breakout-v5", 2, SIZE, seed=3)
    play_options(agent, players, 4, longest=60, seed=5, on_step=steps.append)
    options_by_hand(agent, steps)
    directions = [step.option[:, 1] for step in steps if step.option is not None]
    assert set(np.ravel(directions)) == {0, 1, 2, 3}
    players.close()


def test_a_lost_life_is_not_the_end_of_a_game() -> None:
    players, lives = make_frame_players("ALE/Breakout-v5", 2, SIZE, seed=0), []

    def note(step: Step) -> None:
        lives.append([info.get("lives", 0) for info in step.infos])

    found = play_random(players, 2, on_step=note)
    players.close()
    assert {5, 4, 3, 2, 1} <= set(np.ravel(lives))
    # A random player of Breakout, by the figures that human-normalised scores are made with, scores 1.7.
    assert (found.interactions > 100).all()
    assert (found.scores < 15).all()


def test_one_seed_gives_one_result() -> None:
    def played(seed: int) -> Episodes:
        players = make_frame_players("ALE/Breakout-v5", 2, SIZE, seed=0)
        found = play_options(an_agent(4), players, 2, longest=80, seed=seed)
        players.close()
        return found

    one, again = played(1), played(1)
    np.testing.assert_array_equal(one.scores, again.scores)
    np.testing.assert_array_equal(one.interactions, again.interactions)


@pytest.mark.parametrize(
    ("play", "message"),
    [
        (lambda: play_random(counters(2), 0), "the number of episodes must be at least 1, not 0"),
        (lambda: play_random(counters(2), 1, longest=0), "an episode must be allowed at least 1 interaction, not 0"),
        (lambda: play_options(an_agent(6), counters(2), 1), "choose among 6 actions, and the environment has 4"),
    ],
)
def test_a_mistake_is_one_line(play: Any, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        play()
