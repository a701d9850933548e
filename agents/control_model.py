"""A world of keypoints and rewards to plan in: a Struct-VRNN with actions, and what says the reward of its states."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kpagent.agents.imagination import Imagination
from kpagent.dynamics.configuration import StructVRNNConfig
from kpagent.dynamics.frame_code import KeypointCode
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.dynamics.vrnn import Belief
from kpagent.errors import UsageError
from kpagent.fields import require, require_types
from kpagent.files import from_header, load_tensors, require_fit, require_kind, save_tensors

FORMAT = 1
KIND = "control"
SMALLEST_SCALE = 0.02
"""Of a number of a code: what hardly changes is not blown up. The image is 2 wide."""


@dataclass(frozen=True)
class RewardReadConfig:
    """How rewards are read off what the dynamics hold."""

    units: int = 64
    """Of each of two layers."""
    weight: float = 4.0
    """Of a reward's squared error, in units of the rewards' variance, beside the errors of codes."""
    shapes: bool = True
    """Whether errors of rewards reach the dynamics; without, these learn from frames and actions alone."""

    def __post_init__(self) -> None:
        require_types(self)
        require(self, {"units must be from 1 to 4096": 1 <= self.units <= 4096, "weight must be positive": self.weight > 0})


@dataclass(frozen=True)
class Sight:
    """What was seen of late: as many frames as are observed in training, of which those before an episode are its first.

    Attributes:
        codes: (T, D), scaled.
        actions: (T - 1, A) in [-1, 1], between the frames.
        belief: of (1, ...), what the dynamics make of them.
    """

    codes: Tensor
    actions: Tensor
    belief: Belief


class ControlModel(nn.Module):
    """The world that `KeypointMPC` plans in; `loss` trains dynamics and rewards on codes.

    Codes are in units of their deviations, so that every keypoint counts alike however little it moves. A reward is read off
    h before a frame and z of that frame, and is the one that came with it; h knows the action that led there.

    Args:
        config: of the Struct-VRNN, with actions and keypoints.
        rewards: how they are read.
        provenance: what its weights came from, as JSON values.

    Raises:
        UsageError: a model without actions, or whose code is not its own keypoints.

    Attributes:
        world: frames, codes and dynamics.
    """

    def __init__(
        self,
        config: StructVRNNConfig,
        rewards: RewardReadConfig | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not config.dynamics.actions:
            raise UsageError("a model to plan in needs actions")
        if config.code.kind != "keypoints":
            raise UsageError(f"a model to plan in needs keypoints of its own as code, not {config.code.kind}")
        self.config, self.reading = config, rewards or RewardReadConfig()
        self.provenance: dict[str, Any] = dict(provenance or {})
        self.world = StructVRNN(config)
        dynamics, units = self.world.dynamics, self.reading.units
        held = config.dynamics.rnn_units + dynamics.latent
        self.head = nn.Sequential(nn.Linear(held, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, 1))
        for name, size in (("code", (dynamics.size,)), ("reward", ())):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))
        self.code_mean: Tensor
        self.code_scale: Tensor
        self.reward_mean: Tensor
        self.reward_scale: Tensor
        self._imagination: Imagination | None = None

    @property
    def code(self) -> KeypointCode:
        """Frames to keypoints."""
        assert isinstance(self.world.code, KeypointCode)
        return self.world.code

    @property
    def actions(self) -> int:
        """A, numbers in an action."""
        return self.config.dynamics.actions

    @property
    def observed(self) -> int:
        """T, frames from which a belief is made."""
        return self.config.dynamics.observed

    # Learning

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the dynamics (Struct-VRNN Eq. 6 to 8) and the squared errors of rewards, summed over time.

        Args:
            batch: as of `EpisodeReplay.windows`, with T + ΔT frames, and `seed` of what is drawn. Codes and rewards are as
                they are, not scaled.
        """
        device = self.code_mean.device
        codes, rewards = self.scaled(batch["codes"].to(device)), batch["rewards"].to(device)
        given = {"codes": codes, "actions": batch["actions"], "progress": 1.0, "seed": batch["seed"]}
        loss, metrics, beliefs = self.world.dynamics.loss_and_beliefs(given)
        held = torch.cat([beliefs.hidden, beliefs.latent], dim=-1)[:, 1:]
        guess = self.head(held if self.reading.shapes else held.detach()).squeeze(-1)
        away = (guess - (rewards - self.reward_mean) / self.reward_scale).square() * batch["known"].to(device)
        observed = self.observed - 1
        error = away.mean(dim=0)
        metrics |= {"rewards": error[:observed].mean().detach(), "rewards_imagined": error[observed:].mean().detach()}
        return loss + self.reading.weight * error.sum(), metrics

    def set_units(self, codes: Tensor, rewards: Tensor) -> None:
        """Let codes (N, D) and rewards (M,) say in what units both are learned."""
        self.code_mean.copy_(codes.mean(dim=0))
        self.code_scale.copy_(codes.std(dim=0).clamp_min(SMALLEST_SCALE))
        self.reward_mean.copy_(rewards.mean())
        # Rewards that never change are their mean.
        self.reward_scale.copy_(rewards.std() if float(rewards.std()) > 0 else rewards.new_ones(()))

    def scaled(self, codes: Tensor) -> Tensor:
        """Codes (..., D) in the units of the dynamics."""
        return (codes - self.code_mean) / self.code_scale

    def train(self, mode: bool = True) -> ControlModel:
        """As of `torch.nn.Module`; weights that learn on are read anew for the next plan."""
        super().train(mode)
        self._imagination = None
        return self

    # Use

    @torch.no_grad()
    def encode(self, frames: np.ndarray) -> Tensor:
        """Codes (N, D) of frames (N, H, W, 3) uint8, not scaled."""
        return self.world.encode_sequence(frames[None])[0]

    def begin(self, frame: np.ndarray) -> Sight:
        """What is held after the first frame (H, W, 3) uint8 of an episode."""
        codes = self.scaled(self.encode(frame[None])).expand(self.observed, -1)
        return self._look(codes, codes.new_zeros(self.observed - 1, self.actions))

    def follow(self, state: Sight, action: Tensor, frame: np.ndarray) -> Sight:
        """What is held after an action (A,) in [-1, 1] and the frame that it led to."""
        code = self.scaled(self.encode(frame[None]))
        actions = torch.cat([state.actions, action.to(code)[None]])[1:]
        return self._look(torch.cat([state.codes[1:], code]), actions)

    @torch.no_grad()
    def foresee(self, state: Sight, actions: Tensor, *, futures: int = 0, seed: int = 0) -> Tensor:
        """The rewards that actions would bring.

        Args:
            state: now.
            actions: (N, T, A) in [-1, 1], N ways to act.
            futures: samples of the latent beliefs, the same for all N, over which rewards are averaged; 0 follows the mean
                of the beliefs instead.
            seed: of the samples.

        Returns:
            (N, T), in the environment's units.
        """
        if self._imagination is None:
            self._imagination = Imagination(self.world.dynamics, self.head)
        rewards = self._imagination(state.belief, actions.to(self.code_mean), futures=futures, seed=seed)
        return rewards * self.reward_scale + self.reward_mean

    def places(self, state: Sight) -> np.ndarray:
        """(K, 2) coordinates of the keypoints in the last frame."""
        code = state.codes[-1] * self.code_scale + self.code_mean
        return code.unflatten(-1, (-1, 3))[:, :2].cpu().numpy()

    def _look(self, codes: Tensor, actions: Tensor) -> Sight:
        belief, _ = self.world.dynamics.observe(codes[None], actions[None])
        return Sight(codes, actions, belief)

    # Files

    def save(self, path: str | Path) -> None:
        """Write weights, configuration and provenance to one safetensors file.

        Raises:
            UsageError: the file cannot be written.
        """
        header = {
            "format": FORMAT,
            "model": KIND,
            "config": self.config.to_dict(),
            "rewards": dataclasses.asdict(self.reading),
            "provenance": self.provenance,
        }
        save_tensors(path, self.state_dict(), header)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> ControlModel:
        """Read what `save` wrote.

        Raises:
            UsageError: no such file, damaged, altered, of another model or version, or tensors that do not fit.
        """
        tensors, header = load_tensors(path)
        require_kind(path, header, KIND, FORMAT)

        def make() -> ControlModel:
            config, reading = StructVRNNConfig.from_dict(header["config"]), RewardReadConfig(**header["rewards"])
            return cls(config, reading, header.get("provenance"))

        model = from_header(path, make)
        require_fit(path, tensors, model.state_dict())
        model.load_state_dict(tensors, assign=True)
        return model.to(device).eval()
