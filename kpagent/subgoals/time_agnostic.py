"""TAP: the frame between start and goal that is surest to be passed, at whatever time (Jayaraman et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from kpagent.subgoals.codecs import new_codec
from kpagent.subgoals.configuration import KeyInConfig
from kpagent.subgoals.keyframe_model import KeyframeModel


class TimeAgnosticPredictor(KeyframeModel):
    """Foretells one frame of those to come, and is judged by the one that it is nearest to (a minimum over time).

    Args:
        config: of the KeyIn it is compared with; it uses the codec and sizes.
        provenance: as of `KeyframeModel`.
    """

    kind: ClassVar[str] = "tap"

    def __init__(self, config: KeyInConfig, provenance: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, provenance)
        self.codec = new_codec(config.codec)
        size, units = config.codec.size, config.start_units
        self.between = nn.Sequential(
            nn.Linear(2 * size, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, size)
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The least error of the prediction, over the frames strictly between the last given and the last of a sequence.

        Args:
            batch: `frames`, (B, L, H, W, 3) uint8, or `codes`, (B, L, D), with L at least T + 2; `seed` is not used.

        Returns:
            The loss, a mean over sequences, and its parts: `nearest`; `boundary`, the error of both ends when they are
            decoded straight from their codes, by which the codec learns (of codes, zero).

        Raises:
            ValueError: the sequences are too short.
        """
        observed = self.codec.of_batch(batch, self.device)[:, self.config.given - 1 :]
        if observed.shape[1] < 3:
            raise ValueError(f"there is no frame between the last given and the last: {observed.shape[1]} are left")
        ends = observed[:, [0, -1]]
        codes = self.codec.encode(ends)
        made = self.codec.decode(self._predict(codes[:, 0], codes[:, 1])).unsqueeze(1)
        inner = observed[:, 1:-1]
        nearest = self.codec.error(made.expand(-1, inner.shape[1], -1), inner).amin(dim=1).mean()
        boundary = self.codec.error(self.codec.decode(codes), ends).sum(dim=1).mean()
        return nearest + boundary, {"nearest": nearest.detach(), "boundary": boundary.detach()}

    @torch.no_grad()
    def subgoals(self, first: Any, goal: Any, depth: int) -> Tensor:
        """Codes between two frames, halved again and again: 2^depth - 1 of them, in order.

        Args:
            first: (B, H, W, 3) uint8, or codes (B, D).
            goal: likewise.
            depth: how often; at least 1.

        Returns:
            (B, 2^depth - 1, D).

        Raises:
            ValueError: depth below 1.
        """
        if depth < 1:
            raise ValueError(f"depth must be at least 1, not {depth}")
        device = self.device
        ends = [self.codec.encode(self.codec.observe(frame[:, None], device))[:, 0] for frame in (first, goal)]
        path = ends
        for _ in range(depth):
            halves = [self._predict(a, b) for a, b in pairwise(path)]
            path = [code for pair in zip(path[:-1], halves, strict=True) for code in pair] + [path[-1]]
        return torch.stack(path[1:-1], dim=1)

    @torch.no_grad()
    def discover(self, sequences: Any, depth: int = 2) -> list[np.ndarray]:
        """The frames nearest to the subgoals between the last given and the last frame of each sequence.

        Args:
            sequences: (B, L, H, W, 3) uint8, or codes (B, L, D).
            depth: as of `subgoals`.

        Returns:
            For each sequence, frame numbers from T to L - 2, rising, each once.
        """
        given = self.config.given
        observed = self.codec.observe(sequences, self.device)[:, given:-1]
        made = self.codec.decode(self.subgoals(sequences[:, given - 1], sequences[:, -1], depth))
        frames = observed.shape[1]
        far = [self.codec.error(one.unsqueeze(1).expand(-1, frames, -1), observed) for one in made.unbind(1)]
        return [given + np.unique(row) for row in torch.stack(far, dim=1).argmin(dim=-1).cpu().numpy()]

    def _predict(self, first: Tensor, goal: Tensor) -> Tensor:
        change: Tensor = self.between(torch.cat([first, goal], dim=-1)).float()
        return self.codec.onward(first, change)
