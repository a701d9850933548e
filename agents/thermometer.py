"""The thermometer code of coordinates (Transporter section 3.2.1, after Buckman et al. 2018)."""

from __future__ import annotations

from torch import Tensor

from kpagent.keypoints import cell_centres


def thermometer(xy: Tensor, bins: int) -> Tensor:
    """Each coordinate as a column of mercury: full below it, empty above, partly filled in the cell that it lies in.

    The partly filled cell keeps what a code of zeros and ones would round away.

    Args:
        xy: (..., K, 2) in [-1, 1].
        bins: cells for each coordinate.

    Returns:
        (..., K, 2, bins) in [0, 1].

    Raises:
        ValueError: the last axis of `xy` is not 2.
    """
    if xy.shape[-1] != 2:
        raise ValueError(f"xy must be (..., K, 2), not {tuple(xy.shape)}")
    # In units of cells, a coordinate fills a cell from the cell's lower edge to its upper one.
    return ((xy.unsqueeze(-1) - cell_centres(bins, device=xy.device, dtype=xy.dtype)) * (bins / 2) + 0.5).clamp(0, 1)
