"""How a KeyIn explains a sequence, and how else it would go on, as pictures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kpagent.errors import UsageError
from kpagent.frames import resize
from kpagent.subgoals import soft_time
from kpagent.subgoals.keyin import Keyframes, KeyIn
from kpagent.subgoals.pictures import DIM, Strip, draw_keyframes, draw_samples, draw_ways


def time_map(keyframes: Keyframes, given: int) -> np.ndarray:
    """How probable it is that each keyframe is each frame, for `draw_keyframes`.

    Args:
        keyframes: of sequences or samples.
        given: T.

    Returns:
        (..., M, L) float32; a row sums to the probability that the keyframe is inside the sequence.
    """
    times = soft_time.keyframe_times(keyframes.offsets, keyframes.length - given)
    padded: np.ndarray = F.pad(times, (given, 0)).float().cpu().numpy()
    return padded


def explain(model: KeyIn, frames: np.ndarray, true: np.ndarray | None = None, *, size: int = 64) -> np.ndarray:
    """A sequence with its keyframes, when they may be, the keyframes as the model has them, and all that it makes of them.

    A model that sees by a perception model shows keypoints on frames; what is predicted, on darkened ones.

    Args:
        model: of frames, or with a perception model.
        frames: (L, H, W, 3) uint8, L above T.
        true: (P,) numbers of the true keyframes.
        size: as of `draw_keyframes`.

    Returns:
        (H', W', 3) uint8.

    Raises:
        UsageError: as of `require_sight`.
    """
    require_sight(model)
    given, shown = model.config.given, _shown(model, frames)
    found = model.discover(frames[None])
    (numbers,) = found.inside()
    alone = found.codes.new_zeros(len(frames) - given, found.codes.shape[-1])
    # Those beyond the end come last.
    alone[torch.as_tensor(numbers - given, device=alone.device)] = found.codes[0, : len(numbers)]
    rows = (("keyframes", alone, True), ("between them", model.interpolate(found)[0], False))
    below = [_strip(model, name, made, shown[given:], numbers, sparse) for name, made, sparse in rows]
    seen = _places(model, model.encode(frames[None])[0])
    times = time_map(found, given)[0]
    return draw_keyframes(shown, numbers, true, keypoints=seen, times=times, below=below, size=size)


def show_samples(
    model: KeyIn, frames: np.ndarray, samples: int, *, true: np.ndarray | None = None, seed: int = 0, size: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Other ways to go on after the frames that are given, below what came.

    Args:
        model: as of `explain`.
        frames: (L, H, W, 3) uint8, L above T.
        samples: how many, 1 or more.
        true: as of `explain`.
        seed: of the samples.
        size: as of `draw_keyframes`.

    Returns:
        Strips, as of `draw_keyframes`, and whole ways, as of `draw_samples` or `draw_ways`.

    Raises:
        UsageError: as of `require_sight`.
    """
    require_sight(model)
    given = model.config.given
    (came,) = model.discover(frames[None]).inside()
    drawn = model.sample(frames[None, :given], samples, seed=seed)
    codes = model.interpolate(drawn)[0]
    keyframes = drawn.inside()
    shown = _shown(model, frames)
    still = shown[given - 1 : given].repeat(codes.shape[1], axis=0)
    names = [f"sample {number + 1}" for number in range(samples)]
    below = [
        _strip(model, name, made, still, numbers, False) for name, made, numbers in zip(names, codes, keyframes, strict=True)
    ]
    seen = model.encode(frames[None])[0]
    strips = draw_keyframes(shown, came, true, keypoints=_places(model, seen), below=below, size=size)
    names = ["what came", *names]
    keyframes = [came, *keyframes]
    if model.perception is None:
        length = min(len(shown), given + codes.shape[1])
        wholes = [shown[:length], *(np.concatenate([shown[:given], strip.frames])[:length] for strip in below)]
        return strips, draw_samples(np.stack(wholes), keyframes, names=names)
    start = seen[:given]
    ways = [_xy(way) for way in (seen, *(torch.cat([start, made]) for made in codes))]
    shortest = min(len(way) for way in ways)
    whole = np.stack([way[:shortest] for way in ways])
    return strips, draw_ways(shown[given - 1], whole, keyframes, names=names)


def require_sight(model: KeyIn) -> None:
    """Refuse a model that knows codes alone, and cannot look at frames.

    Raises:
        UsageError: it has learned from codes and has no perception model with it.
    """
    if model.config.codec.kind == "codes" and model.perception is None:
        raise UsageError("the model has learned from codes that no perception model of its own makes: it cannot see frames")


def _shown(model: KeyIn, frames: np.ndarray) -> np.ndarray:
    """The frames as the model has them, which paints as large ones."""
    return frames if model.perception is not None else resize(frames, model.config.codec.image_size)


def _strip(model: KeyIn, name: str, codes: Tensor, frames: np.ndarray, keyframes: np.ndarray, sparse: bool) -> Strip:
    """What codes (N, D) stand for after the frames that are given: painted, or keypoints on frames as long."""
    start = model.config.given
    if model.perception is None:
        return Strip(name, model.render(codes), keyframes, start=start, sparse=sparse)
    dark = (DIM * frames).astype(np.uint8)
    return Strip(name, dark, keyframes, keypoints=_xy(codes), start=start, sparse=sparse)


def _places(model: KeyIn, codes: Tensor) -> np.ndarray | None:
    return None if model.perception is None else _xy(codes)


def _xy(codes: Tensor) -> np.ndarray:
    places: np.ndarray = codes.unflatten(-1, (-1, 2)).float().cpu().numpy()
    return places
