"""Play an environment, and see what its keypoints see: a video, a contact sheet, and the speed."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from kpagent.drawing import draw_keypoints
from kpagent.envs.keypoint_observation import KeypointObservation
from kpagent.envs.making import make_env
from kpagent.envs.recording import film_title, record, require_film, visible_xy
from kpagent.errors import UsageError


@dataclass(frozen=True)
class WatchReport:
    """What `watch` made and measured."""

    video: Path
    """The MP4: one frame for each interaction."""
    sheet: Path
    """The PNG beside it: 12 moments, spread evenly, in reading order."""
    interactions: int
    """Actions played; fewer than were asked for after a Ctrl-C."""
    interactions_per_s: float
    """Of the wrapped environment alone: its steps, keypoints and features included; the policy, drawing and video not."""
    observation: dict[str, np.ndarray]
    """The last observation: xy (K, 2), presence (K,), features (K, D)."""


def watch(
    env: str | gym.Env[Any, Any],
    keypoints: Any,
    *,
    out: str | Path,
    steps: int = 600,
    seed: int = 0,
    policy: Callable[[Any], Any] | None = None,
    fps: float = 30,
    trail: int = 16,
    labels: bool = False,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> WatchReport:
    """Play `steps` interactions, draw keypoints and their trails on every frame, and write a video and a contact sheet.

    Episodes follow one another, and trails start anew with each. One Ctrl-C ends the play, and what was played is written
    whole; a second one, or any error, leaves no file behind that was not there before.

    Args:
        env: the id of an environment, or an environment without keypoints; the frame drawn on is its image observation, or
            what it renders where that is no image. An environment that was handed in is not closed.
        keypoints: as for `KeypointObservation`: the name of shipped weights, a path, or a perception model.
        out: the video, ending in .mp4; the sheet has the same name ending in .png.
        steps: interactions, at least 1.
        seed: of the environment and of the random policy.
        policy: observation (of `KeypointObservation`, a Dict) to action; None plays uniformly at random.
        fps: frames of the video a second.
        trail: how many earlier positions the trails reach back.
        labels: write each keypoint's index beside it.
        device: where the keypoints are computed.
        progress: is called after each interaction with the number done and `steps`.

    Raises:
        UsageError: anything above is not as said, or a file cannot be written; known before the first interaction where it
            can be.
    """
    if steps < 1:
        raise UsageError(f"steps must be at least 1, not {steps}")
    if trail < 0:
        raise UsageError(f"trail must be at least 0, not {trail}")
    video, sheet = require_film(out)
    with contextlib.ExitStack() as stack:
        if isinstance(env, str):
            env = stack.enter_context(contextlib.closing(make_env(env)))
        wrapped = KeypointObservation(env, keypoints, device=device)
        wrapped.action_space.seed(seed)
        act = policy or (lambda _: wrapped.action_space.sample())
        moments = _play(wrapped, act, steps, seed, trail, labels)
        on_moment = (lambda moment: progress(moment.interaction, steps)) if progress else None
        last = record(moments, video, fps=fps, on_scene=on_moment)
    return WatchReport(video, sheet, last.interaction, last.interaction / last.seconds, last.observation)


def format_observation(observation: dict[str, np.ndarray]) -> str:
    """An observation in a few lines: each entry's name and shape, then its numbers with two decimals, long lists cut."""
    lines = []
    for name, values in observation.items():
        # Rounded here, so that what rounds to zero has no sign.
        rounded = np.round(values, 2) + 0.0
        numbers = np.array2string(rounded, precision=2, floatmode="fixed", threshold=64, edgeitems=3, prefix="    ")
        lines.append(f"{name} {np.shape(values)}\n    {numbers}")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Moment:
    """One interaction: what was seen after it, and how long the steps have taken since the beginning."""

    title: str
    interaction: int
    seconds: float
    frame: np.ndarray
    xy: np.ndarray
    trail: np.ndarray
    labels: bool
    observation: dict[str, np.ndarray]

    @property
    def note(self) -> str:
        return f"interaction {self.interaction}"

    def draw(self, scale: int) -> np.ndarray:
        return draw_keypoints(self.frame, self.xy, trails=self.trail, labels=self.labels, scale=scale)


def _play(
    env: KeypointObservation, act: Callable[[Any], Any], steps: int, seed: int, trail: int, labels: bool
) -> Iterator[_Moment]:
    try:
        observation, _ = env.reset(seed=seed)
    except gym.error.DependencyNotInstalled as error:
        raise UsageError(f"the environment cannot render: {error}") from error
    title = film_title(env)
    path: deque[np.ndarray] = deque(maxlen=trail)
    path.append(visible_xy(observation))
    seconds = 0.0
    for interaction in range(1, steps + 1):
        action = act(observation)
        start = time.perf_counter()
        observation, _, terminated, truncated, _ = env.step(action)
        seconds += time.perf_counter() - start
        xy = visible_xy(observation)
        history = np.array(path).reshape(-1, *xy.shape)
        yield _Moment(title, interaction, seconds, env.frame.copy(), xy, history, labels, observation)
        if terminated or truncated:
            observation, _ = env.reset()
            path.clear()
            xy = visible_xy(observation)
        path.append(xy)
