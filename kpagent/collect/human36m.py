"""Human3.6M, from files that the user has a licence for and has taken apart with the common scripts.

The tree is the one that github.com/anibali/h36m-fetch writes: a folder for each subject, in it one for each action, with

    S1/Directions-1/imageSequence/54138969/img_000001.jpg   every fifth frame, numbered from 1 as in the video,
    S1/Directions-1/imageSequence/54138969.mp4              or, in its place, the video of that camera,
    S1/Directions-1/annot.h5                                pose/2d (M, 32, 2) pixels, frame (M,), camera (M,)

where M counts frames of all cameras. Frames may be cropped already, with poses in pixels of the cropped frames.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import h5py
import numpy as np

from kpagent.collect.sequence_making import FrameSequence, Provenance
from kpagent.collect.videos import read_video
from kpagent.errors import UsageError
from kpagent.frames import resize

TRAINING_SUBJECTS = ("S1", "S5", "S6", "S7", "S8")
EVALUATION_SUBJECTS = ("S9", "S11")

POINTS = {
    "right_hip": 1, "right_knee": 2, "right_ankle": 3, "left_hip": 6, "left_knee": 7, "left_ankle": 8,
    "left_shoulder": 17, "left_elbow": 18, "left_wrist": 19, "right_shoulder": 25, "right_elbow": 26, "right_wrist": 27,
}  # fmt: skip
"""The 12 points of 32 that are evaluated, by their place in a pose: the joints of the limbs. The paper names none."""

_POSE_POINTS = 32
_PIECE_FRAMES = 512
_MARGIN = 0.15


@dataclass(frozen=True)
class Human36MConfig:
    """Which part of Human3.6M, and how it becomes sequences.

    The paper trains on "S1, S5, S6, S7, and S9" and evaluates on "S9 and S11". The first S9 is read as a slip for S8: the
    600 and 239 videos that the paper counts are those of five subjects and of S9 and S11 (15 actions, twice each, 4 cameras;
    one video of S11 is corrupt as it is published).
    """

    subjects: tuple[str, ...] = TRAINING_SUBJECTS
    """Folders to read; `TRAINING_SUBJECTS` or `EVALUATION_SUBJECTS`."""
    size: int = 64
    """Height and width of the frames."""
    stride: int = 1
    """Every so many frames in the folders, one is kept; the common scripts keep 10 of the 50 frames a second."""
    crop: Literal["subject", "centre"] = "subject"
    """What is kept of a frame: the smallest square around all poses of the sequence, and 15% of its side around that, or the
    largest square in the middle, for frames that are cropped already."""
    shortest: int = 2
    """Frames that a sequence must have at least; shorter ones are refused by name."""

    def __post_init__(self) -> None:
        if not self.subjects:
            raise UsageError("subjects must name at least one folder, such as S1")
        if self.crop not in ("subject", "centre"):
            raise UsageError(f"crop must be 'subject' or 'centre'; got {self.crop!r}")
        for name, lowest in (("size", 16), ("stride", 1), ("shortest", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < lowest:
                raise UsageError(f"{name} must be a whole number of at least {lowest}; got {value!r}")


@dataclass(frozen=True, eq=False)
class _View:
    """One action of one subject, seen by one camera."""

    images: Path
    """A folder of frames, or a video."""
    frame: np.ndarray
    """(T,) numbers of frames, ascending, from 1."""
    pose: np.ndarray
    """(T, 12, 2) pixels."""
    action: str


class Human36M:
    """Sequences of Human3.6M, one for each subject, action and camera, with the truth of 12 points and the action as label.

    Annotations and the first frame of every sequence are read at once, so that what is missing is known before long work.

    Args:
        folder: holds the folders of the subjects.
        config: which part, and how.

    Raises:
        UsageError: no such folder, or a sequence without frames or poses, or too short; the message names it.
    """

    def __init__(self, folder: str | Path, config: Human36MConfig | None = None) -> None:
        self.folder, self.config = Path(folder), config or Human36MConfig()
        self._views: list[_View] = []
        for subject in self.config.subjects:
            if not (self.folder / subject).is_dir():
                raise UsageError(f"{self.folder} has no folder {subject}: Human3.6M must lie there as h36m-fetch leaves it")
            for action in sorted(path for path in (self.folder / subject).iterdir() if path.is_dir()):
                self._views += self._find(action)
        if not self._views:
            raise UsageError(f"{self.folder} holds no actions of {', '.join(self.config.subjects)}")
        self._actions = tuple(sorted({view.action for view in self._views}))

    @property
    def provenance(self) -> Provenance:
        """Where the sequences come from."""
        views = [[str(view.images.relative_to(self.folder)), len(view.frame)] for view in self._views]
        config = dataclasses.asdict(self.config) | {"videos": views}
        return Provenance("human36m", "Human3.6M", config, truth_names=tuple(POINTS), label_names=self._actions)

    @property
    def count(self) -> int:
        """Number of sequences."""
        return len(self._views)

    def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
        """Sequences `start` to `stop`, in pieces.

        Raises:
            UsageError: a frame is missing, of another size than the first, or cannot be read.
        """
        for view in self._views[start:stop]:
            label = self._actions.index(view.action)
            reader = self._from_video if view.images.is_file() else self._from_folder
            square, frames = reader(view)
            truth = ((view.pose - square[:2]) / square[2] * 2 - 1).astype(np.float32)
            piece: list[np.ndarray] = []
            done = 0
            for frame in frames:
                piece.append(frame)
                if len(piece) == _PIECE_FRAMES or done + len(piece) == len(view.frame):
                    part = truth[done : done + len(piece)]
                    yield FrameSequence(np.stack(piece), truth=part, label=label, continues=done > 0)
                    done += len(piece)
                    piece = []
            if done < len(view.frame):
                raise UsageError(f"{view.images} has no frame {view.frame[done + len(piece)]}, which its annotations have")

    def _find(self, folder: Path) -> list[_View]:
        camera, frame, pose = _read_annotations(folder / "annot.h5")
        images = folder / "imageSequence"
        views = []
        for number in np.unique(camera):
            seen = np.flatnonzero(camera == number)
            order = seen[np.argsort(frame[seen], kind="stable")][:: self.config.stride]
            videos = sorted(images.glob(f"{number}.*"))
            place = videos[0] if videos and not (images / str(number)).is_dir() else images / str(number)
            if not place.exists():
                raise UsageError(f"{images} has no frames of camera {number}, which {folder / 'annot.h5'} has")
            if len(order) < self.config.shortest:
                raise UsageError(f"{place} is too short: it has {len(order)} frames, and {self.config.shortest} are needed")
            points = pose[order][:, list(POINTS.values())]
            # "Directions 1", "Directions-1" and "Directions" are takes of one action.
            view = _View(place, frame[order], points, re.split(r"[-_ ]\d+$", folder.name)[0])
            if place.is_dir():
                _read_image(place, int(view.frame[0]))
            views.append(view)
        return views

    def _square(self, view: _View, height: int, width: int) -> np.ndarray:
        """Left, top and side, in pixels, of what is kept of the frames."""
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        if self.config.crop == "subject":
            low, high = np.floor(view.pose.min(axis=(0, 1))), np.ceil(view.pose.max(axis=(0, 1)))
            wanted = int(np.clip(np.ceil((1 + 2 * _MARGIN) * (high - low).max()), 1, side))
            left, top = np.clip((low + high - wanted) // 2, 0, (width - wanted, height - wanted)).astype(int)
            side = wanted
        return np.array([left, top, side])

    def _from_folder(self, view: _View) -> tuple[np.ndarray, Iterator[np.ndarray]]:
        height, width = _read_image(view.images, int(view.frame[0])).shape[:2]
        square = self._square(view, height, width)

        def frames() -> Iterator[np.ndarray]:
            left, top, side = square
            for number in view.frame:
                image = _read_image(view.images, int(number))
                if image.shape[:2] != (height, width):
                    raise UsageError(f"{view.images} mixes frames of {height}x{width} and {image.shape[0]}x{image.shape[1]}")
                yield resize(np.ascontiguousarray(image[top : top + side, left : left + side]), self.config.size)

        return square, frames()

    def _from_video(self, view: _View) -> tuple[np.ndarray, Iterator[np.ndarray]]:
        height, width = _video_shape(view.images)
        square = self._square(view, height, width)

        def frames() -> Iterator[np.ndarray]:
            left, top, side = square
            wanted = set(view.frame.tolist())
            every = read_video(
                view.images, self.config.size, limit=int(view.frame[-1]), crop=f"{side}:{side}:{left}:{top}:exact=1"
            )
            yield from (frame for number, frame in enumerate(every, start=1) if number in wanted)

        return square, frames()


def _read_annotations(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Camera (M,), frame (M,) and pose (M, 32, 2) of a file."""
    if not path.is_file():
        raise UsageError(f"no annotations at {path}")
    try:
        with h5py.File(path, "r") as file:
            camera, frame, pose = (np.asarray(file[name]) for name in ("camera", "frame", "pose/2d"))
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise UsageError(
            f"{path} holds no camera, frame and pose/2d, or is damaged: {' '.join(str(error).split())}"
        ) from None
    whole = all(np.issubdtype(array.dtype, np.integer) and array.ndim == 1 for array in (camera, frame))
    if not whole or len(camera) != len(frame) or pose.shape != (len(frame), _POSE_POINTS, 2):
        form = f"(M,) whole numbers and pose/2d (M, {_POSE_POINTS}, 2)"
        raise UsageError(f"{path} has camera {camera.shape}, frame {frame.shape}, pose/2d {pose.shape}, not {form}")
    if not np.issubdtype(pose.dtype, np.floating) or not np.isfinite(pose).all():
        raise UsageError(f"{path} has poses that are no numbers, or NaN or infinity among them")
    if len(np.unique(np.stack([camera, frame]), axis=1).T) != len(frame):
        raise UsageError(f"{path} has two poses for one frame of one camera")
    return camera, frame, pose


def _read_image(folder: Path, number: int) -> np.ndarray:
    for suffix in (".jpg", ".png"):
        path = folder / f"img_{number:06d}{suffix}"
        if path.is_file():
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is None:
                raise UsageError(f"{path} cannot be read as an image")
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    raise UsageError(f"{folder} has no frame {number} (img_{number:06d}.jpg), which its annotations have")


def _video_shape(path: Path) -> tuple[int, int]:
    """Height and width of a video."""
    capture = cv2.VideoCapture(str(path))
    try:
        height, width = (int(capture.get(name)) for name in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
    finally:
        capture.release()
    if min(height, width) < 1:
        raise UsageError(f"{path} cannot be read as a video")
    return height, width
