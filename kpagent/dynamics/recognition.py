"""Actions recognised from the codes of a sequence of frames (Struct-VRNN section 5.4, S2.1 of the preprint)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kpagent.dynamics.rewards import dynamics_digest
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.errors import UsageError
from kpagent.fields import is_whole, require
from kpagent.files import from_header, load_tensors, require_fit, require_kind, save_tensors

FORMAT = 1
KIND = "recognition"
TRUTH = "truth"
"""The source of codes that are true positions."""
SMALLEST_SCALE = 1e-3
"""Of a number of the codes: those that hardly change are not blown up."""


@dataclass(frozen=True)
class RecognitionConfig:
    """Which actions are recognised, and from what."""

    classes: tuple[str, ...]
    """Names, in the order of the labels of the sequences."""
    inputs: int
    """D, numbers in the code of a frame."""
    source: str
    """`code_source` of the codes."""
    units: int = 128
    """Of each GRU."""
    dropout: float = 0.25
    """Share of what each GRU gives that is left out in training."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        named = len(self.classes) >= 2 and all(isinstance(name, str) and name for name in self.classes)
        share = isinstance(self.dropout, int | float) and not isinstance(self.dropout, bool)
        checks = {
            "classes must be two names or more, each once": named and len(set(self.classes)) == len(self.classes),
            "inputs must be a whole number of at least 1": is_whole(self.inputs) and self.inputs >= 1,
            "source must be a digest or truth": isinstance(self.source, str),
            "units must be a whole number from 1 to 4096": is_whole(self.units) and 1 <= self.units <= 4096,
            "dropout must be at least 0 and below 1": share and 0 <= self.dropout < 1,
        }
        require(self, checks)


class ActionRecognizer(nn.Module):
    """Two GRU layers, each followed by dropout, and a dense layer with a softmax on what the last frame left behind (S2.1).

    Codes are taken in units of their deviations.

    Args:
        config: its shape.
        provenance: what its weights came from, as JSON values.
    """

    def __init__(self, config: RecognitionConfig, provenance: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config
        self.provenance: dict[str, Any] = dict(provenance or {})
        self.first = nn.GRU(config.inputs, config.units, batch_first=True)
        self.second = nn.GRU(config.units, config.units, batch_first=True)
        self.classify = nn.Linear(config.units, len(config.classes))
        self.register_buffer("code_mean", torch.zeros(config.inputs))
        self.register_buffer("code_scale", torch.ones(config.inputs))
        self.code_mean: Tensor
        self.code_scale: Tensor

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, with dropout.

        Args:
            batch: `codes` (B, T, D), `labels` (B,) and `seed`, a whole number, of what is left out.

        Returns:
            The loss, and the share of `accuracy` in training, both of the batch.
        """
        codes, labels = (torch.as_tensor(batch[name], device=self.code_mean.device) for name in ("codes", "labels"))
        draws = torch.Generator(self.code_mean.device).manual_seed(int(batch["seed"]))
        scores = self._scores(codes.float(), draws)
        return F.cross_entropy(scores, labels), {"accuracy": (scores.argmax(dim=-1) == labels).float().mean().detach()}

    @torch.no_grad()
    def predict(self, codes: Tensor) -> Tensor:
        """How probable each class is.

        Args:
            codes: (B, T, D), of `StructVRNN.encode_sequence` or true positions, as it was learned from.

        Returns:
            (B, C), the softmax; C classes in the order of `config.classes`.

        Raises:
            ValueError: codes of another width.
        """
        if codes.ndim != 3 or codes.shape[-1] != self.config.inputs:
            raise ValueError(f"codes must be (B, T, {self.config.inputs}), not {tuple(codes.shape)}")
        return self._scores(codes.float()).softmax(dim=-1)

    def require_model(self, model: StructVRNN) -> None:
        """Refuse a model that is not the one from whose codes these actions were learned.

        Raises:
            UsageError: another.
        """
        if code_source(model) != self.config.source:
            raise UsageError("these actions were learned from the codes of another model: give that, or learn them anew")

    def save(self, path: str | Path) -> None:
        """Write weights, configuration and provenance to one safetensors file.

        Raises:
            UsageError: the file cannot be written.
        """
        config = dataclasses.asdict(self.config)
        header = {"format": FORMAT, "model": KIND, "config": config, "provenance": self.provenance}
        save_tensors(path, self.state_dict(), header)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> ActionRecognizer:
        """Read what `save` wrote.

        Raises:
            UsageError: no such file, damaged, altered, of another model or version, or tensors that do not fit.
        """
        tensors, header = load_tensors(path)
        require_kind(path, header, KIND, FORMAT)
        model = from_header(path, lambda: cls(RecognitionConfig(**header["config"]), header.get("provenance")))
        require_fit(path, tensors, model.state_dict())
        model.load_state_dict(tensors, assign=True)
        return model.to(device).eval()

    def _scores(self, codes: Tensor, draws: torch.Generator | None = None) -> Tensor:
        seen, _ = self.first((codes - self.code_mean) / self.code_scale)
        _, last = self.second(self._dropped(seen, draws))
        scores: Tensor = self.classify(self._dropped(last[0], draws))
        return scores

    def _dropped(self, values: Tensor, draws: torch.Generator | None) -> Tensor:
        """Not torch's own dropout, which draws from what no checkpoint holds."""
        if draws is None or not self.config.dropout:
            return values
        kept = torch.rand(values.shape, generator=draws, device=values.device) >= self.config.dropout
        return values * kept / (1 - self.config.dropout)


def code_source(model: StructVRNN | None) -> str:
    """What codes come from: SHA-256 of the parameters of a model's code, whatever its dynamics; `TRUTH` without a model."""
    return TRUTH if model is None else dynamics_digest(model.code)
