from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

from kpagent.collect.human36m import EVALUATION_SUBJECTS, POINTS, TRAINING_SUBJECTS, Human36M, Human36MConfig
from kpagent.collect.sequence_making import write_sequences
from kpagent.collect.sequences import Sequences
from kpagent.drawing import write_video
from kpagent.errors import UsageError

CAMERAS = (54138969, 55011271)


def poses(length: int, offset: float) -> np.ndarray:
    """(T, 32, 2) pixels in frames of 120×160: joints on a line that moves to the right, the unused ones far outside."""
    pose = np.full((length, 32, 2), -500.0)
    for rank, joint in enumerate(POINTS.values()):
        pose[:, joint, 0] = 40 + offset + 2 * np.arange(length) + 2 * rank
        pose[:, joint, 1] = 20 + 6 * rank
    return pose


def frame(pose: np.ndarray) -> np.ndarray:
    """Dark, with a bright dot at the left wrist."""
    image = np.full((120, 160, 3), 30, np.uint8)
    x, y = np.rint(pose[POINTS["left_wrist"]]).astype(int)
    cv2.circle(image, (int(x), int(y)), 3, (250, 240, 40), -1)
    return image


def make_action(folder: Path, length: int = 9, videos: bool = False) -> None:
    annotations: dict[str, list[np.ndarray]] = {"frame": [], "camera": [], "pose/2d": []}
    for offset, camera in enumerate(CAMERAS):
        pose = poses(length, 10.0 * offset)
        numbers = np.arange(length) * 5 + 1
        annotations["frame"].append(numbers)
        annotations["camera"].append(np.full(length, camera))
        annotations["pose/2d"].append(pose)
        images = folder / "imageSequence" / str(camera)
        if videos:
            every = np.repeat([frame(one) for one in pose], 5, axis=0)
            write_video(images.with_suffix(".mp4"), every, 50)
            continue
        images.mkdir(parents=True)
        for number, one in zip(numbers, pose, strict=True):
            bgr = cv2.cvtColor(frame(one), cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(images / f"img_{number:06d}.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, 98])
    with h5py.File(folder / "annot.h5", "w") as file:
        for name, values in annotations.items():
            file[name] = np.concatenate(values)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("S1/Directions-1", "S1/Walking-2", "S5/Walking-1", "S9/Walking-1"):
        make_action(tmp_path / "processed" / name)
    return tmp_path / "processed"


def brightest(image: np.ndarray) -> np.ndarray:
    """Coordinates (x, y) of the yellow dot, by its centre of mass."""
    weight = np.clip(image[..., 0].astype(float) - 60, 0, None)
    size = len(image)
    centres = (2 * np.arange(size) + 1) / size - 1
    return np.array([(weight.sum(0) * centres).sum(), (weight.sum(1) * centres).sum()]) / weight.sum()


@pytest.mark.parametrize("crop", ["subject", "centre"])
@pytest.mark.parametrize("videos", [False, True], ids=["frames", "videos"])
def test_frames_and_poses_fit_together(tree: Path, tmp_path: Path, crop: Any, videos: bool) -> None:
    if videos:
        make_action(tmp_path / "videos/S1/Eating", videos=True)
    source = Human36M(tmp_path / "videos" if videos else tree, Human36MConfig(subjects=("S1",), size=64, crop=crop))
    for sequence in source.make(0, 2):
        assert sequence.truth is not None
        assert sequence.frames.shape == (9, 64, 64, 3)
        wrist = sequence.truth[:, list(POINTS).index("left_wrist")]
        # A pose lies on the corner of pixels and the dot on a centre: half a pixel of 120, or one of 64.
        found = np.stack([brightest(image) for image in sequence.frames])
        np.testing.assert_allclose(found, wrist, atol=0.03)
        if crop == "subject":
            assert np.abs(sequence.truth).max() < 1
            assert np.abs(sequence.truth).max() > 0.6


def test_a_tree_becomes_sequences(tree: Path, tmp_path: Path) -> None:
    write_sequences(tmp_path / "a.h5", Human36M(tree, Human36MConfig(("S1", "S5"), size=32, stride=2)), block=2)
    sequences = Sequences(tmp_path / "a.h5")
    assert sequences.lengths.tolist() == [5] * 6
    assert sequences.truth_names == tuple(POINTS)
    assert sequences.label_names == ("Directions", "Walking")
    assert sequences.labels is not None
    assert sequences.labels.tolist() == [0, 0, 1, 1, 1, 1]
    assert sequences.header["source"] == "human36m"
    truth = sequences.ordered(5, 6)["truth"]
    # Two of the original frames apart, four pixels of a square that is cut to the poses.
    assert (np.diff(truth[..., 0], axis=1) > 0).all()
    assert len(Human36M(tree, Human36MConfig(("S9",))).provenance.config["videos"]) == 2


def test_subjects_are_split_as_the_field_splits_them() -> None:
    assert set(TRAINING_SUBJECTS) | set(EVALUATION_SUBJECTS) == {"S1", "S5", "S6", "S7", "S8", "S9", "S11"}
    assert not set(TRAINING_SUBJECTS) & set(EVALUATION_SUBJECTS)
    assert len(POINTS) == 12


def _rewrite(path: Path, **changes: Any) -> None:
    with h5py.File(path, "r+") as file:
        for name, value in changes.items():
            name = name.replace("pose", "pose/2d")
            del file[name]
            if value is not None:
                file[name] = value


def test_what_is_missing_is_named(tree: Path, tmp_path: Path) -> None:
    config = Human36MConfig(("S5",))
    with pytest.raises(UsageError, match="has no folder S1"):
        Human36M(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="has no folder S6"):
        Human36M(tree)
    with pytest.raises(UsageError, match="9 frames, and 10 are needed"):
        Human36M(tree, Human36MConfig(("S5",), shortest=10))
    action = tree / "S5/Walking-1"
    images = action / "imageSequence" / str(CAMERAS[0])
    source = Human36M(tree, config)
    (images / "img_000011.jpg").rename(images / "away.jpg")
    with pytest.raises(UsageError, match=r"54138969 has no frame 11 \(img_000011\.jpg\)"):
        list(source.make(0, 1))
    cv2.imwrite(str(images / "img_000011.png"), np.zeros((50, 50, 3), np.uint8))
    with pytest.raises(UsageError, match="mixes frames of 120x160 and 50x50"):
        list(source.make(0, 1))
    (images / "img_000011.png").write_bytes(b"none")
    with pytest.raises(UsageError, match=r"img_000011\.png cannot be read as an image"):
        list(source.make(0, 1))
    (images / "img_000001.jpg").unlink()
    with pytest.raises(UsageError, match="has no frame 1 "):
        Human36M(tree, config)
    images.rename(images.with_name("other"))
    with pytest.raises(UsageError, match="no frames of camera 54138969"):
        Human36M(tree, config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera": None}, "holds no camera, frame and pose/2d"),
        ({"frame": np.arange(5)}, r"frame \(5,\)"),
        ({"frame": np.full(18, 1)}, "two poses for one frame"),
        ({"frame": np.zeros(18)}, "whole numbers"),
        ({"pose": np.zeros((18, 17, 2))}, r"pose/2d \(18, 17, 2\)"),
        ({"pose": np.full((18, 32, 2), np.nan)}, "NaN"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_annotations_of_another_form_are_refused(tree: Path, changes: dict[str, Any], message: str) -> None:
    _rewrite(tree / "S5/Walking-1/annot.h5", **changes)
    with pytest.raises(UsageError, match=message) as caught:
        Human36M(tree, Human36MConfig(("S5",)))
    assert "annot.h5" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_annotations_are_named(tree: Path) -> None:
    path = tree / "S5/Walking-1/annot.h5"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UsageError, match=r"annot\.h5"):
        Human36M(tree, Human36MConfig(("S5",)))
    path.unlink()
    with pytest.raises(UsageError, match="no annotations at"):
        Human36M(tree, Human36MConfig(("S5",)))


@pytest.mark.parametrize(
    "changes", [{"subjects": ()}, {"crop": "all"}, {"size": 4}, {"stride": 0}, {"shortest": 0}], ids=str
)
def test_configurations_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        Human36MConfig(**changes)
