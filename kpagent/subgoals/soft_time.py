"""Soft time: what distributions of offsets say of every frame, as pure functions (KeyIn section 3.2, Alg. 2).

Time 0 is the last frame that is given, which is the first keyframe K⁰; the frames to explain are those at times 1 to N. The
offset of segment t is from 1 to S: `offsets[..., t, s]` is the probability that keyframe t + 1 comes s + 1 frames after
keyframe t. Offsets of different segments are independent. A segment of offset δ consists of its frames 1 to δ, of which the
last is the keyframe that ends it; so each frame up to the last keyframe is in exactly one segment.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST = 1e-12
"""Below which a probability does not divide."""


def keyframe_times(offsets: Tensor, frames: int) -> Tensor:
    """τ, the distribution of each keyframe's time, by convolution of offset distributions (Alg. 2).

    Args:
        offsets: (..., M, S) probabilities δ.
        frames: N.

    Returns:
        (..., M, N); column n is time n + 1. A row sums to the probability that the keyframe is inside the sequence.

    Raises:
        ValueError: ranks or sizes do not fit.
    """
    return _starts_and_times(offsets, frames)[1]


def ends(start: Tensor, offset: Tensor) -> Tensor:
    """Where a segment ends, by the convolution of where it starts and its offset (Alg. 2).

    Args:
        start: (..., N) probabilities of times 0 to N - 1.
        offset: (..., S) probabilities δ.

    Returns:
        (..., N) probabilities of times 1 to N.
    """
    return (_back(start, offset.shape[-1]) * offset.unsqueeze(-2)).sum(dim=-1)


def inside(times: Tensor) -> Tensor:
    """c, the probability that each keyframe lies inside the sequence: (..., M, N) as of `keyframe_times` to (..., M).

    Raises:
        ValueError: not (..., M, N).
    """
    _require_rank(times, "times", "(..., M, N)")
    return times.sum(dim=-1)


def soft_targets(times: Tensor, frames: Tensor) -> Tensor:
    """K̃, what each keyframe should be: the mean of the frames, weighted by τ (section 3.2).

    Divided by c, so that a target is a convex combination of frames even where the keyframe may lie beyond the last.

    Args:
        times: (..., M, N) as of `keyframe_times`.
        frames: (..., N, D), the frames at times 1 to N or what encodes them.

    Returns:
        (..., M, D); about zero where a keyframe cannot be inside.

    Raises:
        ValueError: ranks or sizes do not fit.
    """
    _require_rank(times, "times", "(..., M, N)")
    _require_rank(frames, "frames", "(..., N, D)")
    if times.shape[-1] != frames.shape[-2]:
        raise ValueError(f"times {tuple(times.shape)} and frames {tuple(frames.shape)} differ in N")
    return (times @ frames) / inside(times).clamp_min(SMALLEST).unsqueeze(-1)


def lasting(offsets: Tensor) -> Tensor:
    """e, the probability that a segment has a frame i, that is, ends with it or later: (..., M, S) to (..., M, S) (Alg. 2).

    Raises:
        ValueError: not (..., M, S).
    """
    _require_rank(offsets, "offsets", "(..., M, S)")
    return offsets.flip(-1).cumsum(dim=-1).flip(-1)


def frame_weights(offsets: Tensor, frames: int) -> Tensor:
    """The probability that frame i of segment t is at time n (Alg. 2).

    Args:
        offsets: (..., M, S) probabilities δ.
        frames: N.

    Returns:
        (..., N, M, S). The sum over segments and their frames is the probability that the segments reach time n.

    Raises:
        ValueError: ranks or sizes do not fit.
    """
    starts, _ = _starts_and_times(offsets, frames)
    # Of the segment that starts at time n + 1 - (i + 1), its frame i + 1 is at time n + 1.
    begun = _back(starts, offsets.shape[-1])
    return (begun * lasting(offsets).unsqueeze(-2)).transpose(-3, -2)


def soft_frames(weights: Tensor, made: Tensor) -> Tensor:
    """Ĩ, what a model makes of the frame at each time: the mean of its segments' frames (section 3.2).

    Args:
        weights: (..., N, M, S) as of `frame_weights`.
        made: (..., M, S, D), the frames of all segments.

    Returns:
        (..., N, D), normalised by the probability that the segments reach the time; about zero where they cannot.

    Raises:
        ValueError: ranks or sizes do not fit.
    """
    if weights.ndim < 3 or made.ndim < 3 or weights.shape[-2:] != made.shape[-3:-1]:
        shapes = f"{tuple(weights.shape)} and {tuple(made.shape)}"
        raise ValueError(f"weights and made must be (..., N, M, S) and (..., M, S, D), not {shapes}")
    flat = weights.flatten(-2)
    return (flat @ made.flatten(-3, -2)) / flat.sum(dim=-1, keepdim=True).clamp_min(SMALLEST)


def hard_times(offsets: Tensor) -> Tensor:
    """The time of each keyframe if every offset is its most probable one: (..., M, S) to (..., M), int64 (section 3.1).

    Raises:
        ValueError: not (..., M, S).
    """
    _require_rank(offsets, "offsets", "(..., M, S)")
    return (offsets.argmax(dim=-1) + 1).cumsum(dim=-1)


def hard_frames(times: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Which frame of which segment is at each time, if keyframes are at `times`.

    Args:
        times: (..., M) int64, rising, from 1.
        frames: N.

    Returns:
        (..., N) segment and (..., N) frame in it, both from 0. Beyond the last keyframe, its segment goes on.

    Raises:
        ValueError: there is no keyframe.
    """
    if times.ndim < 1 or times.shape[-1] < 1:
        raise ValueError(f"times must be (..., M), not {tuple(times.shape)}")
    now = torch.arange(1, frames + 1, device=times.device).expand(*times.shape[:-1], frames).contiguous()
    segment = torch.searchsorted(times.contiguous(), now).clamp_max(times.shape[-1] - 1)
    before = F.pad(times, (1, 0))[..., :-1]
    return segment, now - before.gather(-1, segment) - 1


def _starts_and_times(offsets: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """The distributions of where each segment starts, over times 0 to N - 1, and of where it ends, over times 1 to N."""
    _require_rank(offsets, "offsets", "(..., M, S)")
    if frames < 1:
        raise ValueError(f"there must be 1 frame or more, not {frames}")
    segments = offsets.shape[-2]
    start = F.pad(offsets.new_ones(*offsets.shape[:-2], 1), (0, frames - 1))
    starts, times = [], []
    for t in range(segments):
        starts.append(start)
        times.append(ends(start, offsets[..., t, :]))
        start = F.pad(times[-1][..., :-1], (1, 0))
    return torch.stack(starts, dim=-2), torch.stack(times, dim=-2)


def _back(start: Tensor, longest: int) -> Tensor:
    """(..., N) to (..., N, S): at [n, s], the value s places before n, and 0 before the first."""
    return F.pad(start, (longest - 1, 0)).unfold(-1, longest, 1).flip(-1)


def _require_rank(tensor: Tensor, name: str, form: str) -> None:
    if tensor.ndim < 2:
        raise ValueError(f"{name} must be {form}, not {tuple(tensor.shape)}")
