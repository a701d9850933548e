"""Transporter: keypoints learned by moving features between two frames (Kulkarni et al. 2019, section 3.1).

Two encoders see a frame: Φ says what is at each place, Ψ says where the K keypoints are. Given a source and a target
frame, the features of the source are erased around the keypoints of both frames and those of the target are pasted in
around its own keypoints (Eq. 1). RefineNet must paint the target from the result. What moved between the two frames can
only arrive through a keypoint, so the keypoints learn to sit on what moves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from kpagent.frames import fold_patches, unfold_patches
from kpagent.keypoints import gaussian_maps
from kpagent.motion import follow_layers, global_shift
from kpagent.perception.detector import DetectorConfig
from kpagent.perception.reconstructor import Reconstructor


@dataclass(frozen=True)
class TransporterConfig(DetectorConfig):
    """The shape of a Transporter. `paper` and `fast` are the presets."""

    transport: Literal["features", "pixels"] = "features"
    """What Eq. 1 moves: features, or the pixels themselves (the ablation of Appendix D)."""
    residual: bool = True
    """Eq. 1 moves the pixels beside the features, over a background, and RefineNet only adds what that lacks. Covering what
    moves then pays from the first step; without, RefineNet first learns to paint a still image and keypoints park."""

    align: bool = False
    """In training, what slides in the source is first moved as the background moves between the two frames, so that it needs
    no keypoints. Keypoints are found in a single frame all the same."""

    @classmethod
    def paper(cls, num_keypoints: int, **changes: Any) -> Self:
        """Appendix A, at the 128×128 of Appendix B."""
        return super().paper(num_keypoints, **({"residual": False} | changes))

    def _checks(self) -> dict[str, bool]:
        return super()._checks() | {
            "transport must be features or pixels": self.transport in ("features", "pixels"),
            "residual must be true or false": isinstance(self.residual, bool),
            "align must be true or false": isinstance(self.align, bool),
        }


class Transporter(Reconstructor):
    """The model: `loss` to train it, `encode` to use it.

    Args:
        config: its shape.
        provenance: what its weights came from (environment, frames, steps, seed, versions, figures), as JSON values; it
            travels in the header of every file that `save` writes.
    """

    kind = "transporter"
    config_type = TransporterConfig
    config: TransporterConfig

    def __init__(self, config: TransporterConfig, provenance: Mapping[str, Any] | None = None) -> None:
        pixels = config.transport == "pixels"
        moved = 3 * config.patch**2 if pixels else config.filters[-1]
        # Pixels are moved at their own resolution, so RefineNet has nothing to upsample.
        strides = (1,) * len(config.strides) if pixels else config.strides
        super().__init__(config, moved, strides, config.residual, provenance)

    def reconstruct(self, source: Tensor, target: Tensor, *, without: Collection[int] = ()) -> tuple[Tensor, Tensor]:
        """The target painted from the source frame and what the target's keypoints bring (Eq. 1 and RefineNet).

        Args:
            source: (N, 3, size, size) in [0, 1]; no gradient flows through it.
            target: (N, 3, size, size) in [0, 1].
            without: keypoints that neither erase nor bring anything.

        Returns:
            The reconstruction, (N, 3, size, size), and the target's keypoints, (N, K, 2).

        Raises:
            UsageError: these weights were saved for inference only.
        """
        refine = self._require_refine()
        source = source.detach()
        if self.config.align:
            source = follow_layers(source, target, global_shift(source, target))
        source_cells, target_cells = fold_patches(source, self.config.patch), fold_patches(target, self.config.patch)
        pixels = self.config.transport == "pixels"
        with torch.no_grad():
            source_xy = self._locate(source_cells)
            source_moved = source_cells if pixels else self.features(source_cells)
        target_xy = self._locate(target_cells)
        target_moved = target_cells if pixels else self.features(target_cells)
        used = [k for k in range(self.num_keypoints) if k not in without]
        carriers = (source_xy[:, used], target_xy[:, used])
        painted: Tensor = refine(self._transport(source_moved, target_moved, *carriers))
        if self.residual:
            assert self.background is not None
            behind = fold_patches(self.background[None], self.config.patch)
            painted = painted + self._transport(source_cells, target_cells, *carriers, behind)
        return unfold_patches(painted, self.config.patch), target_xy

    def _transport(
        self, source: Tensor, target: Tensor, source_xy: Tensor, target_xy: Tensor, behind: Tensor | None = None
    ) -> Tensor:
        maps = (*source.shape[-2:], self.config.heatmap_std)
        return transport(source, target, gaussian_maps(source_xy, *maps), gaussian_maps(target_xy, *maps), behind)


def transport(
    source: Tensor, target: Tensor, source_maps: Tensor, target_maps: Tensor, behind: Tensor | None = None
) -> Tensor:
    """Move the target's features into the source's at the keypoints (Transporter Eq. 1), keypoint by keypoint.

    First every keypoint of the source erases what is under it; then the target's features are laid over the rest,
    one keypoint after the other, with the heatmap for opacity:

        Φ̂ = Πₖ (1 - H_s,k) Φ(x_s);   then for each k:   Φ̂ ← (1 - H_t,k) Φ̂ + H_t,k Φ(x_t)

    which comes to Eq. 1 with H = 1 - Πₖ (1 - Hₖ) for both frames. That H never exceeds 1, however many keypoints meet in
    one place, where a sum of heatmaps does; and the order of the keypoints does not matter.

    Args:
        source: (N, D, H, W).
        target: (N, D, H, W).
        source_maps: (N, K, H, W) in [0, 1].
        target_maps: (N, K, H, W) in [0, 1].
        behind: what appears where the source is erased, of the shape of `source` or one that broadcasts to it; zeros, as
            in Eq. 1, by default.

    Returns:
        (N, D, H, W).
    """
    keep_source = (1 - source_maps).prod(dim=-3, keepdim=True)
    keep_target = (1 - target_maps).prod(dim=-3, keepdim=True)
    erased = keep_source * source
    if behind is not None:
        erased = erased + (1 - keep_source) * behind
    return keep_target * erased + (1 - keep_target) * target
