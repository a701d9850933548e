"""What the keyframes benchmark measures of a model: F1, reconstruction, ways around the wall, time of a training step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kpagent.evaluation.keyframes import match_sequences

if TYPE_CHECKING:
    from kpagent.subgoals.keyframe_model import KeyframeModel
    from kpagent.subgoals.keyin import KeyIn
    from kpagent.subgoals.learning import LearningConfig

Pieces = Callable[[], Iterator[np.ndarray]]
"""Test sequences, as a model takes them, some at a time: codes (B, L, D) or frames (B, L, H, W, 3)."""

WALL_START, WALL_END, NOWHERE = 0, 1, -1
"""How a puck goes around the wall: by either end, or not at all."""
EACH_WAY = 0.1
"""Of the samples of a scene, the share that must go by each end of the wall, to say that both ways are covered."""
TIMED, UNTIMED = 10, 2
"""Steps of training that are timed, and steps before them that are not."""


@dataclass(frozen=True, eq=False)
class Follower:
    """A keypoint that follows something, of which it may lie at any place.

    Attributes:
        number: of the keypoint.
        offset: (2,), what lies between it and the true point in the mean.
        distance: from the true point when the offset is made good, a mean over frames, in widths of the image.
    """

    number: int
    offset: np.ndarray
    distance: float


def discovery_figures(found: Sequence[np.ndarray], true: np.ndarray, given: int) -> dict[str, float]:
    """F1 of keyframes by exact frame and within one frame (Table 1).

    Frames that a model is given count on neither side, nor does the last, which ends every way to cut a sequence.

    Args:
        found: (F,) frame numbers of each sequence.
        true: (N, L) bool, whether each frame is a keyframe.
        given: T, frames at the start that are given.

    Returns:
        `f1` and `f1_tolerance1`.
    """
    present = [np.flatnonzero(row) for row in true]
    names = {"f1": 0, "f1_tolerance1": 1}
    return {
        name: match_sequences(found, present, off, start=given, stop=true.shape[1] - 1).f1 for name, off in names.items()
    }


def model_figures(model: KeyframeModel, pieces: Pieces, true: np.ndarray) -> dict[str, dict[str, float]]:
    """What a model finds in test sequences, and how well it makes them again.

    Args:
        model: trained.
        pieces: the sequences.
        true: as of `discovery_figures`.

    Returns:
        For `found`: as of `discovery_figures`, and of a KeyIn `reconstruction`, as of `reconstruction_error`, a mean over
        sequences. The same for `searched`, its exact search, unless its offsets are fixed.
    """
    from kpagent.subgoals.keyin import KeyIn

    given = model.config.given
    if not isinstance(model, KeyIn):
        found = [one for piece in pieces() for one in model.discover(piece)]  # type: ignore[operator]
        return {"found": discovery_figures(found, true, given)}
    # Where offsets are fixed, a search would find those of another method.
    ways = {"found": model.discover} | ({} if model.config.fixed_offsets else {"searched": model.search})
    figures = {}
    for name, find in ways.items():
        times, errors = [], []
        for piece in pieces():
            keyframes = find(piece)
            times += keyframes.inside()
            errors.append(reconstruction_error(model, model.interpolate(keyframes), piece[:, given:]))
        error = float(np.concatenate(errors).mean())
        figures[name] = discovery_figures(times, true, given) | {"reconstruction": error}
    return figures


def reconstruction_error(model: KeyIn, made: Any, after: np.ndarray) -> np.ndarray:
    """How far the frames that a model makes are from those that came.

    Args:
        model: of codes that are coordinates (x, y) of points one after the other, or of frames.
        made: (B, N, D) tensor, as of `KeyIn.interpolate`.
        after: (B, N, D) codes, or (B, N, S, S, 3) uint8.

    Returns:
        (B,): of points the mean distance, in widths of the image; of frames the mean squared error of a pixel in [0, 1].
    """
    if model.config.codec.kind == "codes":
        away = made.cpu().numpy() - after
        return np.linalg.norm(away.reshape(*away.shape[:2], -1, 2), axis=-1).mean(axis=(1, 2)) / 2
    error = (model.render(made).astype(np.float32) - after) / 255
    return np.square(error).mean(axis=(1, 2, 3, 4))


def ways_around(paths: np.ndarray, walls: np.ndarray) -> np.ndarray:
    """By which end of the wall a puck gets to its other side: where its path first crosses the wall's line.

    Args:
        paths: (..., L, 2) places of the puck.
        walls: (..., 2, 2), the two ends of the wall.

    Returns:
        (...) int: `WALL_START` or `WALL_END`, where the line is crossed beyond that end; `NOWHERE` where the path stays
        on its side or leads through the wall.
    """
    middle, half = walls.mean(axis=-2), (walls[..., 1, :] - walls[..., 0, :]) / 2
    local, length = paths - middle[..., None, :], np.square(half).sum(axis=-1)[..., None]
    # In halves of the wall from its middle: beyond 1 lies what is beyond its end.
    along = (local * half[..., None, :]).sum(axis=-1) / length
    across = (local[..., 1] * half[..., None, 0] - local[..., 0] * half[..., None, 1]) / length
    beyond = across[..., 1:] * across[..., :1] < 0
    after = np.where(beyond.any(axis=-1), beyond.argmax(axis=-1) + 1, 1)[..., None]
    (u, v), (u_after, v_after) = (
        (np.take_along_axis(along, place, -1)[..., 0], np.take_along_axis(across, place, -1)[..., 0])
        for place in (after - 1, after)
    )
    part = np.divide(v, v - v_after, out=np.zeros_like(v), where=v != v_after)
    crossing = u + part * (u_after - u)
    ends = np.where(crossing > 1, WALL_END, np.where(crossing < -1, WALL_START, NOWHERE))
    return np.where(beyond.any(axis=-1), ends, NOWHERE)


def side_figures(model: KeyIn, codes: np.ndarray, walls: np.ndarray, puck: Follower, samples: int) -> dict[str, float]:
    """Whether samples from the prior cover both ways around the wall (Figure 6).

    Args:
        model: of codes that are coordinates of points.
        codes: (N, L, D) of test sequences, of which those that are given are seen.
        walls: (N, 2, 2), the ends of the wall.
        puck: which of the points follows the puck.
        samples: of each sequence.

    Returns:
        `both_sides`, the share of sequences with at least `EACH_WAY` of the samples by each end; `around`, the share of
        samples that go by an end at all.
    """
    paths = sampled_paths(model, codes, puck, samples)
    ways = ways_around(paths, np.broadcast_to(walls[:, None], (*paths.shape[:2], 2, 2)))
    shares = np.stack([(ways == end).mean(axis=1) for end in (WALL_START, WALL_END)])
    return {"both_sides": float((shares >= EACH_WAY).all(axis=0).mean()), "around": float((ways != NOWHERE).mean())}


def sampled_paths(model: KeyIn, codes: np.ndarray, puck: Follower, samples: int, *, seed: int = 0) -> np.ndarray:
    """(N, samples, 1 + frames, 2) places of the puck in samples from the prior, from the last frame that is given on."""
    paths = []
    for number in range(len(codes)):
        ways = model.sample(codes[number : number + 1, : model.config.given], samples, seed=(seed, number, 1))
        made = model.interpolate(ways)[0]
        whole = np.concatenate([ways.first[0].cpu().numpy()[:, None], made.cpu().numpy()], axis=1)
        paths.append(whole.reshape(*whole.shape[:2], -1, 2)[:, :, puck.number] + puck.offset)
    return np.stack(paths)


def find_followers(codes: np.ndarray, truth: np.ndarray) -> list[Follower]:
    """The keypoint that follows each true point best.

    Args:
        codes: (N, L, 2 K), coordinates of keypoints.
        truth: (N, L, P, 2).

    Returns:
        P of them; a keypoint may follow several.
    """
    followers = []
    for true in np.moveaxis(truth, 2, 0):
        away = true[:, :, None] - codes.reshape(*codes.shape[:2], -1, 2)
        offsets = away.mean(axis=(0, 1))
        distances = np.linalg.norm(away - offsets, axis=-1).mean(axis=(0, 1)) / 2
        number = int(distances.argmin())
        followers.append(Follower(number, offsets[number], float(distances[number])))
    return followers


def step_ms(model: KeyframeModel, sequences: Any, learning: LearningConfig) -> float:
    """Milliseconds of a step of the last stage, its batch included: the median of `TIMED`, on a copy of the model.

    The cuts by which a KeyIn is guided are known before, as most are in a long run.

    Args:
        model: as it is after training.
        sequences: to draw batches from.
        learning: how it was trained.
    """
    from kpagent.subgoals.keyin import KeyIn
    from kpagent.subgoals.learning import SequenceBatches, guiding_cuts
    from kpagent.training import train

    tried, cuts = copy.deepcopy(model), None
    if isinstance(tried, KeyIn) and not learning.joint:
        tried.interpolator.requires_grad_(False)
        cuts = guiding_cuts(tried, sequences, learning.keyframes)
    training = replace(learning.keyframes, steps=UNTIMED + TIMED)
    batches = SequenceBatches(sequences, model.config.length, training, cuts)
    for step in range(training.steps if cuts is not None else 0):
        batches(step)
    seconds = [progress.seconds for progress in train(tried, batches, training)]
    return 1000 * float(np.median(seconds[UNTIMED:]))
