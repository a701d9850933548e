"""Films of play: a video with a frame for every scene, and a contact sheet of some of them beside it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import gymnasium as gym
import numpy as np

from kpagent.drawing import (
    PRESENT,
    add_caption,
    contact_sheet,
    default_scale,
    require_writable,
    write_png,
    write_video,
)

SHEET_FRAMES = 12
"""Frames on the contact sheet."""

Item = TypeVar("Item")


class Scene(Protocol):
    """What one frame of a film shows."""

    @property
    def frame(self) -> np.ndarray:
        """The frame under the drawing, (H, W, 3) uint8; of one size throughout a film."""

    @property
    def title(self) -> str:
        """The left half of the caption, in the video alone."""

    @property
    def note(self) -> str:
        """The right half of the caption, and all of it on the sheet."""

    def draw(self, scale: int) -> np.ndarray:
        """The picture, without a caption, for a frame that is enlarged by `scale`."""


Shown = TypeVar("Shown", bound=Scene)


def require_film(out: str | Path) -> tuple[Path, Path]:
    """The paths of a video and of the contact sheet beside it, if both can be put there.

    Args:
        out: the video, ending in .mp4; the sheet has the same name ending in .png.

    Raises:
        UsageError: another suffix, or a path that cannot be written.
    """
    video = require_writable(out, ".mp4")
    return video, require_writable(video.with_suffix(".png"), ".png")


def record(
    scenes: Iterable[Shown], out: str | Path, *, fps: float = 30, on_scene: Callable[[Shown], None] | None = None
) -> Shown:
    """Film scenes as they come, and lay out some of them, evenly spread, on a contact sheet at half the size.

    One Ctrl-C ends the film, and what was filmed is written whole; a second one, or any error, leaves no file behind that
    was not there before.

    Args:
        scenes: asked for one by one, at least one.
        out: as for `require_film`.
        fps: frames of the video a second.
        on_scene: is called after each scene is filmed.

    Returns:
        The last scene.

    Raises:
        UsageError: fps not above 0, or a file cannot be written; known before the first scene is asked for where it can be.
    """
    video, sheet = require_film(out)
    spread = Spread[Shown](SHEET_FRAMES)
    with _noting_interrupt() as interrupted:

        def pictures() -> Iterator[np.ndarray]:
            for scene in scenes:
                spread.offer(scene)
                yield add_caption(scene.draw(default_scale(*scene.frame.shape[:2])), scene.title, scene.note)
                if on_scene:
                    on_scene(scene)
                if interrupted.is_set():
                    return

        write_video(video, pictures(), fps)
        write_png(sheet, _sheet(spread.pick()))
    return spread.last


def film_title(env: gym.Env[Any, Any]) -> str:
    """What an environment is called: its id, or its class where it has none."""
    return env.unwrapped.spec.id if env.unwrapped.spec else type(env.unwrapped).__name__


def visible_xy(observation: dict[str, np.ndarray]) -> np.ndarray:
    """Coordinates (K, 2) of the keypoints of an observation, NaN for those that are absent."""
    return np.where(observation["presence"][:, None] >= PRESENT, observation["xy"], np.nan)


class Spread(Generic[Item]):
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
        """Look at the next item."""
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


def _sheet(scenes: list[Any]) -> np.ndarray:
    """The scenes at half the size of the video, upright pictures in rows of 6, others in rows of 4."""
    scale = -(-default_scale(*scenes[0].frame.shape[:2]) // 2)
    pictures = [scene.draw(scale) for scene in scenes]
    height, width = pictures[0].shape[:2]
    captioned = [add_caption(picture, scene.note) for picture, scene in zip(pictures, scenes, strict=True)]
    return contact_sheet(captioned, columns=6 if height > 1.2 * width else 4)


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
