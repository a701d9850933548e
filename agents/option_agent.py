"""A trained set of keypoint options, and how it is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kpagent.agents.agent_file import load_agent, save_agent
from kpagent.agents.option_network import OptionNetwork, OptionNetworkConfig
from kpagent.agents.recurrence import State
from kpagent.errors import UsageError
from kpagent.frames import resize
from kpagent.training import pick_device

ALGORITHM = "KeypointOptions"
"""What the file says it holds."""


class OptionAgent:
    """Q-functions of K keypoints and four directions: what moves a keypoint where, learned without rewards.

    Args:
        network: its Q-functions.
        commitment: T, interactions for which an option is kept.
        provenance: what it learned from, as JSON values.
    """

    def __init__(self, network: OptionNetwork, commitment: int, provenance: Mapping[str, Any] | None = None) -> None:
        self.network, self.commitment, self.provenance = network.eval(), commitment, dict(provenance or {})

    @property
    def num_keypoints(self) -> int:
        """K."""
        return self.network.num_keypoints

    @torch.no_grad()
    def values(self, frames: np.ndarray, first: np.ndarray, state: State | None) -> tuple[Tensor, State]:
        """Q-values of one frame of each of N copies.

        Args:
            frames: (N, H, W, 3) uint8 of any size.
            first: (N,) bool, an episode begins.
            state: after the frame before; None at the beginning.

        Returns:
            (N, K, 4, A), and the state after this frame.
        """
        size, device = self.network.config.image_size, self.network.head.weight.device
        small = frames if frames.shape[1:3] == (size, size) else resize(frames, size)
        state = self.network.initial_state(len(frames)) if state is None else state
        begins = torch.as_tensor(np.asarray(first, bool), device=device).unsqueeze(1)
        values, state = self.network(torch.as_tensor(small, device=device).unsqueeze(1), begins, state)
        return values[:, 0], state

    def save(self, path: str | Path) -> None:
        """Write the agent to one safetensors file, without anything pickled.

        Raises:
            UsageError: the file cannot be written.
        """
        about = {
            "algorithm": ALGORITHM,
            "keypoints": self.num_keypoints,
            "actions": self.network.num_actions,
            "network": dataclasses.asdict(self.network.config),
            "commitment": self.commitment,
            "provenance": self.provenance,
        }
        save_agent(path, about, {"network": self.network.state_dict()}, {"state": {}, "param_groups": []})

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> OptionAgent:
        """Read what `save` wrote; nothing in the file can run code.

        Raises:
            UsageError: no such file, damaged or altered, or no options.
        """
        about, tensors, _ = load_agent(path, ALGORITHM)
        try:
            config = OptionNetworkConfig(**about["network"])
            network = OptionNetwork(about["keypoints"], about["actions"], config)
            network.load_state_dict(tensors["network"])
            return cls(network.to(pick_device(device)), int(about["commitment"]), about["provenance"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            reason = " ".join(str(error).split())
            raise UsageError(f"{path} does not hold what its own description asks for: {reason}") from None
