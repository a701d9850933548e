"""Imagined futures beside what really came, as a film or on a sheet, in the manner of the paper's Figures 2 and 3."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kpagent.drawing import contact_sheet, draw_keypoints
from kpagent.dynamics.struct_vrnn import StructVRNN, to_keypoints
from kpagent.errors import UsageError
from kpagent.keypoints import Keypoints

OBSERVED, PREDICTED = (40, 170, 70), (220, 50, 45)
"""Colours of the borders of observed and of predicted frames."""

SHOWN = 0.2
"""Keypoints with a smaller share of the frame's largest μ are not drawn."""

TRAIL = 8
"""Frames that a keypoint's trail goes back."""

_CELL = 128
_BORDER = 4


@dataclass(frozen=True, eq=False)
class Rollout:
    """Rows of frames of one sequence, each as it really was or as a model has it.

    Attributes:
        frames: (R, T, S, S, 3) uint8; black where a row has ended.
        keypoints: arrays of (R, T, K, ...), or None of a model without keypoints.
        observed: how many frames at the start the model saw.
        lengths: (R,) frames of each row.
    """

    frames: np.ndarray
    keypoints: Keypoints | None
    observed: int
    lengths: tuple[int, ...]


def roll_out(
    model: StructVRNN, frames: np.ndarray, *, steps: int, samples: int, actions: np.ndarray | None = None, seed: int = 0
) -> Rollout:
    """Let a model observe the first T frames of a sequence and imagine what follows.

    Args:
        model: T is `model.config.dynamics.observed`.
        frames: (L, H, W, 3) uint8, T or more; those after T are shown, not seen.
        steps: frames to imagine.
        samples: futures.
        actions: (T - 1 + steps or more, A), taken on each frame, where the model has them.
        seed: of the samples.

    Returns:
        What really came in the first row, as far as it goes, and the samples in the others, whose observed frames are
        painted from their codes as decoded.

    Raises:
        UsageError: too few frames or actions, or nothing to imagine.
    """
    observed = model.config.dynamics.observed
    if steps < 1 or samples < 1:
        raise UsageError(f"steps and samples must be at least 1; got {steps} and {samples}")
    if len(frames) < observed:
        raise UsageError(f"the model observes {observed} frames, and the sequence has {len(frames)}")
    before, after = None, None
    if model.config.dynamics.actions:
        found = 0 if actions is None else len(actions)
        if actions is None or found < observed - 1 + steps:
            wanted = f"{observed} frames and {steps} steps need {observed - 1 + steps} actions"
            raise UsageError(f"{wanted}, and the sequence has {found}: take fewer steps")
        before, after = actions[None, :observed], actions[None, observed - 1 : observed - 1 + steps]
    true_codes = model.encode_sequence(frames[None, : observed + steps])
    belief, decoded = model.observe(true_codes[:, :observed], before)
    # Without a latent belief, what is decoded of a frame was foretold without having seen it.
    seen = decoded if model.config.dynamics.stochastic else true_codes[:, :observed]
    futures = model.imagine(belief, steps, samples=samples, actions=after, seed=seed)[0]
    codes = torch.cat([seen.expand(samples, -1, -1), futures], dim=1)
    painted = model.render(np.repeat(frames[:1], samples, axis=0), codes)
    return _rows(model, frames[: observed + steps], true_codes[0], painted, codes, observed)


def rebuild(model: StructVRNN, frames: np.ndarray) -> Rollout:
    """Frames (L, H, W, 3) of one sequence above what is painted from their own codes: a look at the code alone."""
    codes = model.encode_sequence(frames[None])
    return _rows(model, frames, codes[0], model.render(frames[:1], codes), codes, len(frames))


def film(rollout: Rollout, *, scale: int | None = None) -> Iterator[np.ndarray]:
    """A picture for each frame: the rows beside each other, with keypoints and where they came from, bordered.

    Args:
        rollout: what to show.
        scale: whole factor of enlargement; None makes frames about 256 pixels high.
    """
    rows, length = rollout.frames.shape[:2]
    scale = scale or max(1, 2 * _CELL // rollout.frames.shape[2])
    for t in range(length):
        yield contact_sheet([_cell(rollout, row, t, scale) for row in range(rows)], columns=rows, gap=_BORDER)


def sheet(rollout: Rollout, *, scale: int | None = None) -> np.ndarray:
    """One picture with a row for each row, and time from left to right.

    Args:
        rollout: what to show.
        scale: whole factor of enlargement; None makes frames about 128 pixels high.
    """
    rows, length = rollout.frames.shape[:2]
    scale = scale or max(1, _CELL // rollout.frames.shape[2])
    cells = [_cell(rollout, row, t, scale) for row in range(rows) for t in range(length)]
    return contact_sheet(cells, columns=length, gap=_BORDER)


def keypoint_sheet(model: StructVRNN, frames: np.ndarray, *, columns: int = 4) -> np.ndarray:
    """Frames (N, H, W, 3) with a model's keypoints on them."""
    points = model.encode(frames).numpy()
    scale = max(1, 2 * _CELL // frames.shape[1])
    drawn = [
        draw_keypoints(frame, xy, presence=presence, threshold=SHOWN, scale=scale)
        for frame, xy, presence in zip(frames, points.xy, points.presence, strict=True)
    ]
    return contact_sheet(drawn, columns=columns)


def _rows(
    model: StructVRNN, frames: np.ndarray, true_codes: torch.Tensor, painted: np.ndarray, codes: torch.Tensor, observed: int
) -> Rollout:
    """The truth, as large as what was painted, above that."""
    # What the networks see of frames, and at their size.
    truth = model.code.to_images(frames[None])[0].mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    count, length = painted.shape[:2]
    rows = np.zeros((1 + count, *painted.shape[1:]), np.uint8)
    rows[0, : len(truth)], rows[1:] = truth, painted
    keypoints = None
    if model.config.code.has_keypoints:
        whole = torch.full((1, length, codes.shape[-1]), torch.nan, device=codes.device)
        whole[0, : len(truth)] = true_codes
        keypoints = to_keypoints(torch.cat([whole, codes])).numpy()
    return Rollout(rows, keypoints, observed, (len(truth), *[length] * count))


def _cell(rollout: Rollout, row: int, t: int, scale: int) -> np.ndarray:
    frame = rollout.frames[row, t]
    if t >= rollout.lengths[row]:
        return np.pad(_enlarged(frame, scale), ((_BORDER, _BORDER), (_BORDER, _BORDER), (0, 0)))
    points: Any = rollout.keypoints
    if points is None:
        drawn = _enlarged(frame, scale)
    else:
        hidden = points.presence[row, max(0, t - TRAIL) : t] < SHOWN
        trails = np.where(hidden[..., None], np.nan, points.xy[row, max(0, t - TRAIL) : t])
        presence = points.presence[row, t]
        drawn = draw_keypoints(
            frame, points.xy[row, t], presence=presence, threshold=SHOWN, trails=trails if t else None, scale=scale
        )
    cell = np.empty((drawn.shape[0] + 2 * _BORDER, drawn.shape[1] + 2 * _BORDER, 3), np.uint8)
    cell[:] = OBSERVED if t < rollout.observed else PREDICTED
    cell[_BORDER:-_BORDER, _BORDER:-_BORDER] = drawn
    return cell


def _enlarged(frame: np.ndarray, scale: int) -> np.ndarray:
    return frame.repeat(scale, axis=0).repeat(scale, axis=1)
