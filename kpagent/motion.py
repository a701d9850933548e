"""How a picture as a whole moves between two frames, and how to move it: translations that wrap round at the edges.

Shifts are (x, y) in pixels of the images, x to the right and y down, and tell where the content goes: what `source` shows at
column c, `target` shows at column c + x.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_BANDWIDTHS = (0.2, 0.05)
"""Standard deviations, in cycles a pixel, of the weights of frequencies. The first left the smallest errors of 0.1 to 0.4 on
Pong over a sliding texture at 84x84; the second is for layers so smooth that sharp, small parts own higher frequencies."""

_PEAKS = 2
"""Candidates from each bandwidth: what moves, and what stands still."""

_NEIGHBOURHOOD = 2
"""Pixels on each side over which a peak must be the highest."""


def global_shift(source: Tensor, target: Tensor) -> Tensor:
    """The translation of the layer that fills most of the picture, by phase correlation (Kuglin and Hines 1975).

    Every frequency has the same say, whatever its power, up to a Gaussian weight that holds back the highest. The highest
    peaks, refined below a pixel by the Gaussian through each and its neighbours, are candidates; the one that leaves the
    least mean square root of absolute differences is the answer, so a layer counts by its area, not by its contrast, and
    parts that do not follow hardly count. No shift at all is a candidate too, and wins a tie. A layer that wraps round at
    the edges of the images is the ideal case; of one that does not, the part that both images show must outweigh the rest.

    Args:
        source: (N, C, H, W), floats, N at least 1.
        target: the same shape.

    Returns:
        (N, 2) float32 shifts (x, y) in pixels, x in [-W / 2, W / 2] and y in [-H / 2, H / 2]; zeros between uniform images.
        No gradient passes.

    Raises:
        ValueError: the shapes differ, or are not (N, C, H, W).
    """
    if source.ndim != 4 or source.shape != target.shape or 0 in source.shape:
        raise ValueError(f"images must be (N, C, H, W), both alike, not {tuple(source.shape)} and {tuple(target.shape)}")
    with torch.no_grad(), torch.autocast(source.device.type, enabled=False):
        source, target = source.float(), target.float()
        candidates = _candidates(source, target)
        left = [(target - shift_images(source, shift)).abs().sqrt().mean(dim=(1, 2, 3)) for shift in candidates]
        best = torch.stack(left).argmin(dim=0)
        return candidates[best, torch.arange(len(best), device=best.device)]


def shift_images(images: Tensor, shift: Tensor) -> Tensor:
    """Images moved by a translation of their own each; what leaves at one edge comes in at the other.

    Between pixels the values are interpolated linearly. On the background of Pong over a sliding texture at 84x84, one
    interaction apart, that leaves half the error of shifts rounded to whole pixels, and it makes no ripples round sharp
    objects, as a shift of the Fourier phases does.

    Args:
        images: (N, C, H, W), floats.
        shift: (N, 2), (x, y) in pixels, any real numbers.

    Returns:
        (N, C, H, W) in the dtype of `images`, differentiable in both arguments.

    Raises:
        ValueError: of other shapes.
    """
    if images.ndim != 4 or shift.shape != (len(images), 2):
        raise ValueError(f"images must be (N, C, H, W) and shift (N, 2), not {tuple(images.shape)} and {tuple(shift.shape)}")
    return _shift_last_axis(_shift_last_axis(images, shift[:, 0]).mT, shift[:, 1]).mT


def follow_layers(source: Tensor, target: Tensor, shift: Tensor, *, window: int = 5) -> Tensor:
    """The source as far as two layers explain the target: one that stands still, and one that has moved by the shift.

    Around each pixel the layer that is nearer to the target there is taken. What moves on its own is in neither, and stays
    wrong: borders and displays that stand before a sliding background do not.

    Args:
        source: (N, C, H, W), floats.
        target: the same shape.
        shift: (N, 2), (x, y) in pixels, as of `global_shift`.
        window: odd side in pixels of the neighbourhood that is compared.

    Returns:
        (N, C, H, W); no gradient passes to `target`.
    """
    moved = shift_images(source, shift)
    with torch.no_grad():
        wrong = [(target - layer).abs().mean(dim=1, keepdim=True) for layer in (source, moved)]
        still, sliding = (functional.avg_pool2d(error, window, 1, window // 2) for error in wrong)
    return torch.where(still <= sliding, source, moved)


def _shift_last_axis(images: Tensor, shift: Tensor) -> Tensor:
    size = images.shape[-1]
    whole = shift.detach().floor()
    fraction = (shift - whole).to(images.dtype)[:, None, None, None]
    from_here = (torch.arange(size, device=images.device) - whole.long()[:, None]) % size
    from_before = (from_here - 1) % size
    here, before = (images.gather(-1, index[:, None, None, :].expand(images.shape)) for index in (from_here, from_before))
    return (1 - fraction) * here + fraction * before


def _candidates(source: Tensor, target: Tensor) -> Tensor:
    """(candidates, N, 2) shifts: none at all, then the highest peaks of the phase correlation."""
    height, width = source.shape[-2:]
    before, after = torch.fft.rfft2(source), torch.fft.rfft2(target)
    cross = after * before.conj()
    power = cross.abs()
    # What rounding leaves of an empty frequency has a phase, but means nothing; and the mean of an image does not move.
    rounding = 1e-12 * (before.abs().square().sum((1, 2, 3)) * after.abs().square().sum((1, 2, 3))).sqrt()
    phase = torch.where(power > rounding[:, None, None, None], cross / power, torch.zeros_like(cross)).sum(dim=1)
    phase[:, 0, 0] = 0
    rows = torch.fft.fftfreq(height, device=source.device)[:, None]
    columns = torch.fft.rfftfreq(width, device=source.device)
    sample = torch.arange(len(source), device=source.device)[:, None]
    found = [torch.zeros(len(source), 1, 2, device=source.device)]
    for bandwidth in _BANDWIDTHS:
        weight = torch.exp(-(rows**2 + columns**2) / (2 * bandwidth**2))
        correlation = torch.fft.irfft2(phase * weight, s=(height, width))
        peak = _highest_peaks(correlation)
        y, x = peak // width, peak % width
        x_fraction = _gaussian_peak(*(correlation[sample, y, (x + step) % width] for step in (-1, 0, 1)))
        y_fraction = _gaussian_peak(*(correlation[sample, (y + step) % height, x] for step in (-1, 0, 1)))
        found.append(torch.stack([_signed(x + x_fraction, width), _signed(y + y_fraction, height)], dim=-1))
    return torch.cat(found, dim=1).transpose(0, 1)


def _highest_peaks(correlation: Tensor) -> Tensor:
    """(N, peaks) places in the flattened (N, H, W) map that no neighbour, round the edges, rises above."""
    reach = min(_NEIGHBOURHOOD, *correlation.shape[-2:])
    padded = functional.pad(correlation[:, None], (reach,) * 4, mode="circular")
    highest = functional.max_pool2d(padded, 2 * reach + 1, stride=1)[:, 0]
    peaks = torch.where(correlation >= highest, correlation, -torch.inf).flatten(1)
    return peaks.topk(min(_PEAKS, peaks.shape[1]), dim=1).indices


def _gaussian_peak(before: Tensor, at: Tensor, after: Tensor) -> Tensor:
    """Where between -0.5 and 0.5 the Gaussian through three values at -1, 0 and 1 has its highest point."""
    smallest = at.clamp_min(1e-12) * 1e-3
    before, at, after = (torch.maximum(value, smallest).log() for value in (before, at, after))
    curvature = 2 * at - before - after
    return torch.where(curvature > 0, (after - before) / (2 * curvature.clamp_min(1e-12)), 0.0).clamp(-0.5, 0.5)


def _signed(position: Tensor, size: int) -> Tensor:
    return (position + size / 2) % size - size / 2
