"""The best way to cut a sequence into segments when the cost of each is known, by dynamic programming."""

from __future__ import annotations

import torch
from torch import Tensor


def best_offsets(costs: Tensor, keyframes: int, keyframe_cost: float = 0.0) -> Tensor:
    """The offsets of at most M segments from time 0 to time N whose costs have the least sum.

    Args:
        costs: (B, N, S), of the segment that starts at time n and is s + 1 long; infinite where it may not be.
        keyframes: M.
        keyframe_cost: of each segment besides.

    Returns:
        (B, M) int64 offsets, from 1; 0 behind the last segment, and everywhere if no way reaches N.

    Raises:
        ValueError: not (B, N, S).
    """
    if costs.ndim != 3:
        raise ValueError(f"costs must be (B, N, S), not {tuple(costs.shape)}")
    count, frames, longest = costs.shape
    ends = torch.arange(1, frames + 1, device=costs.device)[:, None]
    starts = ends - torch.arange(1, longest + 1, device=costs.device)  # (N, S)
    possible = starts >= 0
    lengths = torch.arange(longest, device=costs.device).expand(frames, longest)
    begun = starts.clamp_min(0)
    # Of the segments that end at time n, of each length.
    ending = torch.where(possible, costs[:, begun, lengths], torch.inf)
    sums = costs.new_full((count, frames + 1), torch.inf)
    sums[:, 0] = 0
    totals, choices = [], []
    for _ in range(keyframes):
        least, choice = (sums[:, begun] + ending).min(dim=-1)
        sums = torch.cat([costs.new_full((count, 1), torch.inf), least], dim=1)
        choices.append(choice)
        totals.append(least[:, -1])
    used = torch.arange(1, keyframes + 1, device=costs.device)
    total = torch.stack(totals, dim=1) + keyframe_cost * used
    number = total.argmin(dim=1) + 1
    number = torch.where(total.isfinite().any(dim=1), number, 0)
    offsets = torch.zeros(count, keyframes, dtype=torch.int64, device=costs.device)
    now = torch.full((count,), frames, device=costs.device)
    for k in range(keyframes, 0, -1):
        chosen = choices[k - 1].gather(1, (now - 1).clamp_min(0)[:, None])[:, 0] + 1
        offsets[:, k - 1] = torch.where(number >= k, chosen, 0)
        now = now - offsets[:, k - 1]
    return offsets
