"""Codes in time: a variational recurrent network that samples futures (Struct-VRNN section 3.2, Eq. 1 to 8)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kpagent.dynamics.configuration import DynamicsConfig
from kpagent.dynamics.objectives import best_sample, code_error, gaussian_kl
from kpagent.training import prefers_bf16

SMALLEST_STD = 1e-4
MANY = 500
"""Futures, from which on `imagine` takes products with h in bfloat16, where that is faster: most of its time goes there."""


@dataclass(frozen=True)
class Belief:
    """What the model holds of a sequence after a frame, all that a future hangs on.

    Attributes:
        hidden: (..., units), h before the frame.
        code: (..., D), x̂ of the frame, decoded; x itself in a deterministic model.
        latent: (..., Z), z of the frame; Z is 0 in a deterministic model.
    """

    hidden: Tensor
    code: Tensor
    latent: Tensor

    def repeat(self, samples: int) -> Belief:
        """Of (B, ...), the same for `samples` futures of each, (B * samples, ...)."""
        parts = (part.repeat_interleave(samples, dim=0) for part in (self.hidden, self.code, self.latent))
        return Belief(*parts)


class VRNN(nn.Module):
    """The dynamics of codes: `loss` trains it, `observe` and `imagine` use it.

    An action is the one taken on a frame, and the GRU sees it with that frame, before the next is foretold. (S9 of the
    paper feeds the action that led to a frame together with that frame: its prior does not know it.)

    Args:
        config: sizes and losses.
        size: D, numbers in a code.
    """

    def __init__(self, config: DynamicsConfig, size: int) -> None:
        super().__init__()
        self.config, self.size = config, size
        self.latent = config.latent if config.stochastic else 0
        self.gru = nn.GRUCell(size + self.latent + config.actions, config.rnn_units)
        self.decode_in = nn.Linear(self.latent + config.rnn_units, config.posterior_units)
        self.decode_out = nn.Linear(config.posterior_units, size)
        if config.stochastic:
            self.prior = _gaussian(config.rnn_units, config.prior_units, self.latent)
            self.posterior = _gaussian(size + config.rnn_units, config.posterior_units, self.latent)

    # Learning

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Errors of observed and of foretold codes, and the KL divergence of observed ones (Eq. 6 to 8).

        Args:
            batch: `codes`, (B, T + ΔT, D); `actions`, (B, T + ΔT, A), where the model has them; `progress`, how much of
                the training is done, from 0 to 1; `seed`, of what is drawn.

        Returns:
            The loss, a mean over sequences, and its parts, summed over time: `observed` and `predicted` as they enter it,
            `kl` in nats and unweighted.

        Raises:
            ValueError: the sequences are not of T + ΔT frames.
        """
        loss, metrics, _ = self.loss_and_beliefs(batch)
        return loss, metrics

    def loss_and_beliefs(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor], Belief]:
        """As `loss`, with the beliefs after all frames, of (B, T + ΔT, ...), through which gradients flow."""
        config = self.config
        codes = torch.as_tensor(batch["codes"], dtype=torch.float32, device=self.gru.weight_ih.device)
        count, length = codes.shape[:2]
        if length != config.observed + config.predicted:
            raise ValueError(f"codes must be of {config.observed} + {config.predicted} frames, not {length}")
        actions = self._actions(batch, codes)
        draws = _generator(batch["seed"], codes.device)
        own = self._own_inputs(length, float(batch["progress"]), draws)
        hidden = codes.new_zeros(count, config.rnn_units)
        fed, latent = codes[:, 0], codes.new_zeros(count, self.latent)
        errors, divergences, beliefs = [], [], []
        for t in range(length):
            if t > 0:
                hidden = self._advance(hidden, fed, latent, None if actions is None else actions[:, t - 1])
            if config.stochastic:
                latent, divergence = self._best_latent(hidden, codes[:, t], t < config.observed, draws)
                if divergence is not None:
                    divergences.append(divergence)
            decoded = self._decode(latent, hidden)
            errors.append(code_error(decoded, codes[:, t]))
            beliefs.append(Belief(hidden, decoded, latent))
            fed = decoded if own[t] else codes[:, t]
        error = torch.stack(errors, dim=1).mean(dim=0)
        # Without a posterior, the first code is a guess that nothing can make better.
        seen = error[0 if config.stochastic else 1 : config.observed].sum()
        foretold = error[config.observed :].sum()
        loss, metrics = seen + foretold, {"observed": seen.detach(), "predicted": foretold.detach()}
        if divergences:
            kl = torch.stack(divergences).sum(dim=0).mean()
            loss = loss + config.kl_scale * self._kl_share(float(batch["progress"])) * kl
            metrics["kl"] = kl.detach()
        return loss, metrics, _along_time(beliefs)

    def _best_latent(
        self, hidden: Tensor, code: Tensor, observed: bool, draws: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """The latent sample that decodes nearest to the code (Eq. 8), and the KL divergence of an observed step."""
        samples = self.config.samples
        prior_mean, prior_std = _split(self.prior(hidden))
        divergence = None
        if observed:
            mean, std = _split(self.posterior(torch.cat([code, hidden], dim=-1)))
            divergence = gaussian_kl(mean, std, prior_mean, prior_std)
        else:
            mean, std = prior_mean, prior_std
        noise = torch.randn((len(hidden), samples, self.latent), generator=draws, device=hidden.device)
        if samples > 1:
            with torch.no_grad():
                # What depends on h alone is the same for all samples; only the winner is decoded with gradients.
                best = best_sample(self._decode_samples(mean.unsqueeze(1) + std.unsqueeze(1) * noise, hidden), code)
            noise = noise[torch.arange(len(hidden), device=hidden.device), best]
        else:
            noise = noise[:, 0]
        return mean + std * noise, divergence

    def _own_inputs(self, length: int, progress: float, draws: torch.Generator) -> list[bool]:
        """After which steps the GRU is fed what was decoded: one coin a step for the whole batch (S1.3)."""
        config = self.config
        # What is decoded without having seen the frame is no observation.
        observed = config.own_observed if config.stochastic else 0.0
        shares = [observed if t < config.observed else config.own_predicted for t in range(length)]
        coins = torch.rand(length, generator=draws, device=draws.device).tolist()
        return [coin < share * progress for coin, share in zip(coins, shares, strict=True)]

    def _kl_share(self, progress: float) -> float:
        return min(1.0, progress / self.config.kl_anneal) if self.config.kl_anneal else 1.0

    # Use

    @torch.no_grad()
    def observe(self, codes: Tensor, actions: Tensor | None = None, *, seed: int | None = None) -> tuple[Belief, Tensor]:
        """Take in frames.

        Args:
            codes: (B, T, D).
            actions: (B, T - 1 or more, A), the action taken on each frame but the last; where the model has them.
            seed: of samples of the posterior belief; its mean is taken without.

        Returns:
            The belief after the last frame, and what was decoded of each, (B, T, D).

        Raises:
            ValueError: actions where the model has none, or none where it has.
        """
        seen = list(self._observing(codes, actions, seed))
        return seen[-1][0], torch.stack([decoded for _, decoded in seen], dim=1)

    @torch.no_grad()
    def observe_each(self, codes: Tensor, actions: Tensor | None = None, *, seed: int | None = None) -> Belief:
        """As `observe`; returns the beliefs after all frames, of (B, T, ...)."""
        return _along_time(belief for belief, _ in self._observing(codes, actions, seed))

    @torch.no_grad()
    def imagine(
        self, belief: Belief, steps: int, *, samples: int = 1, actions: Tensor | None = None, seed: int = 0
    ) -> Tensor:
        """Futures, by sampling the prior belief at each step.

        From `MANY` futures on, where bfloat16 is the faster precision, products with h are taken in it. A model of the
        Basketball-like set then strayed, after 50 steps, by 0.7% of the mean distance of its futures from each other.

        Args:
            belief: of B sequences.
            steps: frames to foretell.
            samples: futures of each sequence.
            actions: where the model has them: (B, steps, A) for all futures of a sequence, or (B, samples, steps, A); the
                first is taken on the last frame that was observed.
            seed: of the samples.

        Returns:
            (B, samples, steps, D) codes.

        Raises:
            ValueError: actions where the model has none, or none where it has.
        """
        futures = belief.hidden.new_empty(len(belief.hidden) * samples, steps, self.size)
        for t, now in enumerate(self._imagining(belief, steps, samples, actions, seed)):
            futures[:, t] = now.code
        return futures.unflatten(0, (len(belief.hidden), samples))

    @torch.no_grad()
    def imagine_each(
        self, belief: Belief, steps: int, *, samples: int = 1, actions: Tensor | None = None, seed: int = 0
    ) -> Belief:
        """As `imagine`; returns the beliefs after all steps, of (B, samples, steps, ...)."""
        whole = _along_time(self._imagining(belief, steps, samples, actions, seed))
        shape = (len(belief.hidden), samples)
        return Belief(*(part.unflatten(0, shape) for part in (whole.hidden, whole.code, whole.latent)))

    # Parts

    def _observing(self, codes: Tensor, actions: Tensor | None, seed: int | None) -> Iterator[tuple[Belief, Tensor]]:
        """The belief after each frame, and what was decoded of it."""
        self._require_actions(actions)
        draws = None if seed is None else _generator(seed, codes.device)
        hidden = codes.new_zeros(len(codes), self.config.rnn_units)
        latent = codes.new_zeros(len(codes), self.latent)
        fed = codes[:, 0]
        for t in range(codes.shape[1]):
            if t > 0:
                hidden = self._advance(hidden, fed, latent, None if actions is None else actions[:, t - 1])
            if self.config.stochastic:
                mean, std = _split(self.posterior(torch.cat([codes[:, t], hidden], dim=-1)))
                latent = mean if draws is None else mean + std * _noise(mean, draws)
            decoded = self._decode(latent, hidden)
            fed = decoded if self.config.stochastic else codes[:, t]
            yield Belief(hidden, fed, latent), decoded

    def _imagining(self, belief: Belief, steps: int, samples: int, actions: Tensor | None, seed: int) -> Iterator[Belief]:
        """The belief after each step, of (B * samples, ...)."""
        self._require_actions(actions)
        if actions is not None:
            if actions.ndim == 3:
                actions = actions.unsqueeze(1).expand(-1, samples, -1, -1)
            actions = actions.flatten(0, 1)
        draws = _generator(seed, belief.hidden.device)
        now = belief.repeat(samples)
        hidden, fed, latent = now.hidden, now.code, now.latent
        advance = self._advance
        if len(hidden) >= MANY and prefers_bf16(hidden.device):
            advance = partial(self._advance_quickly, self.gru.weight_hh.bfloat16())
        for t in range(steps):
            hidden = advance(hidden, fed, latent, None if actions is None else actions[:, t])
            if self.config.stochastic:
                mean, std = _split(self.prior(hidden))
                latent = mean + std * _noise(mean, draws)
            fed = self._decode(latent, hidden)
            yield Belief(hidden, fed, latent)

    def _advance(self, hidden: Tensor, code: Tensor, latent: Tensor, action: Tensor | None) -> Tensor:
        """The hidden state h after a frame (Eq. 4)."""
        after: Tensor = self.gru(_joined(code, latent, action), hidden)
        return after

    def _advance_quickly(
        self, weight_hh: Tensor, hidden: Tensor, code: Tensor, latent: Tensor, action: Tensor | None
    ) -> Tensor:
        """As `_advance`, with the products of h in the precision of `weight_hh`."""
        seen = F.linear(_joined(code, latent, action), self.gru.weight_ih, self.gru.bias_ih).chunk(3, dim=-1)
        kept = (F.linear(hidden.to(weight_hh), weight_hh).float() + self.gru.bias_hh).chunk(3, dim=-1)
        reset, update = torch.sigmoid(seen[0] + kept[0]), torch.sigmoid(seen[1] + kept[1])
        return torch.lerp(torch.tanh(seen[2] + reset * kept[2]), hidden, update)

    def _decode(self, latent: Tensor, hidden: Tensor) -> Tensor:
        """x̂ (Eq. 3)."""
        code: Tensor = self.decode_out(F.relu(self.decode_in(torch.cat([latent, hidden], dim=-1))))
        return code

    def _decode_samples(self, latents: Tensor, hidden: Tensor) -> Tensor:
        """x̂ of many samples of each sequence, (B, S, Z) to (B, S, D): `_decode` with what h brings computed once."""
        of_latent, of_hidden = self.decode_in.weight.split([self.latent, self.config.rnn_units], dim=1)
        before = F.linear(latents, of_latent) + F.linear(hidden, of_hidden, self.decode_in.bias).unsqueeze(1)
        code: Tensor = self.decode_out(F.relu(before))
        return code

    def _actions(self, batch: Mapping[str, Any], codes: Tensor) -> Tensor | None:
        actions = batch.get("actions") if self.config.actions else None
        self._require_actions(actions)
        return None if actions is None else torch.as_tensor(actions, dtype=torch.float32, device=codes.device)

    def _require_actions(self, actions: Any) -> None:
        if self.config.actions and (actions is None or actions.shape[-1] != self.config.actions):
            raise ValueError(f"the model wants actions of {self.config.actions} numbers")
        if actions is not None and not self.config.actions:
            raise ValueError("the model has no actions")


def _along_time(beliefs: Iterable[Belief]) -> Belief:
    """Beliefs of (N, ...) each as one of (N, T, ...)."""
    hidden, code, latent = zip(*((each.hidden, each.code, each.latent) for each in beliefs), strict=True)
    return Belief(torch.stack(hidden, dim=1), torch.stack(code, dim=1), torch.stack(latent, dim=1))


def _joined(code: Tensor, latent: Tensor, action: Tensor | None) -> Tensor:
    return torch.cat([code, latent] if action is None else [code, latent, action], dim=-1)


def _gaussian(inputs: int, units: int, latent: int) -> nn.Sequential:
    """A dense layer and another to the mean and the deviation of a belief (Eq. S6, S7)."""
    return nn.Sequential(nn.Linear(inputs, units), nn.ReLU(), nn.Linear(units, 2 * latent))


def _split(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of what a network of `_gaussian` gives."""
    mean, raw = values.float().chunk(2, dim=-1)
    return mean, F.softplus(raw) + SMALLEST_STD


def _noise(like: Tensor, draws: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=draws, device=like.device, dtype=like.dtype)


def _generator(seed: Any, device: torch.device) -> torch.Generator:
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> 1))
