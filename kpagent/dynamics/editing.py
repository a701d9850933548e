"""What would follow if an observed keypoint had been elsewhere (Struct-VRNN section 5.4, Figures 6 and 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.errors import UsageError

_ROUNDING = 1e-5
"""How far a place may lie outside the frame: coordinates are sums of float32 numbers."""


@dataclass(frozen=True, eq=False)
class Futures:
    """What was observed, what was made of it, and what would follow either, drawn with the same noise.

    Attributes:
        observed: (T, 3K) codes of the observed frames: for each keypoint x, y, μ.
        edited: (T, 3K), the same with keypoints moved.
        original: (samples, steps, 3K), futures of `observed`.
        counterfactual: (samples, steps, 3K), futures of `edited`; sample i has the noise of sample i of `original`.
    """

    observed: Tensor
    edited: Tensor
    original: Tensor
    counterfactual: Tensor

    @property
    def moved(self) -> list[int]:
        """The keypoints whose observed places were changed."""
        changed = (self.observed != self.edited).unflatten(-1, (-1, 3))[..., :2]
        return [int(index) for index in changed.any(dim=-1).any(dim=0).nonzero().flatten()]


def require_keypoints(model: StructVRNN) -> None:
    """Refuse a model whose codes have no places that could be moved.

    Raises:
        UsageError: its codes are vectors without structure.
    """
    if not model.config.code.has_keypoints:
        raise UsageError("this model codes frames by vectors without structure: it has no keypoints to move")


def move_keypoint(
    codes: Tensor, keypoint: int, *, to: Any = None, by: Any = None, path: Any = None, start: int = 0
) -> Tensor:
    """Codes in which one keypoint was elsewhere; its μ and all other keypoints are as they were.

    Exactly one of `to`, `by` and `path` says where.

    Args:
        codes: (T, 3K) of the observed frames, as of `StructVRNN.encode_sequence`.
        keypoint: index of the one to move.
        to: (x, y) where it is at the last frame. Its own movement is kept, and on it an offset that grows steadily from 0
            at frame `start`; it is held within the frame on the way.
        by: (dx, dy), such an offset at the last frame.
        path: (n, 2) places that it goes along from frame `start` on, instead of its own movement: on straight lines, at
            one speed, from the first place to the last. A single place holds it there.
        start: first frame that is edited; from 0 to T - 1.

    Returns:
        (T, 3K), always new.

    Raises:
        UsageError: no such keypoint or frame, a place outside [-1, 1], none or several of `to`, `by` and `path`.
        ValueError: codes that are not (T, 3K).
    """
    if codes.ndim != 2 or codes.shape[1] % 3 or not codes.numel():
        raise ValueError(f"codes must be (T, 3K), not {tuple(codes.shape)}")
    length, count = len(codes), codes.shape[1] // 3
    if not 0 <= keypoint < count:
        raise UsageError(f"there is no keypoint {keypoint}; the model has 0 to {count - 1}")
    if not 0 <= start < length:
        raise UsageError(f"there is no frame {start} to start at; 0 to {length - 1} were observed")
    if sum(where is not None for where in (to, by, path)) != 1:
        raise UsageError("say where the keypoint goes by one of to, by and path")
    places = codes[start:, 3 * keypoint : 3 * keypoint + 2].cpu().double().numpy()
    shares = np.linspace(0, 1, len(places)) if len(places) > 1 else np.ones(1)
    if path is not None:
        corners = _places(path, "path", 2)
        _require_inside(corners)
        places = _along(corners, shares)
    else:
        offset = _places(by, "by", 1) if by is not None else _places(to, "to", 1) - places[-1]
        places = places + shares[:, None] * offset
        _require_inside(places[-1:])
    moved = codes.clone()
    moved[start:, 3 * keypoint : 3 * keypoint + 2] = torch.from_numpy(places.clip(-1, 1)).to(codes)
    return moved


def counterfactual(
    model: StructVRNN,
    frames: Any,
    edited_codes: Tensor,
    steps: int,
    samples: int = 1,
    seed: int = 0,
    actions: Any = None,
) -> Futures:
    """Roll out what was observed, and what was made of it, with the same noise.

    Args:
        model: whose codes have keypoints.
        frames: (T, H, W, 3) uint8, what was observed; or its codes, (T, 3K).
        edited_codes: (T, 3K), as of `move_keypoint`.
        steps: frames to foretell.
        samples: futures of each; 1 for a deterministic model.
        seed: of the noise.
        actions: (T - 1 + steps, A) where the model has them, the action taken on each frame.

    Returns:
        Both, on the CPU.

    Raises:
        UsageError: a model without keypoints, steps or samples below 1, several samples of a deterministic model, edited
            codes of another shape or not finite, actions that are missing, too few or not wanted, or futures that are not
            finite.
    """
    require_keypoints(model)
    _require_counts(model, steps, samples)
    observed = frames if frames.ndim == 2 else model.encode_sequence(frames[None])[0]
    observed = torch.as_tensor(observed, dtype=torch.float32, device=model.device)
    edited = edited_codes.to(observed)
    if edited.shape != observed.shape:
        raise UsageError(f"edited codes must be {tuple(observed.shape)} as the observed are, not {tuple(edited.shape)}")
    if not bool(edited.isfinite().all()):
        raise UsageError("edited codes must be finite numbers")
    before, after = _split_actions(model, actions, len(observed), steps)
    futures = []
    for codes in (observed, edited):
        belief, _ = model.observe(codes[None], before)
        futures.append(model.imagine(belief, steps, samples=samples, actions=after, seed=seed)[0].cpu())
    if not all(bool(future.isfinite().all()) for future in futures):
        raise UsageError("the model foretells no finite numbers from this edit")
    return Futures(observed.cpu(), edited.cpu(), *futures)


def render_futures(
    model: StructVRNN, first_frame: np.ndarray, futures: Futures, sample: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Frames of both, observed and foretold (Figure 7).

    Args:
        model: that foretold.
        first_frame: (H, W, 3) uint8, the first observed.
        futures: as of `counterfactual`.
        sample: which future of each.

    Returns:
        (T + steps, S, S, 3) uint8 of the original, and the same of the edited.

    Raises:
        UsageError: no such sample.
    """
    if not 0 <= sample < len(futures.original):
        raise UsageError(f"there is no sample {sample}; 0 to {len(futures.original) - 1} were drawn")
    original = torch.cat([futures.observed, futures.original[sample]])
    edited = torch.cat([futures.edited, futures.counterfactual[sample]])
    frames = np.stack([first_frame, first_frame])
    rendered = model.render(frames, torch.stack([original, edited]))
    return rendered[0], rendered[1]


