"""A folder of videos as sequences: cropped to the square in the middle, made small by averaging areas."""

from __future__ import annotations

import dataclasses
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kpagent.collect.sequence_making import FrameSequence, Provenance
from kpagent.errors import UsageError

SUFFIXES = (".mp4", ".avi", ".mov", ".webm", ".gif")
"""Of the files that count as videos."""

_PIECE_FRAMES = 512


@dataclass(frozen=True)
class VideosConfig:
    """How videos become sequences."""

    size: int = 64
    """Height and width of the frames."""
    stride: int = 1
    """Every so many frames of a video, one is kept."""
    shortest: int = 2
    """Frames that a video must give at least: T + ΔT, where it is known."""

    def __post_init__(self) -> None:
        for name, lowest in (("size", 16), ("stride", 1), ("shortest", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < lowest:
                raise UsageError(f"{name} must be a whole number of at least {lowest}; got {value!r}")


class VideoFolder:
    """Every video in a folder and the folders in it, one sequence each, in the order of their names.

    Frames are cropped to the largest square in the middle and scaled by ffmpeg, averaging areas; where they are unevenly
    spaced in time, each still counts once. The start of every video is read at once: a broken one is known before long work.

    Args:
        folder: with mp4, avi, mov, webm or gif files.
        config: how.

    Raises:
        UsageError: no such folder, no video in it, or a video that cannot be read or is too short; the message names it.
    """

    def __init__(self, folder: str | Path, config: VideosConfig | None = None) -> None:
        self.folder, self.config = Path(folder), config or VideosConfig()
        if not self.folder.is_dir():
            raise UsageError(f"no folder of videos at {self.folder}")
        found = self.folder.rglob("*")
        self.videos = sorted(path for path in found if path.suffix.lower() in SUFFIXES and path.is_file())
        if not self.videos:
            raise UsageError(f"{self.folder} holds no video ({', '.join(SUFFIXES)})")
        for video in self.videos:
            needed = (self.config.shortest - 1) * self.config.stride + 1
            frames = sum(1 for _ in read_video(video, self.config.size, limit=needed))
            if frames < needed:
                raise UsageError(f"{video} is too short: it has {frames} frames, and {needed} are needed")

    @property
    def provenance(self) -> Provenance:
        """Where the sequences come from: the names and sizes of all videos, and how they are read."""
        videos = [[str(video.relative_to(self.folder)), video.stat().st_size] for video in self.videos]
        return Provenance("videos", self.folder.name, dataclasses.asdict(self.config) | {"videos": videos})

    @property
    def count(self) -> int:
        """Number of videos."""
        return len(self.videos)

    def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
        """The frames of videos `start` to `stop`, in pieces of one sequence a video.

        Raises:
            UsageError: a video cannot be read to its end.
        """
        for video in self.videos[start:stop]:
            piece: list[np.ndarray] = []
            continues = False
            for number, frame in enumerate(read_video(video, self.config.size)):
                if number % self.config.stride:
                    continue
                piece.append(frame)
                if len(piece) == _PIECE_FRAMES:
                    yield FrameSequence(np.stack(piece), continues=continues)
                    piece, continues = [], True
            if piece:
                yield FrameSequence(np.stack(piece), continues=continues)


def read_video(path: str | Path, size: int, *, limit: int | None = None, crop: str | None = None) -> Iterator[np.ndarray]:
    """The frames of one video, (size, size, 3) uint8 RGB, read as they are asked for.

    Args:
        path: of the video.
        size: height and width of the frames.
        limit: frames at most.
        crop: ffmpeg's "width:height:x:y" in pixels; without, the largest square in the middle.

    Raises:
        UsageError: it cannot be read to its end; the message names it.
    """
    import imageio_ffmpeg

    square = crop or "'min(iw,ih)':'min(iw,ih)'"
    scale = f"scale={size}:{size}:flags=area+accurate_rnd+full_chroma_int+full_chroma_inp"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-xerror"]
    command += ["-protocol_whitelist", "file,pipe", "-i", f"file:{Path(path).absolute()}", "-map", "0:v:0"]
    command += ["-fps_mode", "passthrough", "-vf", f"crop={square},{scale}"]
    command += [] if limit is None else ["-frames:v", str(limit)]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
    frame_bytes = size * size * 3
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, stdin=subprocess.DEVNULL)
        assert process.stdout is not None
        try:
            count = 0
            while len(data := process.stdout.read(frame_bytes)) == frame_bytes:
                count += 1
                yield np.frombuffer(data, np.uint8).reshape(size, size, 3)
            status = process.wait()
        finally:
            process.stdout.close()
            # Whoever stops asking has seen enough; ffmpeg has not.
            process.kill()
            process.wait()
        said.seek(0)
        lines = said.read().decode(errors="replace").split("\n")
        reason = next((line.strip() for line in lines if line.strip()), f"ffmpeg ended with status {status}")
        if status or data or not count:
            raise UsageError(f"{path} cannot be read as a video after {count} frames: {reason}")
