"""Frames and RAM of real play, and where a colour lies in the frames: what RAM readers are tested against."""

from __future__ import annotations

from typing import Any

import numpy as np

from kpagent.envs.making import make_env


def play(env_id: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames and RAM under actions that are kept for a while, so that paddles reach both ends."""
    env: Any = make_env(env_id)
    rng = np.random.default_rng(0)
    frames, ram, action = [env.reset(seed=0)[0]], [read_ram(env)], 0
    for _ in range(steps):
        if rng.random() < 0.2:
            action = int(rng.integers(env.action_space.n))
        frame, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            frame, _ = env.reset()
        frames.append(frame)
        ram.append(read_ram(env))
    return np.array(frames), np.array(ram)


def read_ram(env: Any) -> np.ndarray:
    return env.unwrapped.ale.getRAM().copy()


def centres_of_colour(
    frames: np.ndarray, colour: tuple[int, int, int], rows: tuple[int, int], columns: tuple[int, int] = (0, 160)
) -> np.ndarray:
    """(N, 2) centres, in pixels from the top left corner, of the box round a colour; NaN where there is none."""
    mask = (frames[:, rows[0] : rows[1], columns[0] : columns[1]] == np.array(colour, np.uint8)).all(-1)
    centres = np.full((len(frames), 2), np.nan)
    for index, found in enumerate(mask):
        if found.any():
            y, x = np.nonzero(found)
            centres[index] = columns[0] + (x.min() + x.max() + 1) / 2, rows[0] + (y.min() + y.max() + 1) / 2
    return centres


def colour_codes(frames: np.ndarray) -> np.ndarray:
    """(...) int32 0xRRGGBB of (..., 3) frames, with which masks of colours are fast."""
    return frames[..., 0].astype(np.int32) << 16 | frames[..., 1].astype(np.int32) << 8 | frames[..., 2]


def boxes(mask: np.ndarray) -> np.ndarray:
    """(N, 2) centres, in pixels from the top left corner, of the boxes round what is marked; NaN where nothing is."""
    centres = np.full((len(mask), 2), np.nan)
    for t in np.flatnonzero(mask.any((1, 2))):
        rows, columns = np.flatnonzero(mask[t].any(1)), np.flatnonzero(mask[t].any(0))
        centres[t] = (columns[0] + columns[-1] + 1) / 2, (rows[0] + rows[-1] + 1) / 2
    return centres


def any_colour(frames: np.ndarray, colours: list[tuple[int, int, int]]) -> np.ndarray:
    """(N, H, W) bool: where one of the colours is."""
    codes = frames[..., 0].astype(np.int32) << 16 | frames[..., 1].astype(np.int32) << 8 | frames[..., 2]
    return np.isin(codes, [red << 16 | green << 8 | blue for red, green, blue in colours])


def in_pixels(xy: np.ndarray) -> np.ndarray:
    return (xy + 1) / 2 * (160, 210)


def assert_agree(found: np.ndarray, truth: np.ndarray) -> None:
    present, seen = np.isfinite(found).all(-1), np.isfinite(truth).all(-1)
    assert (present == seen).mean() > 0.99
    both = present & seen
    assert both.sum() > 100
    error = np.abs(found - truth)[both]
    assert np.median(error) < 0.5
    assert error.max() <= 1.5
    assert np.percentile(error, 85) < 0.5
