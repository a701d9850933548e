"""A new start, during training, for keypoints that bring nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from kpagent.frames import fold_patches, to_images
from kpagent.perception.reconstructor import Reconstructor


@torch.no_grad()
def revive(model: Reconstructor, batch: Mapping[str, Any], *, useless: float = 0.02, gain: float = 0.9) -> int | None:
    """Point the keypoint that is missed least, if it is hardly missed, at what the model reconstructs worst.

    A keypoint whose softmax has settled on something that stands still, or on what another keypoint has already, gets no
    gradient from what moves elsewhere. Its 1×1 regressor is replaced by the ridge regression of the reconstruction error on
    KeyNet's features: it begins anew on what looks like what no keypoint has brought along yet.

    Args:
        model: is in training mode afterwards.
        batch: `source`, `target` and `weight`, as `PairBatches` gives.
        useless: how much worse, relative to the error, the reconstruction must be without a keypoint for it to stay.
        gain: what one standard deviation of the predicted error is in the logits.

    Returns:
        The keypoint that was pointed elsewhere, or none.
    """
    model.eval()
    source, target = (to_images(batch[name], model.image_size, model.device) for name in ("source", "target"))
    weight = batch["weight"].to(target)

    def error(*without: int) -> Tensor:
        return (model.reconstruct(source, target, without=without)[0] - target).square().mean(dim=1, keepdim=True) * weight

    now = error()
    missed = [float(error(k).mean()) for k in range(model.num_keypoints)]
    index = min(range(model.num_keypoints), key=missed.__getitem__)
    revived = missed[index] < (1 + useless) * float(now.mean())
    if revived:
        seen = model.keynet.trunk(model.keynet_input(fold_patches(target, model.config.patch))).float()
        wanted = adaptive_avg_pool2d(now, seen.shape[-2:]).sqrt().flatten()
        _point(model, index, seen, wanted, gain)
    model.train()
    return index if revived else None


def _point(model: Reconstructor, index: int, seen: Tensor, wanted: Tensor, gain: float) -> None:
    """Let the map of a keypoint be the ridge regression of `wanted` (N * H * W,) on KeyNet's features (N, C, H, W)."""
    features = seen.permute(0, 2, 3, 1).flatten(0, 2)
    deviation = features.std(dim=0) + 1e-3
    features = (features - features.mean(dim=0)) / deviation
    ridge = features.T @ features / len(features) + 0.05 * torch.eye(features.shape[1], device=features.device)
    weight = torch.linalg.solve(ridge, features.T @ (wanted - wanted.mean()) / len(features))
    weight = weight * gain / ((features @ weight).std() * model.config.logit_scale).clamp_min(1e-12) / deviation
    regressor = model.keynet.regressor
    assert regressor.bias is not None
    regressor.weight[index, :, 0, 0] = weight
    regressor.bias[index] = -weight @ seen.mean(dim=(0, 2, 3))
