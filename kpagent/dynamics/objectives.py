"""What Struct-VRNN minimises, as pure functions (Struct-VRNN Eq. 5 to 8)."""

from __future__ import annotations

import torch
from torch import Tensor


def separation_loss(xy: Tensor, std: float) -> Tensor:
    """How much keypoints move alike: Σ exp(-d / 2σ²) over pairs of different keypoints, divided by K (K - 1) (Eq. 5).

    d is the squared distance between two trajectories, each about its own mean, averaged over time. The paper's sum runs
    over equal keypoints too, which adds a constant.

    Args:
        xy: (B, T, K, 2) coordinates.
        std: σ_sep, in coordinate units.

    Returns:
        (B,) in [0, 1]; zero where there is one keypoint.
    """
    if xy.ndim != 4 or xy.shape[-1] != 2:
        raise ValueError(f"xy must be (B, T, K, 2), not {tuple(xy.shape)}")
    count = xy.shape[2]
    if count == 1:
        return xy.new_zeros(len(xy))
    paths = (xy - xy.mean(dim=1, keepdim=True)).transpose(1, 2).flatten(2)  # (B, K, 2T)
    # The squares of differences, not a product of matrices, which would lose the small ones.
    distance = (paths.unsqueeze(1) - paths.unsqueeze(2)).square().sum(dim=-1) / xy.shape[1]
    alike = torch.exp(-distance / (2 * std**2))
    others = ~torch.eye(count, dtype=torch.bool, device=xy.device)
    return alike[:, others].sum(dim=-1) / (count * (count - 1))


def sparsity_loss(scale: Tensor) -> Tensor:
    """Σ_k |μ_k|, which makes keypoints that are not needed go out (section 4.1): (..., K) to (...)."""
    return scale.abs().sum(dim=-1)


def gaussian_kl(mean: Tensor, std: Tensor, prior_mean: Tensor, prior_std: Tensor) -> Tensor:
    """KL(N(mean, std²) ‖ N(prior_mean, prior_std²)) of independent Gaussians, summed over the last axis (Eq. 6), in nats."""
    ratio = std / prior_std
    away = (mean - prior_mean) / prior_std
    return 0.5 * (ratio.square() + away.square() - 1 - 2 * ratio.log()).sum(dim=-1)


def code_error(decoded: Tensor, code: Tensor) -> Tensor:
    """-log p(x | z, h) of a Gaussian with unit variance, without its constant: ½ Σ (x̂ - x)² over the last axis."""
    return 0.5 * (decoded - code).square().sum(dim=-1)


def best_sample(decoded: Tensor, code: Tensor) -> Tensor:
    """Which of many samples lies nearest to what came, for each sequence (Eq. 8).

    Args:
        decoded: (B, S, D).
        code: (B, D).

    Returns:
        (B,) indices from 0 to S - 1.
    """
    if decoded.ndim != 3 or code.shape != (decoded.shape[0], decoded.shape[2]):
        raise ValueError(f"decoded (B, S, D) and code (B, D) do not fit: {tuple(decoded.shape)}, {tuple(code.shape)}")
    return code_error(decoded, code.unsqueeze(1)).argmin(dim=1)
