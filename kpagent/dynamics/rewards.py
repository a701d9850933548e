"""Rewards read off what a dynamics model holds of a sequence (Struct-VRNN section 5.5, S2.2)."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.dynamics.vrnn import Belief
from kpagent.errors import UsageError
from kpagent.fields import is_whole, require
from kpagent.files import from_header, load_tensors, require_fit, require_kind, save_tensors

FORMAT = 1
KIND = "rewards"
SMALLEST_SCALE = 1e-2
"""Of a number of the states: those that hardly change are not blown up."""


@dataclass(frozen=True)
class RewardConfig:
    """Whose rewards are predicted, and from what."""

    domains: tuple[str, ...]
    """Names, in the order of the labels of the sequences."""
    inputs: int
    """D, numbers in a state."""
    dynamics: str
    """`dynamics_digest` of the model whose states are read."""
    units: int = 128
    """Of the dense layer and of each GRU."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "domains", tuple(self.domains))
        named = bool(self.domains) and all(isinstance(name, str) and name for name in self.domains)
        checks = {
            "domains must be names, each once": named and len(set(self.domains)) == len(self.domains),
            "inputs must be a whole number of at least 1": is_whole(self.inputs) and self.inputs >= 1,
            "dynamics must be a digest": isinstance(self.dynamics, str),
            "units must be a whole number from 1 to 4096": is_whole(self.units) and 1 <= self.units <= 4096,
        }
        require(self, checks)


class RewardHead(nn.Module):
    """A dense layer, two GRU layers and a dense layer, with rectifiers in between (S2.2).

    Args:
        inputs: D.
        units: of all but the last.
    """

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.widen = nn.Linear(inputs, units)
        self.first = nn.GRU(units, units, batch_first=True)
        self.second = nn.GRU(units, units, batch_first=True)
        self.narrow = nn.Linear(units, 1)

    def forward(self, states: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """States (B, T, D) to rewards (B, T), and what the GRUs remember, (2, B, units), from before or from the start."""
        before = (None, None) if memory is None else (memory[:1], memory[1:])
        seen, first = self.first(F.relu(self.widen(states)), before[0])
        seen, second = self.second(F.relu(seen), before[1])
        rewards: Tensor = self.narrow(F.relu(seen)).squeeze(-1)
        return rewards, torch.cat([first, second])


class RewardPredictor(nn.Module):
    """A `RewardHead` for each domain; `loss` trains all at once, which share nothing.

    A state is what is held of a sequence after a frame, as `to_states` has it, and its reward the one that came with that
    frame, for the action before it. States and rewards are learned in units of their deviations.

    Args:
        config: its shape.
        provenance: what its weights came from, as JSON values.
    """

    def __init__(self, config: RewardConfig, provenance: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config
        self.provenance: dict[str, Any] = dict(provenance or {})
        self.heads = nn.ModuleList(RewardHead(config.inputs, config.units) for _ in config.domains)
        for name, size in (("state", config.inputs), ("reward", len(config.domains))):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))
        self.state_mean: Tensor
        self.state_scale: Tensor
        self.reward_mean: Tensor
        self.reward_scale: Tensor

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared errors, in units of the variance of each domain's rewards, summed over domains.

        Args:
            batch: of G domains: `observed` (G, B, T, D), states of frames that were seen; `rewards` (G, B, T); `before`, a
                number N below T; `imagined` (G, B, P, D), states of frames N to N + P - 1 as they were imagined after the
                N before them, with N + P at most T.

        Returns:
            The loss, and its parts `observed` and `imagined` as means over domains.
        """
        states, foreseen, rewards = (self._tensor(batch[name]) for name in ("observed", "imagined", "rewards"))
        start, stop = int(batch["before"]), int(batch["before"]) + foreseen.shape[2]
        seen, foretold = [], []
        for domain, head in enumerate(self.heads):
            wanted = (rewards[domain] - self.reward_mean[domain]) / self.reward_scale[domain]
            first, memory = head(self._scaled(states[domain, :, :start]))
            others, _ = head(self._scaled(states[domain, :, start:]), memory)
            seen.append((torch.cat([first, others], dim=1) - wanted).square().mean())
            guess, _ = head(self._scaled(foreseen[domain]), memory)
            foretold.append((guess - wanted[:, start:stop]).square().mean())
        observed, imagined = torch.stack(seen), torch.stack(foretold)
        metrics = {"observed": observed.mean().detach(), "imagined": imagined.mean().detach()}
        return (observed + imagined).sum(), metrics

    @torch.no_grad()
    def predict(self, domain: str, states: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Rewards of a domain.

        Args:
            domain: its name.
            states: (B, T, D).
            memory: what the call for the states before these returned; none at the start of a sequence.

        Returns:
            Rewards (B, T), in the environment's units, and the memory after them, (2, B, units).

        Raises:
            UsageError: no such domain.
            ValueError: states of another width.
        """
        if domain not in self.config.domains:
            raise UsageError(f"there are rewards of {', '.join(self.config.domains)}, not of {domain}")
        if states.ndim != 3 or states.shape[-1] != self.config.inputs:
            raise ValueError(f"states must be (B, T, {self.config.inputs}), not {tuple(states.shape)}")
        number = self.config.domains.index(domain)
        rewards, memory = self.heads[number](self._scaled(states.float()), memory)
        return rewards * self.reward_scale[number] + self.reward_mean[number], memory

    def require_dynamics(self, model: StructVRNN) -> None:
        """Refuse a dynamics model that is not the one whose states these rewards were learned from.

        Raises:
            UsageError: another.
        """
        if dynamics_digest(model) != self.config.dynamics:
            raise UsageError("these rewards were learned from another dynamics model: give that, or learn them anew")

    def save(self, path: str | Path) -> None:
        """Write weights, configuration and provenance to one safetensors file.

        Raises:
            UsageError: the file cannot be written.
        """
        config = dataclasses.asdict(self.config)
        header = {"format": FORMAT, "model": KIND, "config": config, "provenance": self.provenance}
        save_tensors(path, self.state_dict(), header)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> RewardPredictor:
        """Read what `save` wrote.

        Raises:
            UsageError: no such file, damaged, altered, of another model or version, or tensors that do not fit.
        """
        tensors, header = load_tensors(path)
        require_kind(path, header, KIND, FORMAT)
        model = from_header(path, lambda: cls(RewardConfig(**header["config"]), header.get("provenance")))
        require_fit(path, tensors, model.state_dict())
        model.load_state_dict(tensors, assign=True)
        return model.to(device).eval()

    def _tensor(self, values: Any) -> Tensor:
        return torch.as_tensor(values, device=self.state_mean.device).float()

    def _scaled(self, states: Tensor) -> Tensor:
        return (states - self.state_mean) / self.state_scale


def to_states(belief: Belief) -> Tensor:
    """Beliefs (..., ) as states (..., D): h, the decoded code and z, one after the other.

    The paper's hidden state after a frame has been made from these and from the action that led there (S9). Ours takes the
    action on the frame besides, which has not been chosen yet; so a state is what there is before that.
    """
    return torch.cat([belief.hidden, belief.code, belief.latent], dim=-1)


def state_size(model: StructVRNN) -> int:
    """D of the states of a model."""
    return model.config.dynamics.rnn_units + model.dynamics.size + model.dynamics.latent


def dynamics_digest(model: nn.Module) -> str:
    """SHA-256 of a model's parameters, wherever they are: the same before it is saved and after it was loaded."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
