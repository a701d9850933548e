"""What stands for a frame: an embedding by convolutions and back, or a code that is given as it is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kpagent.frames import to_images
from kpagent.subgoals.configuration import CodecConfig

SLOPE = 0.2
"""Of the leaky rectifier."""
SURE = 1e-4
"""Probabilities of pixels stay so far from 0 and 1, where the logarithm has no useful gradient."""


class Codec(nn.Module, ABC):
    """Between what is observed of a frame and its code of D numbers.

    Args:
        config: its shape.
    """

    name: str
    """Of what it observes, in a batch."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def observe(self, sequences: Any, device: torch.device) -> Tensor:
        """Sequences (B, L, ...) of what a user has, as float tensors (B, L, ...) that `encode` takes.

        Raises:
            TypeError: of another type.
            ValueError: of another shape.
        """

    @abstractmethod
    def encode(self, observed: Tensor) -> Tensor:
        """Codes (B, L, D) of what `observe` gave."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """What codes (..., D) stand for, flat: (..., P)."""

    @abstractmethod
    def error(self, made: Tensor, observed: Tensor) -> Tensor:
        """How far what was decoded, (B, L, P), is from what `observe` gave, (B, L, ...): (B, L)."""

    @abstractmethod
    def onward(self, before: Tensor, change: Tensor) -> Tensor:
        """The code after `before` that a network means by its output `change`, both (..., D)."""

    @abstractmethod
    def between(self, first: Tensor, last: Tensor, offsets: Tensor, change: Tensor) -> Tensor:
        """The codes from one keyframe to the next that a network means by its outputs.

        Args:
            first: (B, D), the code of one.
            last: (B, D), of the next.
            offsets: (B, S), the distribution of how many frames it is away.
            change: (B, L, D), what the network gives for frames 1 to L after the first.

        Returns:
            (B, L, D).
        """

    def of_batch(self, batch: Mapping[str, Any], device: torch.device) -> Tensor:
        """`observe` of the sequences in a batch.

        Raises:
            ValueError: it has none of this kind.
        """
        if self.name not in batch:
            raise ValueError(f"the batch needs {self.name}; it has {', '.join(batch)}")
        return self.observe(batch[self.name], device)


class FrameCodec(Codec):
    """Convolutions of stride 2 to an embedding that ends in tanh, and their transpose to pixels by a sigmoid (section 4)."""

    name = "frames"

    def __init__(self, config: CodecConfig) -> None:
        super().__init__(config)
        filters, side = config.filters, config.map_size
        reading: list[nn.Module] = []
        for inputs, outputs in pairwise([3, *filters]):
            reading += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(SLOPE)]
        self.encoder = nn.Sequential(*reading, nn.Flatten(), nn.Linear(filters[-1] * side**2, config.size), nn.Tanh())
        painting: list[nn.Module] = [
            nn.Linear(config.size, filters[-1] * side**2),
            nn.Unflatten(1, (filters[-1], side, side)),
        ]
        for inputs, outputs in pairwise([*filters[::-1], 3]):
            painting += [nn.LeakyReLU(SLOPE), nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)]
        self.decoder = nn.Sequential(*painting)
        self._initialise()

    def _initialise(self) -> None:
        """So that signals keep their size through all layers: with torch's own initialisation, all embeddings are alike."""
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, a=SLOPE)
            elif isinstance(part, nn.ConvTranspose2d):
                # Of its 16 weights a channel, 4 make a pixel.
                nn.init.normal_(part.weight, std=(2 / (4 * part.in_channels)) ** 0.5)
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d) and part.bias is not None:
                nn.init.zeros_(part.bias)
        last = self.decoder[-1]
        assert isinstance(last, nn.ConvTranspose2d)
        assert last.bias is not None
        nn.init.constant_(last.bias, math.log(self.config.brightness / (1 - self.config.brightness)))

    def observe(self, sequences: Any, device: torch.device) -> Tensor:
        """Of frames (B, L, H, W, 3) uint8: images (B, L, 3, S, S) in [0, 1]."""
        if sequences.ndim != 5:
            raise ValueError(f"frames must be (B, L, H, W, 3), not {tuple(sequences.shape)}")
        images = to_images(sequences.reshape(-1, *sequences.shape[2:]), self.config.image_size, device)
        return images.unflatten(0, tuple(sequences.shape[:2]))

    def encode(self, observed: Tensor) -> Tensor:
        """As of `Codec`; each number in (-1, 1)."""
        codes: Tensor = self.encoder(observed.flatten(0, 1)).float()
        return codes.unflatten(0, observed.shape[:2])

    def decode(self, codes: Tensor) -> Tensor:
        """As of `Codec`; (..., 3·S·S) probabilities, in the order of `pixels`."""
        logits: Tensor = self.decoder(codes.reshape(-1, codes.shape[-1]))
        # In the order in which they lie in memory.
        flat = logits.permute(0, 2, 3, 1).reshape(*codes.shape[:-1], -1)
        return flat.float().sigmoid()

    def error(self, made: Tensor, observed: Tensor) -> Tensor:
        """As of `Codec`; binary cross-entropy, a mean over pixels and colours."""
        seen = observed.permute(0, 1, 3, 4, 2).flatten(2)
        return F.binary_cross_entropy(made * (1 - 2 * SURE) + SURE, seen, reduction="none").mean(dim=-1)

    def onward(self, before: Tensor, change: Tensor) -> Tensor:
        """As of `Codec`; an embedding of its own."""
        return change.tanh()

    def between(self, first: Tensor, last: Tensor, offsets: Tensor, change: Tensor) -> Tensor:
        """As of `Codec`; embeddings of their own."""
        return change.tanh()

    def pixels(self, made: Tensor) -> Tensor:
        """What `decode` gave, (..., 3·S·S), as frames (..., S, S, 3) uint8."""
        size = self.config.image_size
        return made.unflatten(-1, (size, size, 3)).mul(255).round().to(torch.uint8)


