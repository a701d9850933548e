"""The start of keypoints on what moves: colours by hand, masks worked slowly, squares that are found without labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kpagent.dynamics.configuration import CodeConfig
from kpagent.dynamics.frame_code import KeypointCode
from kpagent.dynamics.motion_start import MotionStart, MotionStartConfig, distinct_colors, moving_pixels
from kpagent.errors import UsageError
from kpagent.training import train

SIZE, SIDE = 32, 6
COLORS = np.array([(230, 40, 40), (40, 220, 60), (60, 80, 240)], np.uint8)


def squares(count: int, length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three squares of different colours that jump about over a still slope, and where their centres are."""
    rng = np.random.default_rng(seed)
    frames = np.zeros((count, length, SIZE, SIZE, 3), np.uint8)
    frames[:] = np.linspace(0, 60, SIZE, dtype=np.uint8)[:, None]
    corners = rng.integers(0, SIZE - SIDE + 1, (count, length, 3, 2))
    for b, t, k in np.ndindex(count, length, 3):
        x, y = corners[b, t, k]
        frames[b, t, y : y + SIDE, x : x + SIDE] = COLORS[k]
    return frames, (2 * corners + SIDE) / SIZE - 1.0


def code(location: str = "softmax", **changes: object) -> KeypointCode:
    torch.manual_seed(0)
    given = {"num_keypoints": 4, "image_size": SIZE, "filters": (8, 16), "normalization": "batch", "location": location}
    return KeypointCode(CodeConfig(**(given | changes)))  # type: ignore[arg-type]


def test_what_moves_differs_from_its_median() -> None:
    frames, _ = squares(2, 5)
    images = torch.from_numpy(frames).movedim(-1, 2) / 255
    away = np.abs(frames / 255 - np.median(frames / 255, axis=1, keepdims=True)).mean(axis=-1)
    found = moving_pixels(images, 0.3).numpy()
    # Rounding decides where a difference lies on the threshold.
    sure = np.abs(away - 0.3 * away.max()) > 1e-6
    assert (found == (away > 0.3 * away.max()))[sure].all()
    assert not moving_pixels(images[:, :1].repeat(1, 5, 1, 1, 1), 0.3).any()


def test_the_most_frequent_colour_comes_first_and_then_the_most_distinct() -> None:
    pixels = torch.tensor([(0.0, 0.0, 0.0)] * 5 + [(1.0, 1.0, 1.0)] * 2 + [(0.0, 0.0, 1.0)] * 3 + [(0.0, 1 / 31, 0.0)] * 4)
    # From black: white 2 × 3 = 6, blue 3 × 1. Then blue is 3 × min(1, 2) away, and the dark green 4 × (1 / 31)².
    expected = [(0, 0, 0), (1, 1, 1), (0, 0, 1), (0, 1 / 31, 0)]
    assert torch.allclose(distinct_colors(pixels, 4), torch.tensor(expected))
    assert torch.allclose(distinct_colors(pixels, 9), torch.tensor(expected))
    assert distinct_colors(pixels[:0], 3).shape == (0, 3)


@pytest.mark.parametrize("location", ["softmax", "mean"])
def test_maps_are_distributions_whose_means_are_the_keypoints(location: str) -> None:
    model, images = code(location), torch.rand(3, 3, SIZE, SIZE)
    maps = model.score(images)
    chances = model.log_probabilities(maps).exp()
    assert chances.shape == (3, 4, 16, 16)
    assert torch.allclose(chances.sum(dim=(-2, -1)), torch.ones(3, 4), atol=1e-5)
    centres = (2 * torch.arange(16) + 1) / 16 - 1
    x, y = (chances * centres).sum(dim=(-2, -1)), (chances * centres[:, None]).sum(dim=(-2, -1))
    assert torch.allclose(model.read(images).unflatten(-1, (-1, 3))[..., :2], torch.stack([x, y], dim=-1), atol=1e-4)


def test_the_loss_is_the_cross_entropy_worked_slowly() -> None:
    frames, _ = squares(2, 4)
    model = code().eval()
    start = MotionStart(model, frames, MotionStartConfig())
    index = torch.tensor([1, 6])
    with torch.no_grad():
        loss, _ = start.loss({"index": index})
        found = model.log_probabilities(model.score(start.images[index])).numpy()
    palette, terms = start.colors.numpy(), []
    for n, i in enumerate(index.tolist()):
        wanted = np.zeros((len(palette), 16, 16))
        for y, x in zip(*start.moving[i].numpy().nonzero(), strict=True):
            color = start.images[i, :, y, x].numpy()
            wanted[((palette - color) ** 2).sum(axis=1).argmin(), y // 2, x // 2] += 1
        terms += [-(w * f).sum() / w.sum() for w, f in zip(wanted, found[n], strict=False) if w.any()]
    assert math.isclose(float(loss), np.mean(terms), rel_tol=1e-4)


def test_squares_are_found_without_labels() -> None:
    frames, _ = squares(8, 8)
    config = MotionStartConfig(steps=60, batch_size=16, learning_rate=5e-3)
    model = code()
    start = MotionStart(model, frames, config)
    before = [value.clone() for value in model.painter.parameters()]
    assert sum(1 for _ in train(start, start.batch, config.training(0, "float32"))) == 60
    assert all(torch.equal(old, new) for old, new in zip(before, model.painter.parameters(), strict=True))
    others, truth = squares(1, 32, seed=1)
    with torch.no_grad():
        found = model.eval().read(model.to_images(others)[0]).unflatten(-1, (-1, 3))[..., :2].numpy()
    for k, color in enumerate(COLORS):
        own = int(((start.colors.numpy() - color / 255) ** 2).sum(axis=1).argmin())
        # Squares hide each other now and then, and a cell is 0.125 wide.
        assert np.median(np.linalg.norm(found[:, own] - truth[0, :, k], axis=-1)) < 0.1


def test_a_step_has_the_same_frames_whenever_it_is_asked_for() -> None:
    frames, _ = squares(3, 4)
    frames[1] = frames[1, :1]
    start = MotionStart(code(), frames, MotionStartConfig())

    def batch(step: int) -> Tensor:
        index: Tensor = start.batch(step)["index"]
        return index

    assert torch.equal(batch(3), batch(3))
    assert not torch.equal(batch(3), batch(4))
    # The second stretch stands still.
    assert not ((batch(3) >= 4) & (batch(3) < 8)).any()


def test_where_nothing_moves_there_are_no_colours() -> None:
    frames, _ = squares(2, 1)
    assert not len(MotionStart(code(), frames.repeat(4, axis=1), MotionStartConfig()).colors)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"sequences": 0}, {"length": 1}, {"every": 0}, {"share": 0.0}, {"share": 1.0}]
)
def test_what_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        MotionStartConfig(**wrong)  # type: ignore[arg-type]
