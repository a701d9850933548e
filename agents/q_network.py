"""The network of KeyQN (Transporter Figure 5): thermometer-coded keypoints and their features, an LSTM, Q-values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kpagent.agents.recurrence import State, unroll
from kpagent.agents.thermometer import thermometer
from kpagent.fields import require


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network. The paper publishes none of them."""

    bins: int = 16
    """Cells of the thermometer of each coordinate."""
    motion_range: float = 0.25
    """Largest move between two observations that the thermometer of a keypoint's motion tells from larger ones; 0 leaves
    motion to the LSTM."""
    features: bool = True
    """Whether to see the features under the keypoints, where there are any."""
    embedding: int = 256
    """Units between the code and the LSTM."""
    hidden: int = 128
    """Units of the LSTM, and of each stream of the dueling head."""
    critics: int = 2
    """Dueling heads, each with Q-values of its own; the least of them is what a target trusts (Fujimoto et al. 2018)."""
    atoms: int = 1
    """Atoms of the value distribution; 1 learns expected values alone."""
    value_range: tuple[float, float] = (-10.0, 10.0)
    """Values of the outermost atoms."""

    def __post_init__(self) -> None:
        checks = {
            "bins must be at least 2": self.bins >= 2,
            "motion_range must not be negative": self.motion_range >= 0,
            "embedding must be at least 1": self.embedding >= 1,
            "hidden must be at least 1": self.hidden >= 1,
            "critics must be at least 1": self.critics >= 1,
            "atoms must be at least 1": self.atoms >= 1,
            "value_range must rise": self.value_range[0] < self.value_range[1],
        }
        require(self, checks)


class KeypointQNetwork(nn.Module):
    """Q-values of every action from keypoints seen one observation after the other.

    Args:
        num_keypoints: K.
        feature_dim: D, 0 without features.
        num_actions: A.
        config: sizes.
    """

    def __init__(self, num_keypoints: int, feature_dim: int, num_actions: int, config: NetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NetworkConfig()
        self.num_keypoints, self.num_actions = num_keypoints, num_actions
        self.given_features = feature_dim
        self.feature_dim = feature_dim if config.features else 0
        codes = 2 if config.motion_range > 0 else 1
        inputs = num_keypoints * (codes * 2 * config.bins + 1 + self.feature_dim)
        self.embed = nn.Sequential(nn.Linear(inputs, config.embedding), nn.LayerNorm(config.embedding), nn.ReLU())
        self.lstm = nn.LSTM(config.embedding, config.hidden, batch_first=True)
        self.value = nn.ModuleList(_stream(config.hidden, config.atoms) for _ in range(config.critics))
        self.advantage = nn.ModuleList(_stream(config.hidden, num_actions * config.atoms) for _ in range(config.critics))
        self.register_buffer("support", torch.linspace(*config.value_range, config.atoms), persistent=False)
        self.support: Tensor

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each part of one recurrent state: that of the LSTM and, for motion, where the keypoints were."""
        shapes: dict[str, tuple[int, ...]] = {"hidden": (self.config.hidden,), "cell": (self.config.hidden,)}
        return shapes | ({"xy": (self.num_keypoints, 2)} if self.config.motion_range > 0 else {})

    def initial_state(self, batch: int) -> State:
        """The state at the beginning of an episode, all zero."""
        device = self.support.device
        return {name: torch.zeros(batch, *shape, device=device) for name, shape in self.state_shapes.items()}

    def forward(self, observation: dict[str, Tensor], first: Tensor, state: State) -> tuple[Tensor, State]:
        """Q-values along segments.

        Args:
            observation: `xy` (B, T, K, 2), `presence` (B, T, K) and, with features, `features` (B, T, K, D).
            first: (B, T) bool, the recurrent state is zero before this row.
            state: before the first row.

        Returns:
            Logits (B, T, critics, A, atoms), with one atom the Q-values themselves, and the state after the last row.
        """
        logits, after = self.values(self.encode(observation, first, state), first, state)
        if self.config.motion_range > 0:
            # A copy: environments may write their next observation into the same memory.
            after["xy"] = observation["xy"][:, -1].clone()
        return logits, after

    def values(self, code: Tensor, first: Tensor, state: State) -> tuple[Tensor, State]:
        """As `forward`, from what `encode` gave; the state lacks where the keypoints were."""
        output, after = unroll(self.lstm, self.embed(code), first, state)
        # Differences between actions are a hundredth of the values: too fine for eight bits.
        with torch.autocast(output.device.type, enabled=False):
            return self._dueling(output.float().contiguous()), after

    def warm(self, code: Tensor, first: Tensor, state: State) -> State:
        """The state of `values`, without the values."""
        return unroll(self.lstm, self.embed(code), first, state)[1] if code.shape[1] else state

    def encode(self, observation: dict[str, Tensor], first: Tensor, state: State) -> Tensor:
        """What the keypoints look like to the network (Figure 5): (B, T, inputs)."""
        xy = observation["xy"]
        parts = [thermometer(xy, self.config.bins).flatten(2), observation["presence"]]
        if self.config.motion_range > 0:
            before = torch.cat([state["xy"].unsqueeze(1), xy[:, :-1]], dim=1)
            motion = (xy - before).masked_fill(first[..., None, None], 0.0)
            parts.append(thermometer(motion / self.config.motion_range, self.config.bins).flatten(2))
        if self.feature_dim:
            parts.append(observation["features"].flatten(2))
        return torch.cat(parts, dim=-1)

    def expectation(self, logits: Tensor) -> Tensor:
        """Q-values (..., critics, A) of logits (..., critics, A, atoms)."""
        if self.config.atoms == 1:
            return logits.squeeze(-1)
        return logits.softmax(dim=-1) @ self.support

    def _dueling(self, output: Tensor) -> Tensor:
        value = torch.stack([stream(output) for stream in self.value], dim=-2).unsqueeze(-2)
        advantage = torch.stack([stream(output) for stream in self.advantage], dim=-2)
        advantage = advantage.unflatten(-1, (self.num_actions, self.config.atoms))
        return value + advantage - advantage.mean(dim=-2, keepdim=True)


def _stream(hidden: int, outputs: int) -> nn.Module:
    # Without the norm, values run away under many updates of little data.
    return nn.Sequential(nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, outputs))
