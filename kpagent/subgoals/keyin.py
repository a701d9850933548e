"""KeyIn: the few frames of a sequence that explain the others, learned from sequences alone (Pertsch et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kpagent.dynamics.objectives import gaussian_kl
from kpagent.errors import UsageError
from kpagent.subgoals import soft_time
from kpagent.subgoals.codecs import FrameCodec
from kpagent.subgoals.configuration import KeyInConfig
from kpagent.subgoals.interpolator import Interpolator
from kpagent.subgoals.keyframe_model import KeyframeModel
from kpagent.subgoals.keyframe_predictor import KeyframePredictor
from kpagent.subgoals.networks import generator_of
from kpagent.subgoals.perceived import Perception, coordinates

CHUNK = 256
"""Sequences at a time, where no gradient is wanted."""
SEARCHED = 32
"""Sequences at a time, where all of their segments are made."""


@dataclass(frozen=True)
class Keyframes:
    """Keyframes of sequences, found or sampled; the leading axes are those of the sequences, and of samples.

    Attributes:
        first: (..., D), the code of the last frame that was given, which is the first keyframe.
        codes: (..., M, D).
        offsets: (..., M, S), the distribution of each one's offset from the one before.
        times: (..., M) int64, the number of each keyframe's frame in the sequence, from 0, if every offset is its most
            probable one; beyond the sequence where that goes on after its end.
        probabilities: (..., M), c, how probable it is that a keyframe lies inside the sequence.
        length: frames of a sequence, given ones among them.
    """

    first: Tensor
    codes: Tensor
    offsets: Tensor
    times: Tensor
    probabilities: Tensor
    length: int

    def inside(self) -> list[np.ndarray]:
        """The times within each sequence, rising; sequences and samples in one list."""
        return [row[row < self.length] for row in self.times.flatten(0, -2).cpu().numpy()]


class KeyIn(KeyframeModel):
    """The model: `loss` to train it, `discover`, `sample`, `interpolate` and `render` to use it.

    Training has two stages (section 3.2): `interpolator.loss` alone; then `loss`, while the interpolator and its codec keep
    their parameters. `kpagent.subgoals.learning` does both.

    Args:
        config: its shape.
        provenance: what its weights came from, as JSON values; it travels in the header of every file that `save` writes.

    Attributes:
        interpolator: frames and codes, and the frames between keyframes.
        predictor: the keyframes.
    """

    kind: ClassVar[str] = "keyin"

    def __init__(self, config: KeyInConfig, provenance: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, provenance)
        self.interpolator = Interpolator(config)
        self.predictor = KeyframePredictor(config)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def on(cls, perception: Perception, **times: Any) -> KeyIn:
        """A model of the keyframes of another model's keypoints, such as a Transporter's, which stay as they are.

        It learns from their coordinates (`keypoint_codes`), and finds keyframes in frames.

        Args:
            perception: a trained model.
            times: as of `KeyInConfig.keypoints`.
        """
        return cls(KeyInConfig.keypoints(2 * perception.num_keypoints, **times)).attach(perception)

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The full loss of sequences (Eq. 3 to 5, Alg. 2).

        Args:
            batch: `frames`, (B, T + N, H, W, 3) uint8, or `codes`, (B, T + N, D); `seed`, of what is drawn;
                `progress`, how much of the training is done, from 0 to 1, for a guide; 1 without; `cuts`, (G, M), the best
                offsets of the sequences that are guided, which are searched for without.

        Returns:
            The loss, a mean over sequences, and `code`, `image` and `kl`, means over the keyframes that are expected, and
            `sequence`, summed over frames, all unweighted; `keyframes`, how many are expected; `unsure`, the mean entropy of
            an offset, in nats.

        Raises:
            ValueError: the sequences are not of T + N frames.
        """
        config, codec = self.config, self.interpolator.codec
        observed = codec.of_batch(batch, self.device)
        if observed.shape[1] != config.length:
            raise ValueError(f"sequences must be of {config.given} + {config.frames} frames, not {observed.shape[1]}")
        draws = generator_of(batch["seed"], self.device)
        codes = codec.encode(observed)
        given, future = codes.split([config.given, config.frames], dim=1)
        noise = torch.randn(len(codes), config.keyframes, config.latent, generator=draws, device=self.device)
        guided = slice(config.guided if float(batch.get("progress", 1.0)) < config.guide_share else 0)
        best: Tensor | None = None
        if guided.stop:
            best = batch["cuts"] if "cuts" in batch else self.interpolator.best_offsets(codes[guided], observed[guided])
        found = self.predictor(codec, given, noise, future, best)
        assert found.mean is not None
        assert found.std is not None
        segment_noise = torch.randn(len(codes), config.keyframes, config.segment_latent, generator=draws, device=self.device)
        made = codec.decode(self._between(given[:, -1], found.codes, found.offsets, segment_noise))
        with torch.autocast(self.device.type, enabled=False):
            times = soft_time.keyframe_times(found.offsets, config.frames)
            inside = soft_time.inside(times)
            expected = inside.sum(dim=1)

            def keyframe_mean(errors: Tensor) -> Tensor:
                return ((inside * errors).sum(dim=1) / expected.clamp_min(soft_time.SMALLEST)).mean()

            after = observed[:, config.given :]
            # Else an encoder that still learns would make all codes alike.
            target = soft_time.soft_targets(times, future.detach())
            parts = {
                "code": keyframe_mean((found.codes - target).square().sum(dim=-1)),
                "kl": keyframe_mean(gaussian_kl(found.mean, found.std, found.prior_mean, found.prior_std)),
                "sequence": self._sequence_error(found.offsets, made, after),
            }
            if config.image_scale:
                images = soft_time.soft_targets(times, after.flatten(2)).unflatten(-1, after.shape[2:])
                parts["image"] = keyframe_mean(codec.error(codec.decode(found.codes), images))
            scales = {"code": config.code_scale, "kl": config.kl_scale, "image": config.image_scale}
            scales["sequence"] = config.sequence_scale
            loss = torch.stack([scales[name] * value for name, value in parts.items()]).sum()
            if best is not None:
                parts["guide"] = _surprise(found.offsets[: len(best)], best)
                loss = loss + config.guide_scale * parts["guide"]
            if config.keyframe_cost:
                loss = loss + config.keyframe_cost * expected.mean()
            metrics = {name: value.detach() for name, value in parts.items()} | {"keyframes": expected.detach().mean()}
            metrics["unsure"] = torch.special.entr(found.offsets.detach()).sum(dim=-1).mean()
        return loss, metrics

    def _sequence_error(self, offsets: Tensor, made: Tensor, after: Tensor) -> Tensor:
        weights = soft_time.frame_weights(offsets, self.config.frames)
        return self.interpolator.codec.error(soft_time.soft_frames(weights, made), after).sum(dim=1).mean()

    def _between(self, first: Tensor, codes: Tensor, offsets: Tensor, latent: Tensor) -> Tensor:
        """Codes (B, M, S, D) of the frames of all segments, made in one batch."""
        starts = torch.cat([first.unsqueeze(1), codes[:, :-1]], dim=1)
        count = codes.shape[:2]
        parts = (part.flatten(0, 1) for part in (starts, codes, offsets, latent))
        between: Tensor = self.interpolator(*parts)
        return between.unflatten(0, count)

    # Use

    @torch.no_grad()
    def discover(self, sequences: Any) -> Keyframes:
        """Find the keyframes of sequences, by the mean of the posterior.

        Args:
            sequences: (B, L, H, W, 3) uint8, or codes (B, L, D), with L above T; the model has learned on T + N frames.

        Raises:
            ValueError: of another shape, or no frame after those that are given.
        """
        if sequences.ndim < 2 or sequences.shape[1] <= self.config.given:
            shape = tuple(sequences.shape)
            raise ValueError(f"sequences must have more than the {self.config.given} frames that are given, not {shape}")
        codes = self.encode(sequences)
        given, future = codes[:, : self.config.given], codes[:, self.config.given :]
        noise = codes.new_zeros(len(codes), self.config.keyframes, self.config.latent)
        found = [
            self.predictor(self.interpolator.codec, *part)
            for part in zip(given.split(CHUNK), noise.split(CHUNK), future.split(CHUNK), strict=True)
        ]
        return self._keyframes(
            given[:, -1],
            torch.cat([part.codes for part in found]),
            torch.cat([part.offsets for part in found]),
            codes.shape[1],
        )

    @torch.no_grad()
    def search(self, sequences: Any) -> Keyframes:
        """Find the keyframes between which the interpolator makes sequences best, by dynamic programming over all of them.

        What `discover` infers, found exactly: the true frames whose interpolation has the least error, with the weight and
        the cost of a keyframe that the loss has. It takes the interpolator alone, N × S segments of each sequence.

        Args:
            sequences: (B, T + N, H, W, 3) uint8, or codes (B, T + N, D); every segment is as long as those that the
                interpolator has learned on.

        Returns:
            With offsets that are sure. A sequence that needs fewer keyframes has the others beyond its end.

        Raises:
            ValueError: not T + N frames.
        """
        config, codec = self.config, self.interpolator.codec
        if sequences.ndim < 2 or sequences.shape[1] != config.length:
            raise ValueError(f"sequences must be of {config.length} frames, not {tuple(sequences.shape)}")
        codes, offsets = self.encode(sequences), []
        for start in range(0, len(codes), SEARCHED):
            some = slice(start, start + SEARCHED)
            observed = codes[some] if config.codec.kind == "codes" else codec.observe(sequences[some], self.device)
            offsets.append(self.interpolator.best_offsets(codes[some], observed))
        best = torch.cat(offsets)
        # Of those that are not needed, so far beyond the end that they can be nowhere else.
        sure = F.one_hot(torch.where(best > 0, best, config.longest) - 1, config.longest).to(codes.dtype)
        place = (best.cumsum(dim=1) + config.given - 1).clamp_max(config.length - 1)
        keyframes = codes.gather(1, place.unsqueeze(-1).expand(-1, -1, codes.shape[-1]))
        return self._keyframes(codes[:, config.given - 1], keyframes, sure, config.length)

    @torch.no_grad()
    def sample(self, given: Any, samples: int = 1, *, seed: Any = 0) -> Keyframes:
        """Sample ways to go on, by the prior.

        Args:
            given: (B, T, H, W, 3) uint8, or codes (B, T, D).
            samples: of each.
            seed: of the latents.

        Returns:
            With leading axes (B, samples); the sequence is of T + N frames.

        Raises:
            ValueError: not T frames.
        """
        shape = (len(given), samples, self.config.keyframes, self.config.latent)
        noise = torch.randn(shape, generator=generator_of(seed, self.device), device=self.device)
        return self.predict(given, noise)

    @torch.no_grad()
    def predict(self, given: Any, latents: Tensor) -> Keyframes:
        """Keyframes from latents, which a planner may choose.

        Args:
            given: as of `sample`.
            latents: (B, samples, M, Z), of a unit Gaussian; a learned prior shifts and scales them.

        Returns:
            As of `sample`.

        Raises:
            ValueError: not T frames.
        """
        if given.ndim < 2 or given.shape[1] != self.config.given:
            raise ValueError(f"{self.config.given} frames must be given, not {tuple(given.shape)}")
        count, samples = latents.shape[:2]
        codes = self.encode(given).repeat_interleave(samples, dim=0)
        found = self.predictor(self.interpolator.codec, codes, latents.to(self.device).flatten(0, 1))
        first, keyframes, offsets = (
            part.unflatten(0, (count, samples)) for part in (codes[:, -1], found.codes, found.offsets)
        )
        return self._keyframes(first, keyframes, offsets, self.config.length)

    @torch.no_grad()
    def interpolate(self, keyframes: Keyframes, *, seed: Any = None) -> Tensor:
        """Codes of all frames after those that were given, between keyframes at their most probable times (section 3.1).

        Args:
            keyframes: as of `discover` or `sample`.
            seed: of the latents of segments; their mean is taken without.

        Returns:
            (..., L - T, D). Beyond the last keyframe, its segment goes on for as long as it can, and its last frame is kept.
        """
        leading = keyframes.codes.shape[:-2]
        first, codes = keyframes.first.reshape(-1, self.config.codec.size), keyframes.codes.flatten(0, -3)
        sure = F.one_hot(keyframes.offsets.flatten(0, -3).argmax(dim=-1), self.config.longest).to(codes.dtype)
        latent = codes.new_zeros(*codes.shape[:2], self.config.segment_latent)
        if seed is not None:
            latent = torch.randn(latent.shape, generator=generator_of(seed, self.device), device=self.device)
        frames = keyframes.length - self.config.given
        segment, place = soft_time.hard_frames(soft_time.hard_times(sure), frames)
        between = self._between(first, codes, sure, latent).flatten(1, 2)
        row = segment * self.config.longest + place.clamp_max(self.config.longest - 1)
        return between.gather(1, row.unsqueeze(-1).expand(-1, -1, codes.shape[-1])).unflatten(0, leading)

    @torch.no_grad()
    def encode(self, sequences: Any) -> Tensor:
        """Codes (B, L, D) of sequences (B, L, H, W, 3) uint8; codes as they are.

        A model of codes takes frames where it has its perception model with it.

        Raises:
            TypeError: frames that are not uint8.
            ValueError: of another shape.
        """
        perception, codec = self.perception, self.interpolator.codec
        if perception is not None and sequences.ndim == 5:
            codes = coordinates(perception, sequences.reshape(-1, *sequences.shape[2:]))
            return codes.unflatten(0, tuple(sequences.shape[:2]))
        parts = [codec.encode(codec.observe(part, self.device)) for part in _split(sequences, CHUNK)]
        return torch.cat(parts)

    @torch.no_grad()
    def render(self, codes: Tensor) -> np.ndarray:
        """Frames (..., S, S, 3) uint8 of codes (..., D).

        Raises:
            UsageError: the model has learned from codes, and knows no frames.
        """
        codec = self.interpolator.codec
        if not isinstance(codec, FrameCodec):
            raise UsageError("this model has learned from codes: it cannot paint frames")
        flat = codes.to(self.device).reshape(-1, codes.shape[-1])
        frames = torch.cat([codec.pixels(codec.decode(part)) for part in flat.split(8 * CHUNK)])
        return frames.unflatten(0, codes.shape[:-1]).cpu().numpy()

    def _keyframes(self, first: Tensor, codes: Tensor, offsets: Tensor, length: int) -> Keyframes:
        frames = length - self.config.given
        probabilities = soft_time.inside(soft_time.keyframe_times(offsets, frames))
        # Time 0 is the last frame given.
        times = soft_time.hard_times(offsets) + self.config.given - 1
        return Keyframes(first, codes, offsets, times, probabilities, length)


def _surprise(offsets: Tensor, best: Tensor) -> Tensor:
    """Cross-entropy of offsets (G, M, S) with the best ones (G, M), a mean over keyframes but for the last of a sequence.

    That one may as well lie beyond the end.
    """
    known = F.pad(best[:, 1:], (0, 1)) > 0
    likely = offsets.gather(-1, (best - 1).clamp_min(0).unsqueeze(-1)).squeeze(-1)
    surprise = -likely.clamp_min(soft_time.SMALLEST).log()
    return torch.where(known, surprise, 0).sum() / known.sum().clamp_min(1)


def _split(sequences: Any, count: int) -> list[Any]:
    return [sequences[start : start + count] for start in range(0, len(sequences), count)]
