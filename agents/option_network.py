"""The network of keypoint options: one Q-function for each keypoint and direction (Transporter section 3.2.2).

The convolutions are those of Mnih et al. 2015; what they see is the frame, not keypoints, so that an option can be played
before its keypoint is understood.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from kpagent.agents.intrinsic import DIRECTIONS
from kpagent.agents.recurrence import State, unroll
from kpagent.fields import require


@dataclass(frozen=True)
class OptionNetworkConfig:
    """Sizes of the network; the defaults are those of section 3.2.2 and of Mnih et al. 2015."""

    image_size: int = 84
    """Height and width of the frames."""
    filters: tuple[int, int, int] = (32, 64, 64)
    """Of the convolutions: 8×8 with stride 4, 4×4 with stride 2, 3×3."""
    embedding: int = 512
    """Units between convolutions and LSTM."""
    hidden: int = 256
    """Units of the LSTM."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple(self.filters))
        checks = {
            "image_size must be from 36 to 512": 36 <= self.image_size <= 512,
            "filters must be three numbers of at least 1": len(self.filters) == 3 and min(self.filters) >= 1,
            "embedding must be at least 1": self.embedding >= 1,
            "hidden must be at least 1": self.hidden >= 1,
        }
        require(self, checks)


class OptionNetwork(nn.Module):
    """Q-values of K × 4 options from frames seen one after the other.

    Args:
        num_keypoints: K.
        num_actions: A.
        config: sizes.
    """

    def __init__(self, num_keypoints: int, num_actions: int, config: OptionNetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or OptionNetworkConfig()
        self.num_keypoints, self.num_actions = num_keypoints, num_actions
        one, two, three = config.filters
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, one, 8, stride=4), nn.ReLU(),
            nn.Conv2d(one, two, 4, stride=2), nn.ReLU(),
            nn.Conv2d(two, three, 3), nn.ReLU(),
        )  # fmt: skip
        side = ((config.image_size - 8) // 4 + 1 - 4) // 2 + 1 - 2
        self.embed = nn.Sequential(nn.Linear(three * side * side, config.embedding), nn.ReLU())
        self.lstm = nn.LSTM(config.embedding, config.hidden, batch_first=True)
        self.head = nn.Linear(config.hidden, num_keypoints * len(DIRECTIONS) * num_actions)
        # Channels last, as the frames come.
        self.convolutions.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each part of one recurrent state."""
        return {"hidden": (self.config.hidden,), "cell": (self.config.hidden,)}

    def initial_state(self, batch: int) -> State:
        """The state at the beginning of an episode, all zero."""
        zeros = partial(torch.zeros, device=self.head.weight.device)
        return {name: zeros(batch, *shape) for name, shape in self.state_shapes.items()}

    def forward(self, frames: Tensor, first: Tensor, state: State) -> tuple[Tensor, State]:
        """Q-values along segments.

        Args:
            frames: (B, T, S, S, 3) uint8.
            first: (B, T) bool, the recurrent state is zero before this row.
            state: before the first row.

        Returns:
            (B, T, K, 4, A), and the state after the last row.
        """
        return self.recur(self.see(self.images(frames)), first, state)

    def images(self, frames: Tensor) -> Tensor:
        """Frames (B, T, S, S, 3) uint8 as what the convolutions see, (B, T, 3, S, S) in [0, 1], bfloat16 under autocast."""
        device = frames.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        # A view: the memory is channels last already.
        return frames.to(kind).div_(255).permute(0, 1, 4, 2, 3)

    def see(self, images: Tensor) -> Tensor:
        """What the convolutions make of images: (B, T, embedding)."""
        seen = self.convolutions(images.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        embedded: Tensor = self.embed(seen.flatten(1))
        return embedded.unflatten(0, images.shape[:2])

    def recur(self, embedded: Tensor, first: Tensor, state: State) -> tuple[Tensor, State]:
        """As `forward`, from what `see` gave."""
        output, after = unroll(self.lstm, embedded, first, state)
        # Actions differ by little: too little for eight bits.
        with torch.autocast(output.device.type, enabled=False):
            values = self.head(output.float())
        shape = (self.num_keypoints, len(DIRECTIONS), self.num_actions)
        return values.unflatten(-1, shape), after
