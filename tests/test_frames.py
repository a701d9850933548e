"""Layouts and sizes of frames, against arrays in which every frame is known and against the emulator's own shrinking."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import FrameStackObservation, GrayscaleObservation
from hypothesis import given
from hypothesis import strategies as st

from kpagent.envs.atari import make_atari_vector
from kpagent.envs.making import make_env, make_vector_env
from kpagent.errors import UsageError
from kpagent.frames import FrameLayout, fold_patches, resize, to_cells, to_images, unfold_patches


def box(*shape: int, dtype: type = np.uint8) -> gym.spaces.Box:
    high = 255 if dtype is np.uint8 else 1
    return gym.spaces.Box(0, high, shape, dtype)


def random_frame(seed: int, height: int = 20, width: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def grey(frame: np.ndarray) -> np.ndarray:
    return frame[..., 0]


def as_rgb(image: np.ndarray) -> np.ndarray:
    return np.stack([image] * 3, axis=-1)


NEWEST, OLDER = random_frame(0), [random_frame(seed) for seed in (1, 2, 3)]
STACK = [*OLDER, NEWEST]
GREY = as_rgb(grey(NEWEST))


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        (NEWEST, NEWEST),
        (grey(NEWEST), GREY),
        (grey(NEWEST)[..., None], GREY),
        (grey(NEWEST)[None], GREY),
        (NEWEST.transpose(2, 0, 1), NEWEST),
        (np.stack([grey(frame) for frame in STACK]), GREY),
        (np.stack([grey(frame) for frame in STACK[2:]]), GREY),
        (np.stack([grey(frame) for frame in STACK], axis=-1), GREY),
        (np.concatenate(STACK, axis=-1), NEWEST),
        (np.stack(STACK), NEWEST),
        (np.stack([frame[..., :1] for frame in STACK]), GREY),
        (np.stack([frame.transpose(2, 0, 1) for frame in STACK]), NEWEST),
        (np.stack([grey(frame)[None] for frame in STACK]), GREY),
        (np.stack([NEWEST] * 17), NEWEST),
    ],
    ids=lambda value: "x".join(map(str, value.shape)),
)
@pytest.mark.parametrize("batch", [(), (1,), (5,), (2, 3)])
def test_the_newest_frame_is_found_in_every_layout(
    observation: np.ndarray, expected: np.ndarray, batch: tuple[int, ...]
) -> None:
    layout = FrameLayout.of(box(*observation.shape))
    found = layout.to_rgb(np.broadcast_to(observation, batch + observation.shape))
    np.testing.assert_array_equal(found, np.broadcast_to(expected, batch + expected.shape))
    assert found.dtype == np.uint8


@given(
    height=st.integers(16, 40),
    width=st.integers(16, 40),
    frames=st.integers(1, 5),
    channels=st.sampled_from([1, 3]),
    first=st.booleans(),
)
def test_stacks_of_any_size(height: int, width: int, frames: int, channels: int, first: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (frames, height, width, channels), dtype=np.uint8)
    stack = np.moveaxis(images, -1, 1) if first else images
    found = FrameLayout.of(box(*stack.shape)).to_rgb(stack)
    np.testing.assert_array_equal(found, np.broadcast_to(images[-1], (height, width, 3)))


def test_no_frame_is_copied() -> None:
    for shape in [(20, 24, 3), (20, 24), (3, 20, 24), (4, 20, 24), (4, 20, 24, 3), (20, 24, 12)]:
        observation = np.zeros((2, *shape), np.uint8)
        assert np.shares_memory(FrameLayout.of(box(*shape)).to_rgb(observation), observation)


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        (gym.spaces.Discrete(3), "Discrete"),
        (gym.spaces.Dict(a=box(20, 24, 3)), "Dict"),
        (box(128), "not that of frames"),
        (box(7, 7, 3), "not that of frames"),
        (box(2, 4, 20, 24, 3), "not that of frames"),
        (box(20, 24, 3, dtype=np.float32), r"astype\(numpy.uint8\)"),
        (box(64, 64, 64), "cannot be told"),
        (box(3, 64, 3), "not that of frames"),
        (box(64, 3, 64), "cannot be told"),
        (box(12, 84, 84), "12 grey frames or 4 of RGB"),
        (box(4, 84, 84, 4), "4 channels"),
    ],
)
def test_what_is_no_frame_is_refused_with_the_reason(space: gym.Space, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        FrameLayout.of(space)


def test_observations_that_break_their_space_are_refused() -> None:
    layout = FrameLayout.of(box(20, 24, 3))
    with pytest.raises(TypeError, match="float64"):
        layout.to_rgb(np.zeros((20, 24, 3)))
    with pytest.raises(ValueError, match="must end in"):
        layout.to_rgb(np.zeros((20, 25, 3), np.uint8))


def test_wrappers_of_gymnasium_give_the_frame_they_were_given() -> None:
    plain = make_env("ALE/Pong-v5")
    stacked = FrameStackObservation(make_env("ALE/Pong-v5"), 4)
    grey_stacked = FrameStackObservation(GrayscaleObservation(make_env("ALE/Pong-v5")), 2)
    for env in (plain, stacked, grey_stacked):
        env.reset(seed=0)
    for _ in range(30):
        frame = plain.step(2)[0]
        stack, grey_stack = stacked.step(2)[0], grey_stacked.step(2)[0]
    np.testing.assert_array_equal(FrameLayout.of(stacked.observation_space).to_rgb(stack), frame)
    np.testing.assert_array_equal(FrameLayout.of(grey_stacked.observation_space).to_rgb(grey_stack), as_rgb(grey_stack[-1]))


def test_stable_baselines_puts_the_newest_frame_last_too() -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecTransposeImage

    env = DummyVecEnv([lambda: make_env("ALE/Pong-v5")])
    stacked = VecFrameStack(DummyVecEnv([lambda: make_env("ALE/Pong-v5")]), 4)
    env.seed(0)
    stacked.seed(0)
    env.reset(), stacked.reset()
    for _ in range(30):
        frame, stack = np.asarray(env.step(np.array([2]))[0]), np.asarray(stacked.step(np.array([2]))[0])
    np.testing.assert_array_equal(FrameLayout.of(stacked.observation_space).to_rgb(stack), frame)
    transposed = VecTransposeImage(env)
    first = np.asarray(transposed.transpose_observations(frame))
    np.testing.assert_array_equal(FrameLayout.of(transposed.observation_space).to_rgb(first), frame)


def test_resize_is_what_the_emulator_does() -> None:
    raw = make_vector_env("ALE/Breakout-v5", 2)
    small = make_atari_vector("ALE/Breakout-v5", 2, img_height=84, img_width=84)
    layout, small_layout = FrameLayout.of(raw.single_observation_space), FrameLayout.of(small.single_observation_space)
    frames, shrunk = raw.reset(seed=3)[0], small.reset(seed=3)[0]
    for action in (1, 2, 3, 2, 0, 3):
        np.testing.assert_array_equal(resize(layout.to_rgb(frames), 84), small_layout.to_rgb(shrunk))
        frames, shrunk = raw.step(np.full(2, action))[0], small.step(np.full(2, action))[0]


def test_resize_averages_areas() -> None:
    frame = random_frame(0, 64, 32)
    expected = frame.reshape(16, 4, 16, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(resize(frame, 16), expected, atol=0.51)
    assert resize(frame[:32], 32).shape == (32, 32, 3)
    assert resize(frame, 100).shape == (100, 100, 3)


def test_resize_takes_every_view_and_any_batch() -> None:
    observation = random_frame(0)
    views = [
        np.broadcast_to(grey(observation)[..., None], observation.shape),
        observation[::-1],
        observation.transpose(2, 0, 1).copy().transpose(1, 2, 0),
    ]
    for view in views:
        assert np.array_equal(resize(view, 16), resize(np.ascontiguousarray(view), 16))
    batch = np.stack([observation] * 6).reshape(2, 3, *observation.shape)
    np.testing.assert_array_equal(resize(batch, 16)[1, 2], resize(observation, 16))


def test_resize_leaves_frames_of_that_size_alone() -> None:
    frame = random_frame(0, 24, 24)
    assert resize(frame, 24) is frame


@pytest.mark.parametrize("bad", [np.zeros((20, 24, 3)), [[0]]])
def test_resize_wants_bytes(bad: np.ndarray) -> None:
    with pytest.raises(TypeError, match="uint8"):
        resize(bad, 16)


@pytest.mark.parametrize("shape", [(20, 24), (20, 24, 4), (0, 24, 3), (3, 20, 24)])
def test_resize_wants_rgb(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="RGB"):
        resize(np.zeros(shape, np.uint8), 16)


@pytest.mark.parametrize("size", [16, 24, 32])
def test_images_are_frames_between_0_and_1_with_channels_first(size: int) -> None:
    frames = np.stack([random_frame(seed, 24, 24) for seed in range(2)])
    images = to_images(frames, size)
    assert images.shape == (2, 3, size, size)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(images.permute(0, 2, 3, 1).numpy() * 255, resize(frames, size), atol=1e-4)
    torch.testing.assert_close(to_images(torch.from_numpy(frames), size), images)


def test_images_want_a_batch() -> None:
    with pytest.raises(ValueError, match="batch"):
        to_images(random_frame(0), 16)


@given(st.integers(1, 3), st.sampled_from([1, 2, 3]), st.integers(0, 2**32 - 1))
def test_folded_patches_are_pixel_unshuffle_in_the_order_of_memory(count: int, patch: int, seed: int) -> None:
    frames = np.random.default_rng(seed).integers(0, 256, (count, 18, 18, 3), dtype=np.uint8)
    images = to_images(frames, 18)
    cells = fold_patches(images, patch)
    shuffled = torch.nn.functional.pixel_unshuffle(images, patch)
    # There the channels lie colour by colour, here pixel by pixel.
    reordered = shuffled.unflatten(1, (3, patch**2)).transpose(1, 2).flatten(1, 2)
    assert torch.equal(cells, reordered)
    assert cells.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(unfold_patches(cells, patch), images)
    assert torch.equal(to_cells(frames, 18, patch), cells)


def test_frames_that_cannot_be_written_to_give_no_warning() -> None:
    frames = np.zeros((1, 16, 16, 3), np.uint8)
    frames.flags.writeable = False
    assert to_images(frames, 16).shape == (1, 3, 16, 16)
    assert to_cells(frames, 16, 1).shape == (1, 3, 16, 16)
