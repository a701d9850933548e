"""Translations: against rolls of random textures, and the truth about a texture that slides under Pong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpagent.envs.making import make_env
from kpagent.envs.sliding_background import sliding_texture
from kpagent.frames import to_images
from kpagent.motion import follow_layers, global_shift, shift_images


def textures(height: int = 84, width: int = 84, count: int = 3) -> torch.Tensor:
    images = np.stack([sliding_texture(height, width, seed, 40) for seed in range(count)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def fourier_shift(images: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """The exact shift of what has no frequency beyond Nyquist."""
    height, width = images.shape[-2:]
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)
    turns = columns * shift[:, 0, None, None] + rows * shift[:, 1, None, None]
    return torch.fft.irfft2(torch.fft.rfft2(images) * torch.exp(-2j * torch.pi * turns)[:, None], s=(height, width))


def error(found: torch.Tensor, truth: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Distances in pixels, round the edges where that is shorter."""
    size = torch.tensor([width, height])
    return torch.linalg.vector_norm((found - truth + size / 2) % size - size / 2, dim=-1)


whole = st.integers(-200, 200)
fractional = st.floats(-30, 30, width=32)


@given(whole, whole)
def test_a_whole_shift_is_a_roll(x: int, y: int) -> None:
    images = torch.rand(2, 3, 5, 7)
    shift = torch.tensor([[x, y], [y, 0]]).float()
    rolled = torch.stack([images[0].roll((y, x), (1, 2)), images[1].roll((0, y), (1, 2))])
    torch.testing.assert_close(shift_images(images, shift), rolled)


@given(fractional, fractional)
def test_a_shift_between_pixels_is_linear_interpolation(x: float, y: float) -> None:
    image = torch.rand(1, 1, 6, 8, dtype=torch.float64)
    moved = shift_images(image, torch.tensor([[x, y]], dtype=torch.float64))[0, 0]
    for row in range(6):
        for column in range(8):
            u, v = column - x, row - y
            left, top = int(np.floor(u)), int(np.floor(v))
            expected = sum(
                weight * image[0, 0, (top + down) % 6, (left + right) % 8].item()
                for down, right, weight in (
                    (0, 0, (1 - v + top) * (1 - u + left)),
                    (0, 1, (1 - v + top) * (u - left)),
                    (1, 0, (v - top) * (1 - u + left)),
                    (1, 1, (v - top) * (u - left)),
                )
            )
            assert moved[row, column].item() == pytest.approx(expected, abs=1e-9)


