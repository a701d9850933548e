"""LSTMcond, LSTMinf and LSTMkey: keyframes and the offsets between them, from a latent each (KeyIn section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kpagent.subgoals import soft_time
from kpagent.subgoals.codecs import Codec
from kpagent.subgoals.configuration import KeyInConfig
from kpagent.subgoals.networks import ProjectedLSTM, State, attend, split_gaussian

MOTION = 10.0
"""Factor on what codes change by from frame to frame, which is small beside coordinates in [-1, 1]."""


@dataclass(frozen=True)
class Prediction:
    """Keyframes after the frames that were given.

    Attributes:
        codes: (B, M, D), κ̂.
        offsets: (B, M, S), δ, the distribution of each one's offset from the one before.
        prior_mean: (B, M, Z) of the belief about its latent before it is known.
        prior_std: (B, M, Z) likewise.
        mean: (B, M, Z) of the posterior belief; None of a sample of the prior.
        std: (B, M, Z) likewise.
    """

    codes: Tensor
    offsets: Tensor
    prior_mean: Tensor
    prior_std: Tensor
    mean: Tensor | None
    std: Tensor | None


class KeyframePredictor(nn.Module):
    """The second stage.

    Args:
        config: of the whole model.
    """

    def __init__(self, config: KeyInConfig) -> None:
        super().__init__()
        self.config = config
        size = config.codec.size
        # Embeddings of frames have no use for differences; coordinates show by them where a way turns.
        self.sees_motion = config.codec.kind == "codes"
        seen = 2 * size if self.sees_motion else size
        self.condition = ProjectedLSTM(seen, 0, config.units, config.layers)
        self.key = ProjectedLSTM(size + config.latent, size + config.longest, config.units, config.layers)
        self.at_time = config.attention == "time"
        keys = 0 if self.at_time else size
        self.prior: nn.Module | None = None
        if config.prior == "learned":
            hidden = nn.Linear(config.units + size, config.units)
            self.prior = nn.Sequential(hidden, nn.ReLU(), nn.Linear(config.units, 2 * config.latent))
        self.inference = ProjectedLSTM(seen, keys + 2 * config.latent, config.units, config.layers)

    def forward(
        self, codec: Codec, given: Tensor, noise: Tensor, future: Tensor | None = None, led: Tensor | None = None
    ) -> Prediction:
        """Predict M keyframes, one after the other.

        Args:
            codec: what a code is.
            given: (B, T, D), codes of the frames that are given.
            noise: (B, M, Z), of the latents, of a unit Gaussian; zeros for their mean.
            future: (B, N, D), codes of the frames after them, for latents of the posterior; those of the prior without.
            led: (G, M) int64 offsets, for the first G sequences of a future: each keyframe is predicted from the true frame
                at the end of these before it, not from the one that was predicted; as far as they are not 0.
        """
        _, state = self.condition(self._seen(given, given[:, :1]))
        believed = None if future is None else self._infer(given, future)
        before, codes, offsets, priors, beliefs = given[:, -1], [], [], [], []
        # Where the keyframe before is, over times 0 to N - 1.
        start = F.one_hot(given.new_zeros(len(given), dtype=torch.long), self._times(future)).float()
        for t in range(self.config.keyframes):
            priors.append(self._expect(before, state, noise[:, t]))
            if believed is not None:
                beliefs.append(split_gaussian(self._attend(before, start, believed)))
            mean, std = (beliefs or priors)[-1]
            latent = mean + std * noise[:, t]
            output, state = self.key(torch.cat([before, latent], dim=-1).unsqueeze(1), state)
            change, logits = output[:, 0].split([self.config.codec.size, self.config.longest], dim=-1)
            before = codec.onward(before, change)
            codes.append(before)
            offsets.append(self._offset(logits, t))
            start = F.pad(soft_time.ends(start, offsets[-1])[:, :-1], (1, 0))
            if led is not None and future is not None:
                before, start = _lead(before, start, led[:, : t + 1], future)
        prior = _stack(priors)
        posterior = _stack(beliefs) if beliefs else (None, None)
        return Prediction(torch.stack(codes, dim=1), torch.stack(offsets, dim=1), *prior, *posterior)

    def _times(self, future: Tensor | None) -> int:
        return self.config.frames if future is None else future.shape[1]

    def _seen(self, codes: Tensor, before: Tensor) -> Tensor:
        if not self.sees_motion:
            return codes
        return torch.cat([codes, MOTION * codes.diff(dim=1, prepend=before)], dim=-1)

    def _expect(self, before: Tensor, state: State, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The prior's mean and deviation of a latent, (B, Z) each: the noise that it is made of tells their shape."""
        if self.prior is None:
            return torch.zeros_like(noise), torch.ones_like(noise)
        with torch.autocast(before.device.type, enabled=False):
            return split_gaussian(self.prior(torch.cat([state[0][-1].float(), before.float()], dim=-1)))

    def _infer(self, given: Tensor, future: Tensor) -> Tensor:
        """What LSTMinf says of every frame, backwards in time, so that each knows what follows it.

        Of times 1 to N for attention by likeness, each with its key; of times 0 to N - 1 for attention by time.
        """
        outputs, _ = self.inference(self._seen(torch.cat([given[:, -1:], future], dim=1), given[:, -2:][:, :1]).flip(1))
        said: Tensor = outputs.flip(1)
        return said[:, :-1] if self.at_time else said[:, 1:]

    def _attend(self, before: Tensor, start: Tensor, said: Tensor) -> Tensor:
        """The belief about the next keyframe's latent, (B, 2 Z)."""
        if self.at_time:
            # Where the keyframe before may lie beyond the sequence, the belief is the prior, so far.
            return (start.unsqueeze(-1) * said).sum(dim=1)
        keys, values = said.split([self.config.codec.size, 2 * self.config.latent], dim=-1)
        return attend(before.float(), keys, values)

    def _offset(self, logits: Tensor, segment: int) -> Tensor:
        """δ of one segment, (B, S)."""
        fixed = self.config.fixed_offsets
        if not fixed:
            return logits.softmax(dim=-1)
        sure = F.one_hot(torch.tensor(fixed[segment], device=logits.device) - 1, self.config.longest)
        return sure.to(logits.dtype).expand_as(logits)


def _stack(gaussians: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Means and deviations (B, M, Z) of M Gaussians."""
    means, stds = zip(*gaussians, strict=True)
    return torch.stack(means, dim=1), torch.stack(stds, dim=1)


def _lead(before: Tensor, start: Tensor, led: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
    """The keyframe before and its time, as those offsets say that are not 0; others' as they are."""
    time = led.sum(dim=1)
    known = ((led[:, -1] > 0) & (time < future.shape[1])).unsqueeze(-1)
    rows = torch.arange(len(led), device=led.device)
    true = future[rows, (time - 1).clamp(0, future.shape[1] - 1)]
    sure = F.one_hot(time.clamp_max(future.shape[1] - 1), future.shape[1]).to(start.dtype)
    guided = len(led)
    return (
        torch.cat([torch.where(known, true, before[:guided]), before[guided:]]),
        torch.cat([torch.where(known, sure, start[:guided]), start[guided:]]),
    )