class PlainCodec(Codec):
    """Codes that are given: nothing is learned of them, and a network says by how much they change."""

    name = "codes"

    def observe(self, sequences: Any, device: torch.device) -> Tensor:
        """Of codes (B, L, D) of any type: the same in float32."""
        if sequences.ndim != 3 or sequences.shape[-1] != self.config.size:
            raise ValueError(f"codes must be (B, L, {self.config.size}), not {tuple(sequences.shape)}")
        return torch.as_tensor(sequences, dtype=torch.float32, device=device)

    def encode(self, observed: Tensor) -> Tensor:
        """As of `Codec`; the same."""
        return observed

    def decode(self, codes: Tensor) -> Tensor:
        """As of `Codec`; the same."""
        return codes

    def error(self, made: Tensor, observed: Tensor) -> Tensor:
        """As of `Codec`; the squared distance, a sum over numbers."""
        return (made - observed).square().sum(dim=-1)

    def onward(self, before: Tensor, change: Tensor) -> Tensor:
        """As of `Codec`; the sum of the two."""
        return before + change

    def between(self, first: Tensor, last: Tensor, offsets: Tensor, change: Tensor) -> Tensor:
        """As of `Codec`; what comes on top of the straight way, at even speed, to the mean of the offset."""
        numbers = torch.arange(1, offsets.shape[1] + 1, dtype=offsets.dtype, device=offsets.device)
        mean = (offsets * numbers).sum(dim=1)
        steps = torch.arange(1, change.shape[1] + 1, dtype=offsets.dtype, device=offsets.device)
        share = (steps / mean[:, None]).clamp_max(1).unsqueeze(-1)
        return first.unsqueeze(1) + share * (last - first).unsqueeze(1) + change


def new_codec(config: CodecConfig) -> Codec:
    """The codec that a configuration describes, with new parameters."""
    return FrameCodec(config) if config.kind == "frames" else PlainCodec(config)
