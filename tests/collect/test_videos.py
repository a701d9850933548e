from __future__ import annotations

from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest

from kpagent.collect.sequence_making import write_sequences
from kpagent.collect.sequences import Sequences
from kpagent.collect.videos import SUFFIXES, VideoFolder, VideosConfig, read_video
from kpagent.drawing import write_video
from kpagent.errors import UsageError

CODECS = {".webm": "libvpx-vp9", ".gif": "gif"}


def film(length: int = 12, height: int = 96, width: int = 160) -> np.ndarray:
    """Frames of smooth colours, in which a bright square moves and the ground grows lighter."""
    rows, columns = np.mgrid[:height, :width] / height
    frames = np.stack([40 + 6 * t + 60 * np.stack([rows, columns, 1 - rows], -1) for t in range(length)])
    for t in range(length):
        frames[t, 30:60, 40 + 4 * t : 70 + 4 * t] = (220, 60, 60)
    return np.clip(frames, 0, 255).astype(np.uint8)


def save(path: Path, frames: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".mp4", ".mov"):
        write_video(path.with_suffix(".mp4"), frames, 10)
        if path.suffix != ".mp4":
            path.with_suffix(".mp4").rename(path)
        return
    size = (frames.shape[2], frames.shape[1])
    pixels = "rgb8" if path.suffix == ".gif" else "yuv420p"
    writer = imageio_ffmpeg.write_frames(
        str(path), size, fps=10, codec=CODECS.get(path.suffix, "libx264"), pix_fmt_out=pixels, ffmpeg_log_level="quiet"
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def shrunk(frames: np.ndarray, size: int) -> np.ndarray:
    """The square in the middle, by OpenCV, which shares nothing with ffmpeg."""
    side = min(frames.shape[1:3])
    top, left = (frames.shape[1] - side) // 2, (frames.shape[2] - side) // 2
    square = frames[:, top : top + side, left : left + side]
    return np.stack([cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA) for frame in square])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_is_read_cropped_and_made_small(tmp_path: Path, suffix: str) -> None:
    frames = film()
    save(tmp_path / f"film{suffix}", frames)
    found = np.stack(list(read_video(tmp_path / f"film{suffix}", 32)))
    expected = shrunk(frames, 32)
    assert found.shape == expected.shape
    # A GIF has 256 colours in all; the others lose what compression loses.
    assert np.abs(found.astype(int) - expected).mean() < (22 if suffix == ".gif" else 4)


def test_a_folder_becomes_sequences(tmp_path: Path) -> None:
    first, second = film(13), film(30, 64, 48)[::-1]
    save(tmp_path / "videos/b.mp4", first)
    save(tmp_path / "videos/a/deep.MP4".lower(), second)
    (tmp_path / "videos/notes.txt").write_text("not a video")
    folder = VideoFolder(tmp_path / "videos", VideosConfig(size=24, stride=3, shortest=5))
    assert [video.name for video in folder.videos] == ["deep.mp4", "b.mp4"]
    write_sequences(tmp_path / "a.h5", folder, block=1)
    sequences = Sequences(tmp_path / "a.h5")
    assert sequences.lengths.tolist() == [10, 5]
    assert (sequences.header["source"], sequences.header["name"]) == ("videos", "videos")
    for number, expected in enumerate((second, first)):
        batch = sequences.ordered(5, 10)["frames"][number].astype(int)
        assert np.abs(batch - shrunk(expected, 24)[::3][:5]).mean() < 4


def test_a_long_video_is_handed_over_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kpagent.collect import videos

    save(tmp_path / "videos/a.mp4", film(12))
    monkeypatch.setattr(videos, "_PIECE_FRAMES", 5)
    folder = VideoFolder(tmp_path / "videos")
    pieces = list(folder.make(0, 1))
    assert [(len(piece.frames), piece.continues) for piece in pieces] == [(5, False), (5, True), (2, True)]
    write_sequences(tmp_path / "a.h5", folder)
    assert Sequences(tmp_path / "a.h5").lengths.tolist() == [12]


def test_mistakes_are_named_before_work_starts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder of videos at"):
        VideoFolder(tmp_path / "none")
    with pytest.raises(UsageError, match="holds no video"):
        VideoFolder(tmp_path)
    save(tmp_path / "short.mp4", film(7))
    VideoFolder(tmp_path, VideosConfig(shortest=7))
    with pytest.raises(UsageError, match=r"short\.mp4 is too short: it has 7 frames, and 8 are needed"):
        VideoFolder(tmp_path, VideosConfig(shortest=8))
    with pytest.raises(UsageError, match=r"short\.mp4 is too short: it has 7 frames, and 9 are needed"):
        VideoFolder(tmp_path, VideosConfig(shortest=5, stride=2))
    whole = (tmp_path / "short.mp4").read_bytes()
    for content in (b"", b"no video at all" * 50, whole[:200], whole[-500:]):
        (tmp_path / "bad.avi").write_bytes(content)
        with pytest.raises(UsageError, match=r"bad\.avi cannot be read as a video") as caught:
            VideoFolder(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_video_that_breaks_off_is_named(tmp_path: Path) -> None:
    save(tmp_path / "broken.mp4", np.random.default_rng(0).integers(0, 255, (40, 96, 96, 3), dtype=np.uint8))
    content = (tmp_path / "broken.mp4").read_bytes()
    (tmp_path / "broken.mp4").write_bytes(content[: len(content) * 2 // 3])
    folder = VideoFolder(tmp_path)
    with pytest.raises(UsageError, match=r"broken\.mp4 cannot be read as a video after \d+ frames") as caught:
        list(folder.make(0, 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"size": 8}, {"size": 32.0}, {"stride": 0}, {"shortest": 0}], ids=str)
def test_configurations_that_cannot_be(changes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        VideosConfig(**changes)
