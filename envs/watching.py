"""Play an environment, and see what its keypoints see: a video, a contact sheet, and the speed."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import gymnasium as gym
import numpy as np

from kpagent.drawing import (
    PRESENT,
    add_caption,
    contact_sheet,
    default_scale,
    draw_keypoints,
    require_writable,
    write_png,
    write_video,
)
from kpagent.envs.keypoint_observation import KeypointObservation
from kpagent.envs.making import make_env
from kpagent.errors import UsageError
from kpagent.frames import FrameLayout

SHEET_FRAMES = 12
"""Frames on the contact sheet."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class WatchReport:
    """What `watch` made and measured."""

    video: Path
    """The MP4: one frame for each interaction."""
    sheet: Path
    """The PNG beside it: `SHEET_FRAMES` moments, spread evenly, in reading order."""
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
    video = require_writable(out, ".mp4")
    sheet = require_writable(video.with_suffix(".png"), ".png")
    with contextlib.ExitStack() as stack:
        if isinstance(env, str):
            env = stack.enter_context(contextlib.closing(make_env(env)))
        onlooker = _Onlooker(env)
        wrapped = KeypointObservation(onlooker, keypoints, device=device)
        wrapped.action_space.seed(seed)
        act = policy or (lambda _: wrapped.action_space.sample())
        name = env.spec.id if env.spec else type(env.unwrapped).__name__
        spread = _Spread[_Moment](SHEET_FRAMES)
        interrupted = stack.enter_context(_noting_interrupt())

        def pictures() -> Iterator[np.ndarray]:
            for moment in _play(wrapped, onlooker, act, steps, seed, trail):
                spread.offer(moment)
                drawn = draw_keypoints(moment.frame, moment.xy, trails=moment.trail, labels=labels)
                yield add_caption(drawn, name, f"interaction {moment.interaction}")
                if progress:
                    progress(moment.interaction, steps)
                if interrupted.is_set():
                    return

        write_video(video, pictures(), fps)
        write_png(sheet, _sheet(spread.pick(), labels))
        last = spread.last
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

    interaction: int
    seconds: float
    frame: np.ndarray
    xy: np.ndarray
    trail: np.ndarray
    observation: dict[str, np.ndarray]


class _Onlooker(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Keeps the newest observation, so that the frame under the keypoints can still be had above them."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        self._layout: FrameLayout | None = None
        with contextlib.suppress(UsageError):
            self._layout = FrameLayout.of(env.observation_space)
        self._newest: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._newest, info = self.env.reset(seed=seed, options=options)
        return self._newest, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._newest, *rest = self.env.step(action)
        return self._newest, *rest

    def frame(self) -> np.ndarray:
        """The newest frame (H, W, 3), a copy."""
        return np.array(self._layout.to_rgb(self._newest) if self._layout else self.env.render(), np.uint8)


class _Spread(Generic[Item]):
    """Keeps some of the items it is offered, evenly spread however many come, and the last.

    It holds fewer than 8 times `count` at any time: when it is full it lets go of every other one, and from then on takes
    half as many.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[Item] = []
        self._stride = 1
        self._offered = 0
        self.last: Item

    def offer(self, item: Item) -> None:
        if self._offered % self._stride == 0:
            self._kept.append(item)
        if len(self._kept) == 8 * self._count:
            del self._kept[1::2]
            self._stride *= 2
        self._offered += 1
        self.last = item

    def pick(self) -> list[Item]:
        """`count` of them, each from the middle of its part; all of them where there are fewer."""
        count = min(self._count, len(self._kept))
        return [self._kept[int((part + 0.5) / count * len(self._kept))] for part in range(count)]


def _play(
    env: KeypointObservation, onlooker: _Onlooker, act: Callable[[Any], Any], steps: int, seed: int, trail: int
) -> Iterator[_Moment]:
    try:
        observation, _ = env.reset(seed=seed)
    except gym.error.DependencyNotInstalled as error:
        raise UsageError(f"the environment cannot render: {error}") from error
    path: deque[np.ndarray] = deque(maxlen=trail)
    path.append(_present(observation))
    seconds = 0.0
    for interaction in range(1, steps + 1):
        action = act(observation)
        start = time.perf_counter()
        observation, _, terminated, truncated, _ = env.step(action)
        seconds += time.perf_counter() - start
        xy = _present(observation)
        history = np.array(path).reshape(-1, *xy.shape)
        yield _Moment(interaction, seconds, onlooker.frame(), xy, history, observation)
        if terminated or truncated:
            observation, _ = env.reset()
            path.clear()
            xy = _present(observation)
        path.append(xy)


def _present(observation: dict[str, np.ndarray]) -> np.ndarray:
    """Coordinates (K, 2), NaN for the keypoints that are absent."""
    return np.where(observation["presence"][:, None] >= PRESENT, observation["xy"], np.nan)


def _sheet(moments: list[_Moment], labels: bool) -> np.ndarray:
    """The moments drawn at half the size of the video, upright frames in rows of 6, others in rows of 4."""
    height, width = moments[0].frame.shape[:2]
    scale = -(-default_scale(height, width) // 2)
    frames = [
        add_caption(
            draw_keypoints(m.frame, m.xy, trails=m.trail, labels=labels, scale=scale), f"interaction {m.interaction}"
        )
        for m in moments
    ]
    return contact_sheet(frames, columns=6 if height > 1.2 * width else 4)


@contextlib.contextmanager
def _noting_interrupt() -> Iterator[threading.Event]:
    """Within it, the first Ctrl-C sets the event and no more; the second interrupts as ever."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    previous = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, previous)
        interrupted.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)
