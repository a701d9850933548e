"""Rewards of thousands of imagined futures, as fast as a planner needs them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kpagent.dynamics.vrnn import SMALLEST_STD, VRNN, Belief
from kpagent.training import prefers_bf16


class Imagination:
    """`VRNN.imagine_each` and a reward head in one, with weights as they are now.

    Codes are never made: what the decoder would say goes straight into the GRU, as the product of two matrices. Where
    bfloat16 is the faster precision all of it is done in that; sums of rewards are float32.

    Args:
        dynamics: with actions.
        head: three dense layers, with rectifiers in between, from h and z to a reward.
        precise: take float32 in any case.
    """

    def __init__(self, dynamics: VRNN, head: nn.Sequential, *, precise: bool = False) -> None:
        gru, self.latent = dynamics.gru, dynamics.latent
        device = gru.weight_ih.device
        self.dtype = torch.bfloat16 if prefers_bf16(device) and not precise else torch.float32
        of_code, of_rest = gru.weight_ih.split([dynamics.size, self.latent + dynamics.config.actions], dim=1)
        self.from_code = self._layer(of_code, gru.bias_ih)
        self.from_decoder = self._layer(
            torch.cat([of_code @ dynamics.decode_out.weight, of_rest], dim=1),
            gru.bias_ih + of_code @ dynamics.decode_out.bias,
        )
        self.from_rest = self._layer(of_rest, torch.zeros_like(gru.bias_ih))
        self.from_hidden = self._layer(gru.weight_hh, gru.bias_hh)
        decode, (first, second, last) = dynamics.decode_in, _dense(head)
        # The decoder sees z and h, the head h and z: one product for both.
        units = dynamics.config.rnn_units
        turned = torch.cat([first.weight[:, units:], first.weight[:, :units]], dim=1)
        self.decode = self._layer(torch.cat([decode.weight, turned]), torch.cat([decode.bias, first.bias]))
        self.decoded = dynamics.config.posterior_units
        self.read = [self._layer(second.weight, second.bias), self._layer(last.weight, last.bias)]
        layers = _dense(dynamics.prior) if self.latent else []
        self.prior = [self._layer(layer.weight, layer.bias) for layer in layers]

    @torch.no_grad()
    def __call__(self, belief: Belief, actions: Tensor, *, futures: int = 0, seed: int = 0) -> Tensor:
        """Rewards of actions, as the head gives them.

        Args:
            belief: of (1, ...).
            actions: (N, T, A).
            futures: samples of the latents, the same for all N, whose rewards are averaged; 0 follows their means.
            seed: of the samples.

        Returns:
            (N, T) float32.
        """
        count, steps = actions.shape[:2]
        samples = max(1, futures) if self.latent else 1
        noise = None
        if futures and self.latent:
            draws = torch.Generator(actions.device).manual_seed(seed)
            noise = torch.randn((steps, samples, 1, self.latent), generator=draws, device=actions.device).to(self.dtype)
        acted = actions.to(self.dtype).repeat(samples, 1, 1)
        hidden = belief.hidden.to(self.dtype).expand(samples * count, -1)
        latent = belief.latent.to(self.dtype).expand(samples * count, -1)
        known = F.linear(belief.code.to(self.dtype), *self.from_code)
        rewards = actions.new_empty(samples * count, steps)
        decoded = hidden
        for step in range(steps):
            if step == 0:
                seen = known + F.linear(torch.cat([latent, acted[:, 0]], dim=1), *self.from_rest)
            else:
                seen = F.linear(torch.cat([decoded, latent, acted[:, step]], dim=1), *self.from_decoder)
            hidden = self._advance(seen, hidden)
            if self.latent:
                latent = self._believe(hidden, None if noise is None else noise[step])
            both = F.relu(F.linear(torch.cat([latent, hidden], dim=1), *self.decode))
            decoded, read = both[:, : self.decoded], both[:, self.decoded :]
            rewards[:, step] = F.linear(F.relu(F.linear(read, *self.read[0])), *self.read[1]).squeeze(1).float()
        return rewards.unflatten(0, (samples, count)).mean(dim=0)

    def _advance(self, seen: Tensor, hidden: Tensor) -> Tensor:
        """The hidden state after a frame (Struct-VRNN Eq. 4)."""
        kept = F.linear(hidden, *self.from_hidden)
        size = hidden.shape[1]
        gates = torch.sigmoid(seen[:, : 2 * size] + kept[:, : 2 * size])
        new = torch.tanh(torch.addcmul(seen[:, 2 * size :], gates[:, :size], kept[:, 2 * size :]))
        return torch.lerp(new, hidden, gates[:, size:])

    def _believe(self, hidden: Tensor, noise: Tensor | None) -> Tensor:
        """The latent of the prior belief, (samples * N, Z)."""
        first, second = self.prior
        parts = F.linear(F.relu(F.linear(hidden, *first)), *second)
        mean = parts[:, : self.latent]
        if noise is None:
            return mean
        std = F.softplus(parts[:, self.latent :]) + SMALLEST_STD
        return mean + std * noise.expand(-1, len(hidden) // len(noise), -1).flatten(0, 1)

    def _layer(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return weight.detach().to(self.dtype).contiguous(), bias.detach().to(self.dtype)


def _dense(layers: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in layers if isinstance(layer, nn.Linear)]