def _require_counts(model: StructVRNN, steps: int, samples: int) -> None:
    if steps < 1:
        raise UsageError(f"steps must be at least 1, not {steps}")
    if samples < 1:
        raise UsageError(f"samples must be at least 1, not {samples}")
    if samples > 1 and not model.config.dynamics.stochastic:
        raise UsageError(f"this model is deterministic and foretells one future: samples must be 1, not {samples}")


def _split_actions(model: StructVRNN, actions: Any, length: int, steps: int) -> tuple[Any, Any]:
    """Those taken on observed frames but the last, and those from there on; (1, n, A) each."""
    size = model.config.dynamics.actions
    if not size:
        if actions is not None:
            raise UsageError("this model has no actions; leave them out")
        return None, None
    wanted = (length - 1 + steps, size)
    if actions is None:
        raise UsageError(f"this model wants actions, {wanted}")
    values = torch.as_tensor(actions, dtype=torch.float32, device=model.device)
    if tuple(values.shape) != wanted:
        raise UsageError(f"actions must be {wanted}, not {tuple(values.shape)}")
    if not bool(values.isfinite().all()):
        raise UsageError("actions must be finite numbers")
    return values[None, : length - 1], values[None, length - 1 :]


def _places(values: Any, name: str, ndim: int) -> np.ndarray:
    places = np.asarray(values, np.float64)
    if places.ndim != ndim or places.shape[-1] != 2 or not places.size:
        raise UsageError(f"{name} must be {'(x, y) places' if ndim == 2 else 'two numbers'}, not of shape {places.shape}")
    if not np.isfinite(places).all():
        raise UsageError(f"{name} must be finite numbers, not {places.tolist()}")
    return places


def _require_inside(places: np.ndarray) -> None:
    outside = places[(np.abs(places) > 1 + _ROUNDING).any(axis=-1)]
    if len(outside):
        x, y = outside[0]
        raise UsageError(f"the keypoint would be at ({x:g}, {y:g}), outside the frame, which goes from -1 to 1")


def _along(corners: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Places at these shares of the way along straight lines between corners."""
    way = np.concatenate([[0.0], np.linalg.norm(np.diff(corners, axis=0), axis=1).cumsum()])
    if not way[-1]:
        return corners[:1].repeat(len(shares), axis=0)
    return np.stack([np.interp(shares * way[-1], way, corners[:, axis]) for axis in (0, 1)], axis=1)