def test_shifting_passes_gradients_to_both() -> None:
    images = torch.rand(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    shift = torch.tensor([[0.3, -1.6], [2.2, 0.7]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(shift_images, (images, shift))


@settings(max_examples=15)
@given(whole, whole)
def test_rolls_of_a_texture_are_found(x: int, y: int) -> None:
    for height, width in ((84, 84), (63, 50)):
        images = textures(height, width)
        found = global_shift(images, images.roll((y, x), (2, 3)))
        assert error(found, torch.tensor([x, y]), height, width).max() < 0.01
        assert (found.abs() <= torch.tensor([width / 2, height / 2])).all()


@settings(max_examples=15)
@given(fractional, fractional)
def test_shifts_between_pixels_are_found(x: float, y: float) -> None:
    images, shift = textures(), torch.tensor([[x, y]]).expand(3, 2)
    assert error(global_shift(images, fourier_shift(images, shift)), shift, 84, 84).max() < 0.05


def test_each_pair_has_its_own_shift_and_what_does_not_follow_is_left_aside() -> None:
    images = textures(count=4)
    shift = torch.tensor([[3.0, -2.0], [0.0, 0.0], [-25.0, 7.0], [10.0, 40.0]])
    target = shift_images(images, shift)
    for picture in (images, target):
        # A fifth of the picture stands still, and is brighter and sharper than all else.
        picture[:, :, :16] = 0.9
        picture[:, :, 40:56, 10:14] = 1.0
    # Something that moves by itself.
    images[:, :, 60:64, 30:34] = 1.0
    target[:, :, 50:54, 41:45] = 1.0
    assert error(global_shift(images, target), shift, 84, 84).max() < 0.25


def test_uniform_and_equal_images_do_not_move() -> None:
    for image in (torch.zeros(2, 3, 16, 16), torch.full((2, 3, 84, 84), 0.7), torch.full((1, 1, 9, 5), 0.1)):
        assert (global_shift(image, image) == 0).all()
        assert torch.isfinite(global_shift(image, torch.rand_like(image))).all()
        assert torch.isfinite(global_shift(image[:, :, :1, :1], image[:, :, :1, :1])).all()
    image = torch.rand(4, 3, 32, 32)
    assert global_shift(image, image).abs().max() < 1e-3


def test_half_precision_is_taken_under_autocast() -> None:
    images = textures().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = global_shift(images, images.roll((4, -9), (2, 3)))
    assert found.dtype == torch.float32
    assert error(found, torch.tensor([-9, 4]), 84, 84).max() < 0.05
    assert shift_images(images, found).dtype == torch.bfloat16


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="both alike"):
        global_shift(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9))
    with pytest.raises(ValueError, match=r"\(N, 2\)"):
        shift_images(torch.rand(2, 3, 8, 8), torch.zeros(2))


@pytest.fixture(scope="module")
def sliding_pong() -> tuple[torch.Tensor, torch.Tensor]:
    """Four episodes of 60 interactions at 84x84, and where the background lies in each frame, in pixels of the game."""
    env: Any = make_env("kpagent/PongSliding-v0")
    frames, offsets = [], []
    rng = np.random.default_rng(0)
    for seed in range(4):
        env.reset(seed=seed)
        for _ in range(60):
            frames.append(env.step(rng.integers(6))[0])
            offsets.append(env.get_wrapper_attr("offset"))
    return to_images(np.array(frames), 84), torch.from_numpy(np.array(offsets))


@pytest.mark.parametrize("gap", [1, 5, 20])
def test_the_background_of_pong_is_found_and_aligned(sliding_pong: tuple[torch.Tensor, torch.Tensor], gap: int) -> None:
    images, offsets = sliding_pong
    first = torch.tensor([index for index in range(0, len(images) - gap, 3) if index % 60 < 60 - gap])
    truth = (offsets[first + gap] - offsets[first]) * torch.tensor([84 / 160, 84 / 210])
    source, target = images[first], images[first + gap]
    found = global_shift(source, target)
    assert error(found, truth, 84, 84).max() < 0.25

    # In the middle of the field, where nothing of the border comes in, nor paddles or score.
    inside = torch.zeros(1, 1, 84, 84)
    inside[:, :, 16:76, 20:64] = 1
    shown = (shift_images(inside.expand(len(found), 1, 84, 84), found) > 0.999) & (inside > 0)

    def residual(aligned: torch.Tensor) -> float:
        return (aligned - target).pow(2).mean(1, keepdim=True)[shown].mean().sqrt().item()

    linear, rounded, still = (residual(shift_images(source, shift)) for shift in (found, found.round(), 0 * found))
    assert linear < 0.03
    assert linear < rounded < still / 2


def test_what_stands_before_a_sliding_layer_stays_and_what_moves_on_its_own_stays_wrong() -> None:
    before, shift = textures(count=2), torch.tensor([[7.0, -4.0], [-9.0, 5.0]])
    after = shift_images(before, shift)
    source, target = before.clone(), after.clone()
    for image in (source, target):
        image[..., 10:16, :] = 1
    source[..., 40:46, 20:26] = 1
    target[..., 60:66, 50:56] = 1
    found = follow_layers(source, target, shift)
    wrong = (found - target).abs().amax(dim=(0, 1))
    # Where the small thing came to, it is not; the bar is where it was.
    assert wrong[60:66, 50:56].min() > 0.3
    assert wrong[12:14].max() < 1e-5
    layers = (source, shift_images(source, shift))
    left, right = (float((layer - target).abs().mean()) for layer in layers)
    assert float((found - target).abs().mean()) < 0.5 * min(left, right)
