"""One sequence made on the way is the sequence that a file would hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kpagent.cli.sequence_data import SequenceData
from kpagent.drawing import write_video
from kpagent.errors import UsageError


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two, of which the second comes in two pieces."""
    folder = tmp_path_factory.mktemp("videos")
    frames = np.random.default_rng(0).integers(0, 256, (530, 16, 16, 3), dtype=np.uint8)
    write_video(folder / "a.mp4", frames[:20])
    write_video(folder / "b.mp4", frames)
    return folder


@pytest.mark.parametrize(
    ("name", "index", "start"),
    [("brownian", 0, 5), ("brownian", 1, 0), ("videos", 0, 5), ("videos", 1, 510), ("ALE/Pong-v5", 0, 5)],
)
def test_one_is_as_in_the_file(name: str, index: int, start: int, videos: Path, tmp_path: Path) -> None:
    data = SequenceData(str(videos)) if name == "videos" else SequenceData(name, 2, seed=3)
    sequences = data.open(tmp_path, 10, 16)
    found, expected = data.one(index, start, 8, 16), sequences.stretch(index, start, start + 8)
    assert set(found) == set(expected)
    for field, values in found.items():
        np.testing.assert_array_equal(values, expected[field])


def test_what_is_not_there_is_refused(videos: Path) -> None:
    data = SequenceData(str(videos))
    with pytest.raises(UsageError, match="has sequences 0 to 1, not 2"):
        data.one(2, 0, 5, 16)
    with pytest.raises(UsageError, match="has 20 frames, none from 20"):
        data.one(0, 20, 5, 16)
    assert len(data.one(0, 18, 5, 16)["frames"]) == 2
    with pytest.raises(UsageError, match=r"a\.mp4 is too short: it has 20 frames, and 25 are needed"):
        data.open(videos / "out", 25, 16)
    with pytest.raises(UsageError, match="--sequences is for what is made or played"):
        SequenceData(str(videos), count=2).one(0, 0, 5, 16)
