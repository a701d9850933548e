"""Surprise: a frame-by-frame stochastic predictor, and keyframes where it is taken by surprise (KeyIn section 9, Alg. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kpagent.subgoals.codecs import new_codec
from kpagent.subgoals.configuration import KeyInConfig
from kpagent.subgoals.keyframe_model import KeyframeModel
from kpagent.subgoals.networks import ProjectedLSTM, generator_of, split_gaussian, unit_kl


class SurprisePredictor(KeyframeModel):
    """The stochastic video generator with a fixed prior (SVG-FP, Denton and Fergus 2018), of KeyIn's networks.

    Of each frame it knows those before, and a latent whose posterior has seen the frame too.

    Args:
        config: of the KeyIn it is compared with; it uses the codec, sizes and lengths of sequences, and `segment_kl_scale`
            as β, the weight of the KL divergence in the loss.
        provenance: as of `KeyframeModel`.
    """

    kind: ClassVar[str] = "surprise"

    def __init__(self, config: KeyInConfig, provenance: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, provenance)
        self.codec = new_codec(config.codec)
        size, latent = config.codec.size, config.latent
        self.posterior = ProjectedLSTM(size, 2 * latent, config.units, config.layers)
        self.predictor = ProjectedLSTM(size + latent, size, config.units, config.layers)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Errors of each frame but the first, foretold from those before and from its latent.

        Args:
            batch: `frames`, (B, L, H, W, 3) uint8, or `codes`, (B, L, D); `seed`, of what is drawn.

        Returns:
            The loss, a mean over sequences, and its parts, summed over frames: `sequence`; `kl` in nats and unweighted.
        """
        device = self.device
        observed = self.codec.of_batch(batch, device)
        codes = self.codec.encode(observed)
        mean, std = self._beliefs(codes)
        draws = generator_of(batch["seed"], device)
        latent = mean + std * torch.randn(mean.shape, generator=draws, device=device)
        change, _ = self.predictor(torch.cat([codes[:, :-1], latent], dim=-1))
        made = self.codec.decode(self.codec.onward(codes[:, :-1], change))
        error = self.codec.error(made, observed[:, 1:]).sum(dim=1).mean()
        kl = unit_kl(mean, std).sum(dim=1).mean()
        return error + self.config.segment_kl_scale * kl, {"sequence": error.detach(), "kl": kl.detach()}

    @torch.no_grad()
    def surprise(self, sequences: Any) -> np.ndarray:
        """KL[q(z | frames up to t) ‖ p(z)] of each frame t but the first, in nats.

        Args:
            sequences: (B, L, H, W, 3) uint8, or codes (B, L, D).

        Returns:
            (B, L - 1) float32, of frames 1 to L - 1.
        """
        observed = self.codec.observe(sequences, self.device)
        return unit_kl(*self._beliefs(self.codec.encode(observed))).cpu().numpy()

    def discover(self, sequences: Any) -> list[np.ndarray]:
        """The M most surprising frames of each sequence, but for those that are given (Alg. 3).

        A keyframe is the frame *before* a surprising one: that a ball has turned is seen in the frame after the turn.

        Args:
            sequences: (B, L, H, W, 3) uint8, or codes (B, L, D).

        Returns:
            For each sequence, frame numbers from T to L - 2, rising.
        """
        given = self.config.given
        # Place i of the rest is the surprise of frame given + 1 + i, which makes frame given + i a keyframe.
        rest = self.surprise(sequences)[:, given:]
        return [given + surprise_peaks(row, self.config.keyframes) for row in rest]

    def _beliefs(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        return split_gaussian(self.posterior(codes)[0][:, 1:])


def surprise_peaks(surprise: np.ndarray, keyframes: int) -> np.ndarray:
    """The M peaks with the largest surprise; where there are fewer peaks, the largest of the others besides (Alg. 3).

    (The paper's condition for a peak compares the two neighbours in opposite ways, which no peak would meet.)

    Args:
        surprise: (L,) of each frame; the first and the last are no peaks.
        keyframes: M.

    Returns:
        (min(M, L),) places, rising.

    Raises:
        ValueError: not (L,).
    """
    if surprise.ndim != 1:
        raise ValueError(f"surprise must be (L,), not {surprise.shape}")
    peak = np.zeros(len(surprise), bool)
    peak[1:-1] = (surprise[1:-1] > surprise[2:]) & (surprise[1:-1] > surprise[:-2])
    # Peaks first, and the largest of each kind first.
    order = np.lexsort((-surprise, ~peak))
    return np.sort(order[:keyframes])
