"""Fewer keypoints: the ones that are missed least are dropped after training.

More keypoints than are wanted find small things more surely, since more of them start in more places. What nothing is left
for stands still or doubles another, and is dropped here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from kpagent.frames import to_images
from kpagent.perception.reconstructor import Reconstructor


@torch.no_grad()
def least_missed(model: Reconstructor, batch: Mapping[str, Any], count: int, *, chunk: int = 64) -> tuple[int, ...]:
    """The keypoints that can be left out at the least cost, greedily: one by one, each the least missed of those left.

    Args:
        model: in any mode; it is put into evaluation mode.
        batch: `source`, `target` and `weight`, as `PairBatches.held_out` gives.
        count: how many to find, from 0 to K - 1.
        chunk: pairs at a time.

    Returns:
        `count` keypoints, in the order in which they are dropped.
    """
    model.eval()
    dropped: tuple[int, ...] = ()
    for _ in range(count):
        left = [k for k in range(model.num_keypoints) if k not in dropped]
        dropped += (min(left, key=lambda k: reconstruction_loss(model, batch, {*dropped, k}, chunk=chunk)),)
    return dropped


@torch.no_grad()
def reconstruction_loss(
    model: Reconstructor, batch: Mapping[str, Any], without: Collection[int], *, chunk: int = 64
) -> float:
    """The weighted squared error of reconstructing a batch without some of the keypoints.

    Args:
        model: in the mode to be measured.
        batch: `source`, `target` and `weight`.
        without: keypoints that are left out.
        chunk: pairs at a time.
    """
    count, total = len(batch["source"]), 0.0
    for start in range(0, count, chunk):
        source, target = (
            to_images(batch[name][start : start + chunk], model.image_size, model.device) for name in ("source", "target")
        )
        error = (model.reconstruct(source, target, without=without)[0] - target).square().mean(dim=1)
        total += float((error * batch["weight"].to(error)).mean(dim=(1, 2)).sum())
    return total / count


def prune(model: Reconstructor, batch: Mapping[str, Any], keep: int) -> Reconstructor:
    """A model with `keep` of the keypoints: those left when the ones that are missed least were dropped one by one.

    Args:
        model: the larger model; it is put into evaluation mode.
        batch: `source`, `target` and `weight`, as `PairBatches.held_out` gives.
        keep: how many keypoints to keep, from 1 to K.
    """
    dropped = least_missed(model, batch, model.num_keypoints - keep)
    return model.select([k for k in range(model.num_keypoints) if k not in dropped])
