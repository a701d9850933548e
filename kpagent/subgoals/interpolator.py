"""LSTMinter: the frames between two keyframes; learned on random segments as a sequence VAE (KeyIn sections 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kpagent.subgoals.codecs import new_codec
from kpagent.subgoals.configuration import KeyInConfig
from kpagent.subgoals.networks import ProjectedLSTM, State, generator_of, split_gaussian, unit_kl
from kpagent.subgoals.segmentation import best_offsets

FEW = 100
"""Starts of segments up to which those of all lengths are made at once, the short ones to the length of the longest: with so
few, a call takes longer than what it computes."""


class Interpolator(nn.Module):
    """The first stage: what stands for a frame, and how frames go from one keyframe to the next.

    Args:
        config: of the whole model.

    Attributes:
        codec: between frames and codes; it learns here, and stays as it is in the second stage.
    """

    def __init__(self, config: KeyInConfig) -> None:
        super().__init__()
        self.config = config
        self.codec = new_codec(config.codec)
        size, latent = config.codec.size, config.segment_latent
        about = 2 * size + config.longest + latent
        self.start = nn.Sequential(
            nn.Linear(about, config.start_units), nn.ReLU(), nn.Linear(config.start_units, 2 * config.layers * config.units)
        )
        self.inter = ProjectedLSTM(about, size, config.units, config.layers)
        self.posterior = ProjectedLSTM(size, 2 * latent, config.units, config.layers)

    def forward(self, first: Tensor, last: Tensor, offsets: Tensor, latent: Tensor, steps: int | None = None) -> Tensor:
        """Codes of the frames after `first`, of which the one at the offset is `last` again.

        Args:
            first: (B, D), κ̂ᵗ⁻¹.
            last: (B, D), κ̂ᵗ.
            offsets: (B, S), the distribution of the offset.
            latent: (B, Z).
            steps: how many frames; S without.

        Returns:
            (B, steps, D), float32.
        """
        about = torch.cat([first, last, offsets, latent], dim=-1)
        steps = self.config.longest if steps is None else steps
        change, _ = self.inter(about.unsqueeze(1).expand(-1, steps, -1), self._first_state(about))
        return self.codec.between(first, last, offsets, change)

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Errors of segments of the sequences with the KL divergence of their latent (section 3.2).

        One segment of each sequence at random: its offset is drawn from `shortest_segment` to `longest_segment`, and where
        it starts from all places. While it chooses, as `choosing` says, there are besides all segments of the best way to
        cut each of the first `guided` sequences.

        Args:
            batch: `frames`, (B, L, H, W, 3) uint8, or `codes`, (B, L, D), with L above `longest_segment`; `seed`, of what is
                drawn; `progress`, how much of the training is done, from 0 to 1; 0 without.

        Returns:
            The loss, a mean over segments, and its parts: `segment`, summed over frames; `boundary`, the error of the two
            keyframes when they are decoded straight from their codes; `segment_kl`, in nats and unweighted.

        Raises:
            ValueError: the sequences are too short.
        """
        config = self.config
        device = next(self.parameters()).device
        whole = batch[self.codec.name] if self.codec.name in batch else self.codec.of_batch(batch, device)
        count, length = int(whole.shape[0]), int(whole.shape[1])
        most = config.longest_segment
        if length <= most:
            raise ValueError(f"segments of up to {most} frames need sequences of {most + 1} frames or more, not {length}")
        draws = generator_of(batch["seed"], device)
        offset = torch.randint(config.shortest_segment, most + 1, (count,), generator=draws, device=device)
        start = (torch.rand(count, generator=draws, device=device) * (length - offset)).long()
        of = torch.arange(count, device=device)
        if float(batch.get("progress", 0.0)) > 1 - config.choosing:
            of, start, offset = self._and_chosen(whole[: config.guided], of, start, offset)
        rows = (start[:, None] + torch.arange(most + 1, device=device)).clamp_max(length - 1).cpu().numpy()
        observed = self.codec.observe(whole[of.cpu().numpy()[:, None], rows], device)
        codes = self.codec.encode(observed)
        every = torch.arange(len(of), device=device)
        first, last = codes[:, 0], codes[every, offset]
        mean, std = split_gaussian(self.posterior(codes)[0][every, offset])
        latent = mean + std * torch.randn(mean.shape, generator=draws, device=device)
        if config.keyframe_noise:
            noise = config.keyframe_noise * torch.randn(2, *first.shape, generator=draws, device=device)
            first, last = first + noise[0], last + noise[1]
        made = self(first, last, F.one_hot(offset - 1, config.longest).float(), latent, most)
        within = torch.arange(1, most + 1, device=device) <= offset[:, None]
        error = self.codec.error(self.codec.decode(made), observed[:, 1:])
        segment = torch.where(within, error, 0).sum(dim=1).mean()
        kl = unit_kl(mean, std).mean()
        loss = segment + config.segment_kl_scale * kl
        metrics = {"segment": segment.detach(), "segment_kl": kl.detach()}
        if config.codec.kind == "frames":
            ends = torch.stack([observed[:, 0], observed[every, offset]], dim=1)
            boundary = self.codec.error(self.codec.decode(torch.stack([first, last], dim=1)), ends).sum(dim=1).mean()
            loss, metrics["boundary"] = loss + boundary, boundary.detach()
        return loss, metrics

    @torch.no_grad()
    def _and_chosen(self, whole: Any, of: Tensor, start: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Segments, and those of the best ways to cut sequences: which sequence's each is, its start and its offset."""
        observed = self.codec.observe(whole, of.device)
        best = self.best_offsets(self.codec.encode(observed), observed)
        starts = best.cumsum(dim=1) - best + self.config.given - 1
        sequence, number = best.nonzero(as_tuple=True)
        return (
            torch.cat([of, sequence]),
            torch.cat([start, starts[sequence, number]]),
            torch.cat([offset, best[sequence, number]]),
        )

    @torch.no_grad()
    def best_offsets(self, codes: Tensor, observed: Tensor) -> Tensor:
        """The offsets by which sequences are made best, from the last frame that is given.

        Args:
            codes: (B, T + N, D).
            observed: (B, T + N, ...), what the codec observes of them.

        Returns:
            (B, M), as of `segmentation.best_offsets`, with the weight and the cost of a keyframe that the loss has.
        """
        after = slice(self.config.given - 1, None)
        costs = self.config.sequence_scale * self.costs(codes[:, after], observed[:, after])
        return best_offsets(costs, self.config.keyframes, self.config.keyframe_cost)

    @torch.no_grad()
    def costs(self, codes: Tensor, observed: Tensor) -> Tensor:
        """The error of every segment that sequences have, between true frames.

        Args:
            codes: (B, N + 1, D), of the frames at times 0 to N.
            observed: (B, N + 1, ...), what the codec observes of them.

        Returns:
            (B, N, S), summed over frames: of the segment that starts at time n and is s + 1 long. Infinite where it would go
            beyond N, or is not of a length on which the interpolator has learned.
        """
        config = self.config
        count, frames = len(codes), codes.shape[1] - 1
        costs = codes.new_full((count, frames, config.longest), torch.inf)
        lengths = range(config.shortest_segment, min(config.longest_segment, frames) + 1)
        for group in filter(len, [lengths] if count * frames <= FEW else [[length] for length in lengths]):
            places = [(start, length) for length in group for start in range(frames - length + 1)]
            start, length = torch.tensor(places, dtype=torch.int64, device=codes.device).reshape(-1, 2).unbind(1)
            first, last = codes[:, start].flatten(0, 1), codes[:, start + length].flatten(0, 1)
            offsets = F.one_hot(length - 1, config.longest).float().repeat(count, 1)
            latent = codes.new_zeros(len(first), config.segment_latent)
            steps = torch.arange(1, max(group) + 1, device=codes.device)
            made = self.codec.decode(self(first, last, offsets, latent, len(steps)))
            seen = observed[:, (start[:, None] + steps).clamp_max(frames)].flatten(0, 1)
            error = self.codec.error(made, seen).unflatten(0, (count, len(start)))
            costs[:, start, length - 1] = torch.where(steps <= length[:, None], error, 0).sum(dim=-1)
        return costs

    def _first_state(self, about: Tensor) -> State:
        parts = self.start(about).float().unflatten(-1, (2, self.config.layers, -1)).permute(1, 2, 0, 3).contiguous()
        return parts[0].tanh(), parts[1]
