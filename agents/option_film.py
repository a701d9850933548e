"""A film of options at work: every keypoint, and the most controllable one as a triangle (Transporter Figure 3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from kpagent.agents.intrinsic import DIRECTIONS, most_controllable
from kpagent.agents.keypoint_policy import require_keypoints
from kpagent.agents.option_agent import OptionAgent
from kpagent.agents.option_clock import OptionClock, option_actions
from kpagent.agents.recurrence import State
from kpagent.drawing import draw_keypoints
from kpagent.envs.players import newest_frame
from kpagent.envs.recording import record, require_film, visible_xy
from kpagent.errors import UsageError


@dataclass(frozen=True)
class OptionFilm:
    """What `film_options` made."""

    video: Path
    """The MP4: a frame for each interaction, and one for the end of the game."""
    sheet: Path
    """The PNG beside it: 12 moments, spread evenly, in reading order."""
    interactions: int
    """Played."""
    score: float
    """So far, or of the game where it is over."""
    over: bool
    """Whether the game is."""


def film_options(
    agent: OptionAgent,
    player: gym.Env[Any, Any],
    *,
    out: str | Path,
    max_steps: int = 1_000,
    seed: int = 0,
    fps: float = 30,
    trail: int = 16,
    progress: Callable[[int], None] | None = None,
) -> OptionFilm:
    """Film one game of random options: the most controllable keypoint in a random direction, T interactions, greedily.

    The triangle is the keypoint that is the most controllable in the frame that is shown; the one that an option moves was
    that when the option began, and the caption names it. One Ctrl-C ends the film, and what was played is written whole.

    Args:
        agent: of keypoint options.
        player: an environment of the keypoints that these options move, as `kpagent.envs.players.make_player` makes it; it
            is not closed.
        out: the video, ending in .mp4; the sheet has the same name ending in .png.
        max_steps: interactions after which the film ends in any case.
        seed: of the game and the directions.
        fps: frames of the video a second.
        trail: how many earlier positions the trails reach back.
        progress: is called after each frame with the interactions played.

    Raises:
        UsageError: anything above is not as said, or a file cannot be written; known before the first interaction where it
            can be.
    """
    if max_steps < 1:
        raise UsageError(f"max_steps must be at least 1, not {max_steps}")
    if trail < 0:
        raise UsageError(f"trail must be at least 0, not {trail}")
    wanted = (agent.num_keypoints, agent.network.num_actions)
    found = (require_keypoints(player.observation_space)[0], getattr(player.action_space, "n", 0))
    if wanted != found:
        message = "the options are of {} keypoints and {} actions; the environment has {} and {}"
        raise UsageError(message.format(*wanted, *found))
    video, sheet = require_film(out)
    moments = _play(agent, player, max_steps, seed, trail)
    on_scene = None if progress is None else lambda moment: progress(moment.interaction)
    last = record(moments, video, fps=fps, on_scene=on_scene)
    return OptionFilm(video, sheet, last.interaction, last.score, last.over)


@dataclass(frozen=True)
class _Moment:
    """An interaction, or the end of the game."""

    interaction: int
    score: float
    over: bool
    option: np.ndarray
    controllable: int
    frame: np.ndarray
    xy: np.ndarray
    trail: np.ndarray

    @property
    def title(self) -> str:
        return f"score {self.score:g}"

    @property
    def note(self) -> str:
        keypoint, direction = self.option
        return f"interaction {self.interaction}, keypoint {keypoint} {DIRECTIONS[direction]}"

    def draw(self, scale: int) -> np.ndarray:
        return draw_keypoints(self.frame, self.xy, trails=self.trail, triangle=self.controllable, scale=scale)


def _play(agent: OptionAgent, player: gym.Env[Any, Any], max_steps: int, seed: int, trail: int) -> Iterator[_Moment]:
    clock = OptionClock(1, agent.num_keypoints, agent.commitment, np.random.default_rng(seed))
    path: deque[np.ndarray] = deque(maxlen=trail)
    observation, info = player.reset(seed=seed)
    lives, score, over = info.get("lives", 0), 0.0, False
    state: State | None = None
    first = np.ones(1, bool)
    for interaction in range(max_steps + 1):
        frame, xy = newest_frame(player).copy(), visible_xy(observation)
        values, state = agent.values(frame[None], first, state)
        if not over:
            clock.tick(first, values)
        seen = (frame, xy, np.array(path).reshape(-1, *xy.shape))
        yield _Moment(interaction, score, over, clock.option[0].copy(), int(most_controllable(values)), *seen)
        if over:
            return
        path.append(xy)
        action = int(option_actions(values, clock.option)[0])
        observation, reward, terminated, truncated, info = player.step(action)
        score += float(reward)
        over = terminated or truncated
        # As GymnasiumVecEnv ends trajectories in training.
        before, lives = lives, info.get("lives", lives)
        first = np.array([0 < lives < before])
