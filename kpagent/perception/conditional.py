"""Conditional image generation: keypoints that say where, features that say what (Jakab and Gupta et al. 2018).

The method that Transporter was published against, with Transporter's networks (Transporter section 4.1). The source frame
says what things look like, through Φ; the target frame says where they are, through the heatmaps of its K keypoints and
nothing else. RefineNet must paint the target from both, stacked. Nothing is moved: that an object's look belongs to a place
is left for RefineNet to learn.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from kpagent.frames import fold_patches
from kpagent.keypoints import gaussian_maps
from kpagent.perception.detector import DetectorConfig
from kpagent.perception.reconstructor import Reconstructor


@dataclass(frozen=True)
class ConditionalConfig(DetectorConfig):
    """The shape of a ConditionalGenerator. `paper` and `fast` are the presets, with the networks of Transporter's."""

    residual: bool = True
    """RefineNet only adds what is missing from the background, as in a residual Transporter."""

    @classmethod
    def paper(cls, num_keypoints: int, **changes: Any) -> Self:
        """Transporter Appendix A, which took "exactly the same architecture" for this method."""
        return super().paper(num_keypoints, **({"residual": False} | changes))

    def _checks(self) -> dict[str, bool]:
        return super()._checks() | {"residual must be true or false": isinstance(self.residual, bool)}


class ConditionalGenerator(Reconstructor):
    """The model: `loss` to train it, `encode` to use it.

    Gradients flow into Φ through the source frame, which is all that it sees here: without them it would stay as it was
    drawn. (In a Transporter Φ learns from the target frame, and the source is a constant.)

    Args:
        config: its shape.
        provenance: what its weights came from (environment, frames, steps, seed, versions, figures), as JSON values; it
            travels in the header of every file that `save` writes.
    """

    kind = "jakab"
    config_type = ConditionalConfig
    config: ConditionalConfig

    def __init__(self, config: ConditionalConfig, provenance: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, config.filters[-1] + config.num_keypoints, config.strides, config.residual, provenance)

    def reconstruct(self, source: Tensor, target: Tensor, *, without: Collection[int] = ()) -> tuple[Tensor, Tensor]:
        """The target painted from the source's features stacked with the target's heatmaps.

            x̂_t = RefineNet([Φ(x_s), H_t,1, ..., H_t,K])

        Args:
            source: (N, 3, size, size) in [0, 1].
            target: (N, 3, size, size) in [0, 1].
            without: keypoints whose heatmaps are zero.

        Returns:
            The reconstruction, (N, 3, size, size), and the target's keypoints, (N, K, 2).

        Raises:
            UsageError: these weights were saved for inference only.
        """
        self._require_refine()
        look = self.features(fold_patches(source, self.config.patch))
        xy = self._locate(fold_patches(target, self.config.patch))
        height, width = look.shape[-2:]
        maps = gaussian_maps(xy, height, width, self.config.heatmap_std)
        if without:
            kept = torch.ones(self.num_keypoints, 1, 1, device=maps.device)
            kept[list(without)] = 0
            maps = maps * kept
        return self._paint(torch.cat([look, maps.to(look.dtype)], dim=1)), xy

    def _selected(self, keypoints: list[int]) -> dict[str, Tensor]:
        state = super()._selected(keypoints)
        if not self.inference_only:
            dim = self.feature_dim
            inputs = [*range(dim), *(dim + k for k in keypoints)]
            name = next(name for name in state if name.startswith("refine.layers.0."))
            state[name] = state[name][:, inputs]
        return state
