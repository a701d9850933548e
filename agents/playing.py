"""An agent at play: whole games on film, with what it sees and what it expects of every action."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from kpagent.agents.keypoint_policy import require_discrete, require_keypoints
from kpagent.agents.keyqn import KeyQN
from kpagent.agents.value_panel import draw_values
from kpagent.drawing import draw_keypoints
from kpagent.envs.players import newest_frame
from kpagent.envs.recording import film_title, record, require_film, visible_xy
from kpagent.envs.vec_env import LARGEST_SEED
from kpagent.errors import UsageError

BARS_SPAN = 100
"""A full bar is the widest difference between two actions in so many interactions."""


@dataclass(frozen=True)
class PlayReport:
    """What `play` made, and how the games went."""

    video: Path
    """The MP4: a frame for each decision, and one for the end of each game."""
    sheet: Path
    """The PNG beside it: 12 moments, spread evenly, in reading order."""
    frames: int
    """Of the video."""
    interactions: int
    """Actions played."""
    scores: tuple[float, ...]
    """Of the games that were played to their end, unclipped."""
    unfinished: float | None
    """Score of the game that `max_steps` or Ctrl-C cut short; None where none was."""


def play(
    agent: KeyQN,
    player: gym.Env[Any, Any],
    *,
    out: str | Path,
    games: int = 1,
    max_steps: int = 10_000,
    epsilon: float = 0.01,
    seed: int = 0,
    fps: float = 30,
    trail: int = 16,
    progress: Callable[[int, float], None] | None = None,
) -> PlayReport:
    """Play whole games almost greedily, and film them with keypoints, their trails and the Q-values of every action.

    The agent plays as it learned: a lost life begins a new trajectory, and with it its recurrent state. One Ctrl-C ends the
    play, and what was played is written whole; a second one, or any error, leaves no file behind that was not there before.

    Args:
        agent: plays with its network as it is; its own games are not touched.
        player: an environment of keypoints, as `kpagent.envs.players.make_player` makes it; it is not closed.
        out: the video, ending in .mp4; the sheet has the same name ending in .png.
        games: to play to their end.
        max_steps: interactions after which the film ends in any case.
        epsilon: share of random actions.
        seed: of the first game, from which the others follow, and of the random actions.
        fps: frames of the video a second.
        trail: how many earlier positions the trails reach back.
        progress: is called after each frame with the interactions played and the score of the present game.

    Raises:
        UsageError: anything above is not as said, the agent is for other keypoints or actions, or a file cannot be written;
            known before the first interaction where it can be.
    """
    for name, value, least in (("games", games, 1), ("max_steps", max_steps, 1), ("trail", trail, 0)):
        if value < least:
            raise UsageError(f"{name} must be at least {least}, not {value}")
    if not 0 <= epsilon <= 1:
        raise UsageError(f"epsilon must be from 0 to 1, not {epsilon}")
    if not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"the seed must be from 0 to {LARGEST_SEED}, not {seed}")
    _require_fit(agent, player)
    video, sheet = require_film(out)
    frames = 0

    def on_moment(moment: _Moment) -> None:
        nonlocal frames
        frames += 1
        if progress:
            progress(moment.interaction, moment.score)

    moments = _play(agent, player, games, max_steps, epsilon, seed, trail)
    last = record(moments, video, fps=fps, on_scene=on_moment)
    scores = (*last.scores, last.score) if last.over else last.scores
    return PlayReport(video, sheet, frames, last.interaction, scores, None if last.over else last.score)


@dataclass(frozen=True)
class _Moment:
    """A decision, or the end of a game."""

    title: str
    interaction: int
    scores: tuple[float, ...]
    score: float
    over: bool
    frame: np.ndarray
    xy: np.ndarray
    trail: np.ndarray
    actions: tuple[str, ...]
    values: np.ndarray | None
    chosen: int | None
    full: float

    @property
    def note(self) -> str:
        return f"interaction {self.interaction}"

    def draw(self, scale: int) -> np.ndarray:
        drawn = draw_keypoints(self.frame, self.xy, trails=self.trail, scale=scale)
        panel = draw_values(drawn.shape[0], f"score {self.score:g}", self.actions, self.values, self.chosen, self.full)
        return np.concatenate([drawn, panel], axis=1)


def _play(
    agent: KeyQN, player: gym.Env[Any, Any], games: int, max_steps: int, epsilon: float, seed: int, trail: int
) -> Iterator[_Moment]:
    title, actions = film_title(player), _action_names(player, agent.q_net.num_actions)
    generator = np.random.default_rng(seed)
    widths: deque[float] = deque(maxlen=BARS_SPAN)
    path: deque[np.ndarray] = deque(maxlen=trail)
    scores: tuple[float, ...] = ()
    interaction = 0
    observation, info = player.reset(seed=seed)
    while True:
        score, over, state, first = 0.0, False, None, np.ones(1, bool)
        lives = info.get("lives", 0)
        path.clear()
        while not over:
            values, state = agent.policy.q_values(_batch_of_one(observation), state, first)
            expected = values[0].float().cpu().numpy()
            explores = generator.random() < epsilon
            chosen = int(generator.integers(len(actions)) if explores else expected.argmax())
            widths.append(float(np.ptp(expected)))
            xy = visible_xy(observation)
            seen = (newest_frame(player).copy(), xy, np.array(path).reshape(-1, *xy.shape), actions)
            yield _Moment(title, interaction, scores, score, False, *seen, expected, chosen, max(widths))
            if interaction == max_steps:
                return
            path.append(xy)
            observation, reward, terminated, truncated, info = player.step(chosen)
            interaction += 1
            score += float(reward)
            over = terminated or truncated
            # As GymnasiumVecEnv ends trajectories in training.
            before, lives = lives, info.get("lives", lives)
            first = np.array([0 < lives < before])
        xy = visible_xy(observation)
        seen = (newest_frame(player).copy(), xy, np.array(path).reshape(-1, *xy.shape), actions)
        yield _Moment(title, interaction, scores, score, True, *seen, None, None, max(widths))
        scores = (*scores, score)
        if len(scores) == games or interaction == max_steps:
            return
        observation, info = player.reset()


def _batch_of_one(observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value[None] for name, value in observation.items()}


def _action_names(player: gym.Env[Any, Any], count: int) -> tuple[str, ...]:
    """As the environment calls its actions, or their numbers."""
    meanings = getattr(player.unwrapped, "get_action_meanings", None)
    return tuple(map(str, meanings() if meanings else range(count)))


def _require_fit(agent: KeyQN, player: gym.Env[Any, Any]) -> None:
    wanted = (agent.q_net.num_keypoints, agent.q_net.given_features, agent.q_net.num_actions)
    found = (*require_keypoints(player.observation_space), require_discrete(player.action_space))
    if wanted == found:
        return
    learned = agent.provenance
    source = f"; it learned {learned['env']} from the keypoints of {learned['see']}" if "see" in learned else ""
    raise UsageError(
        "the agent plays with {} keypoints of {} features and {} actions; the environment has {}, {} and {}{}".format(
            *wanted, *found, source
        )
    )
