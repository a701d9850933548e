"""Motions of the walker: what gaits ask for, what is seen of them, where points are, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpagent.collect.sequence_making import FrameSequence, write_sequences
from kpagent.collect.sequences import Sequences
from kpagent.envs.control_frames import make_frames_env
from kpagent.envs.walker_gaits import JOINTS, MOTIONS, Gait, draw_gait
from kpagent.envs.walker_motions import NAMES, MotionsConfig, WalkerMotions
from kpagent.errors import UsageError

SMALL = MotionsConfig(frames=6, image_size=48)


def steady(motion: str, phase: float = 0.0, lead: int = 0) -> Gait:
    return Gait(motion, 1.0, 1.0, phase, lead, ((),) * len(JOINTS))


def course(gait: Gait) -> np.ndarray:
    return np.array([gait.targets(time) for time in np.arange(0, 1, 0.05)])


def test_walking_back_has_the_postures_of_walking_in_opposite_order() -> None:
    walk, back = course(steady("walk")), course(steady("walk_back"))
    np.testing.assert_allclose(back[1:], walk[:0:-1], atol=1e-12)
    assert not np.allclose(back, walk, atol=0.1)


def test_legs_take_turns_go_together_or_are_led() -> None:
    for motion in ("walk", "walk_back", "march"):
        of = course(steady(motion))
        np.testing.assert_allclose(of[:10, :3], of[10:, 3:], atol=1e-12)
    for motion in ("hop", "squat"):
        of = course(steady(motion))
        np.testing.assert_array_equal(of[:, :3], of[:, 3:])
    for motion in ("limp", "kick"):
        right, left = (course(steady(motion, lead=lead)) for lead in (0, 1))
        np.testing.assert_array_equal(right[:, :3], left[:, 3:])
        assert np.ptp(right[:, 0]) > 2 * np.ptp(right[:, 3])
    # Flailing is its waves alone.
    assert not np.ptp(course(steady("flail")), axis=0).any()


@given(st.sampled_from(MOTIONS), st.integers(0, 2**31))
def test_gaits_stay_within_the_joints(motion: str, seed: int) -> None:
    angles = course(draw_gait(motion, np.random.default_rng(seed)))
    assert np.isfinite(angles).all()
    assert np.abs(angles).max() < 3.5


@pytest.fixture(scope="module")
def made() -> list[FrameSequence]:
    return list(WalkerMotions(len(MOTIONS), 3, SMALL).make(0, len(MOTIONS)))


def test_motions_are_seen_move_and_have_labels(made: list[FrameSequence]) -> None:
    assert [one.label for one in made] == list(range(len(MOTIONS)))
    for one in made:
        assert one.frames.shape == (6, 48, 48, 3)
        assert one.truth is not None
        assert one.truth.shape == (6, len(NAMES), 2)
        assert one.truth.dtype == np.float32
        assert (np.abs(np.diff(one.frames.astype(int), axis=0)).max(axis=(1, 2, 3)) > 30).all()
        # The walker is in the middle, and its own bright colour is where its points are.
        assert np.abs(one.truth).max() < 1
        cells = np.floor((one.truth + 1) / 2 * 48).astype(int)
        red = one.frames[np.arange(6)[:, None], cells[..., 1], cells[..., 0], 0]
        blue = one.frames[np.arange(6)[:, None], cells[..., 1], cells[..., 0], 2]
        assert (red > blue).mean() > 0.9


def test_points_are_where_the_suites_own_camera_has_them() -> None:
    from dm_control.mujoco import Camera

    from kpagent.envs.walker_motions import _Walker

    env: Any = make_frames_env("dm_control/walker-stand-v0", 64)
    env.reset(seed=0)
    physics = env.unwrapped.physics
    generator = np.random.default_rng(2)
    walker = _Walker(physics, draw_gait("kick", generator), generator, 0.1)
    walker.go(0.5)
    joint = physics.named.data.xanchor
    places = np.array(
        [
            physics.named.data.geom_xpos["torso"],
            *(joint[f"right_{part}"] for part in ("hip", "knee", "ankle")),
            physics.named.data.geom_xpos["right_foot"],
            *(joint[f"left_{part}"] for part in ("hip", "knee", "ankle")),
            physics.named.data.geom_xpos["left_foot"],
        ]
    )
    pixels = Camera(physics, 64, 64, camera_id=0).matrix @ np.c_[places, np.ones(len(places))].T
    # The suite counts pixels from the centre of the first, and we from its edge.
    expected = (2 * (pixels[:2] / pixels[2]).T + 1) / 64 - 1
    np.testing.assert_allclose(walker.points(), expected, atol=1e-6)
    env.close()


def test_a_walker_goes_where_its_class_says() -> None:
    from kpagent.envs.walker_motions import _Walker

    env: Any = make_frames_env("dm_control/walker-stand-v0", 64)
    env.reset(seed=0)
    physics, travelled, height = env.unwrapped.physics, {}, {}
    for motion in ("walk", "walk_back", "squat"):
        ways, lows = [], []
        for seed in range(4):
            generator = np.random.default_rng((seed, 1))
            walker = _Walker(physics, draw_gait(motion, generator), generator, 0.0)
            walker.go(0.5)
            begin, heights = float(physics.data.qpos[1]), []
            for _ in range(12):
                walker.go(0.1)
                heights.append(float(physics.data.qpos[0]))
            ways.append(float(physics.data.qpos[1]) - begin)
            lows.append(np.ptp(heights))
        travelled[motion], height[motion] = np.mean(ways), np.mean(lows)
    assert travelled["walk"] > 0.2
    assert travelled["walk_back"] < -0.2
    assert abs(travelled["squat"]) < 0.2
    assert height["squat"] > 0.15
    env.close()


def test_a_motion_depends_on_its_number_alone(made: list[FrameSequence], tmp_path: Path) -> None:
    source = WalkerMotions(len(MOTIONS), 3, SMALL)
    (one,) = source.make(5, 6)
    np.testing.assert_array_equal(one.frames, made[5].frames)
    np.testing.assert_array_equal(one.truth, made[5].truth)
    (other,) = WalkerMotions(len(MOTIONS), 4, SMALL).make(5, 6)
    assert not np.array_equal(other.frames, one.frames)
    assert len(pickle.dumps(source)) < 1_000
    write_sequences(tmp_path / "motions.h5", source, block=3)
    sequences = Sequences(tmp_path / "motions.h5")
    assert sequences.label_names == MOTIONS
    assert sequences.truth_names == NAMES
    assert sequences.header["config"]["versions"].keys() == {"dm-control", "mujoco"}
    np.testing.assert_array_equal(sequences.stretch(5, 0, 6)["frames"], made[5].frames)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 1}, "frames must be from 2"),
        ({"image_size": 8}, "image_size must be from 16"),
        ({"interval": 0.0}, "interval must be from 0.005"),
        ({"settling": -1.0}, "settling must be from 0"),
        ({"lean": 1.0}, "lean must be from 0 to 0.5"),
        ({"frames": 20.0}, "frames must be a whole number"),
    ],
)
def test_broken_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MotionsConfig(**changes)
    with pytest.raises(UsageError, match="count must be at least 1"):
        WalkerMotions(0)
