"""The learner of keypoint options: K × 4 Q-functions of where keypoints go (Transporter section 3.2.2).

Rewards are not kept: they are what the keypoints of the day see in the frames that are sampled, so that no reward in the
replay is out of date. Who trains the keypoints is `kpagent.perception.online`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kpagent.agents.intrinsic import control_gap, directional_rewards
from kpagent.agents.option_network import OptionNetwork
from kpagent.agents.targets import q_lambda_targets
from kpagent.collect.frame_replay import FRAME
from kpagent.collect.replay import Segments
from kpagent.fields import require
from kpagent.perception.detector import KeypointDetector
from kpagent.training import prefers_bf16


@dataclass(frozen=True)
class OptionLearningConfig:
    """How the Q-functions learn. Of these the paper gives n-step Q(λ) and no value."""

    learning_rate: float = 3e-4
    """Adam's."""
    batch_size: int = 16
    """Segments an update."""
    sequence_length: int = 21
    """Rows of a segment; all but the last are learned from."""
    discount: float = 0.95
    """γ of an interaction."""
    trace: float = 0.9
    """λ."""
    cut_traces: bool = False
    """Cut traces where the action taken is not the Q-function's own (Watkins); without, Peng's Q(λ)."""
    reward_scale: float = 10.0
    """Rewards are multiplied by it: an avatar moves by some 0.03 an interaction."""
    largest_move: float = 0.15
    """What goes farther in one interaction was lost and found again elsewhere: it counts as no move."""
    tau: float = 0.01
    """How far the target network moves towards the network at each update."""
    max_grad_norm: float = 10.0
    """Gradients are scaled down to it."""

    def __post_init__(self) -> None:
        checks = {
            "learning_rate must be positive": self.learning_rate > 0,
            "batch_size must be at least 1": self.batch_size >= 1,
            "sequence_length must be at least 2": self.sequence_length >= 2,
            "discount must be in [0, 1)": 0 <= self.discount < 1,
            "trace must be in [0, 1]": 0 <= self.trace <= 1,
            "reward_scale must be positive": self.reward_scale > 0,
            "largest_move must be positive": self.largest_move > 0,
            "tau must be in (0, 1]": 0 < self.tau <= 1,
            "max_grad_norm must be positive": self.max_grad_norm > 0,
        }
        require(self, checks)


class OptionLearner:
    """Updates K × 4 Q-functions on everybody's experience.

    Args:
        network: of the Q-functions, on its device.
        perception: finds the K keypoints; somebody else trains it.
        config: how.

    Attributes:
        target: the network that targets come from.
        updates: done so far.
    """

    def __init__(self, network: OptionNetwork, perception: KeypointDetector, config: OptionLearningConfig) -> None:
        self.network, self.perception, self.config = network, perception, config
        self.device = network.head.weight.device
        self.target = OptionNetwork(network.num_keypoints, network.num_actions, network.config).to(self.device)
        self.target.load_state_dict(network.state_dict())
        self.target.requires_grad_(False)
        self.optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, eps=1e-5)
        self.updates = 0
        self._bf16 = prefers_bf16(self.device)

    def update(self, segments: Segments) -> dict[str, Tensor]:
        """One optimiser step; returns figures, still on the device.

        Returns:
            `loss`; `displacement` (4,), mean move of a keypoint an interaction, in coordinates, along the direction that was
            being followed, for each direction; `gap` (K,), mean of Eq. 2.
        """
        loss, figures = self.loss(segments)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.network.parameters(), strict=True):
                slow.lerp_(fast, self.config.tau)
        self.updates += 1
        return figures

    def loss(self, segments: Segments) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean Huber loss of every Q-function's value of the action taken, against its Q(λ) return."""
        config = self.config
        action, terminated, first, usable, option = (
            torch.as_tensor(array, device=self.device)
            for array in (
                segments.action,
                segments.terminated,
                segments.first,
                segments.usable(),
                segments.observation["option"],
            )
        )
        frames = segments.observation[FRAME]
        state = {name: torch.as_tensor(part, device=self.device) for name, part in segments.state.items()}
        begins = torch.zeros_like(first)
        begins[:, 0] = first[:, 0]
        shown = torch.as_tensor(frames, device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            images = self.network.images(shown)
            with torch.no_grad():
                target_values, _ = self.target.recur(self.target.see(images), begins, state)
            values, _ = self.network.recur(self.network.see(images), begins, state)
        with torch.no_grad():
            xy = self.perception.encode(frames.reshape(-1, *frames.shape[2:]), features=False).xy.to(self.device)
            xy = xy.unflatten(0, frames.shape[:2])
            moved = directional_rewards(xy[:, :-1], xy[:, 1:])
            far = moved.abs().amax(dim=-1, keepdim=True) > config.largest_move
            # What a life's last interaction does to the keypoints is not known.
            moved = moved.masked_fill(far | terminated[:, :-1, None, None], 0.0)
            greedy = values.argmax(dim=-1)
            best = target_values.gather(-1, greedy.unsqueeze(-1)).squeeze(-1)
            own = greedy == action[:, :, None, None]
            trace = config.trace * (own.float() if config.cut_traces else torch.ones_like(best))
            goal = q_lambda_targets(
                config.reward_scale * moved,
                terminated[:, :-1],
                usable[:, :-1],
                best[:, 1:],
                trace[:, 1:],
                config.discount,
            )
        taken = values[:, :-1].gather(-1, action[:, :-1, None, None, None].expand(*goal.shape, 1)).squeeze(-1)
        learned = usable[:, :-1]
        losses = F.smooth_l1_loss(taken[learned], goal[learned], reduction="none")
        loss = losses.sum() / max(1, losses.numel())
        return loss, {
            "loss": loss.detach(),
            "displacement": _along(moved, option[:, :-1], learned & ~terminated[:, :-1]),
            "gap": control_gap(values.detach()[:, :-1][learned]).mean(dim=0),
        }


def _along(moved: Tensor, option: Tensor, counts: Tensor) -> Tensor:
    """(4,) mean of (B, T, K, 4) moves along the option that was followed, by its direction; NaN where it never was."""
    keypoint, direction = option[counts].unbind(-1)
    rows = moved[counts]
    followed = rows[torch.arange(len(rows), device=rows.device), keypoint, direction]
    return torch.stack([followed[direction == j].mean() for j in range(moved.shape[-1])])
