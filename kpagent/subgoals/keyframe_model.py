"""What KeyIn and the models it is compared with have in common: a configuration, where they came from, and a file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from kpagent.errors import UsageError
from kpagent.files import from_header, load_tensors, require_fit, require_kind, save_tensors
from kpagent.subgoals.configuration import KeyInConfig
from kpagent.subgoals.perceived import Perception, pack_beside, unpack_beside

FORMAT = 1


class KeyframeModel(nn.Module, ABC):
    """A model of sequences that finds keyframes; what it is made of is all in its configuration.

    Args:
        config: its shape.
        provenance: what its weights came from, as JSON values; it travels in the header of every file that `save` writes.
    """

    kind: ClassVar[str]
    """Of the model, as files name it."""

    def __init__(self, config: KeyInConfig, provenance: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config
        self.provenance: dict[str, Any] = dict(provenance or {})
        # Not a part, as modules have parts: it is not trained, and does not belong in a checkpoint.
        self._perceived: tuple[Perception, ...] = ()

    @property
    def perception(self) -> Perception | None:
        """The model whose keypoints are the codes that this one has learned from; None where it has none with it."""
        if not self._perceived:
            return None
        (perception,) = self._perceived
        # Only where it has to: to move it is to lose what it prepared for speed.
        return perception if perception.device == self.device else perception.to(self.device)

    def attach(self, perception: Perception | None) -> Self:
        """Keep a perception model with this one, in its file too, so that it takes frames where it takes codes.

        Args:
            perception: a trained model, which stays as it is; None for none.

        Raises:
            UsageError: its keypoints are not the codes of this model: two numbers each, K after K.
        """
        codec = self.config.codec
        if perception is not None and (codec.kind != "codes" or codec.size != 2 * perception.num_keypoints):
            learned = "frames" if codec.kind == "frames" else f"codes of {codec.size} numbers"
            raise UsageError(
                f"the model learns from {learned}, not from {perception.num_keypoints} keypoints of two numbers"
            )
        self._perceived = () if perception is None else (perception.requires_grad_(False).eval(),)
        return self

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @abstractmethod
    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise, a mean over sequences, and its parts.

        Args:
            batch: `frames`, (B, L, H, W, 3) uint8, or `codes`, (B, L, D); `seed`, of what is drawn.
        """

    def save(self, path: str | Path) -> None:
        """Write weights, configuration and provenance to one safetensors file.

        Raises:
            UsageError: the file cannot be written.
        """
        header = {"format": FORMAT, "model": self.kind, "config": self.config.to_dict(), "provenance": self.provenance}
        save_tensors(path, *pack_beside(self.state_dict(), header, self.perception))

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> Self:
        """Read what `save` wrote.

        Raises:
            UsageError: no such file, damaged, altered, of another model or version, or tensors that do not fit.
        """
        tensors, header = load_tensors(path)
        require_kind(path, header, cls.kind, FORMAT)
        tensors, perception = unpack_beside(tensors, header, path)
        model = from_header(path, lambda: cls(KeyInConfig.from_dict(header["config"]), header.get("provenance")))
        require_fit(path, tensors, model.state_dict())
        model.load_state_dict(tensors, assign=True)
        model.attach(perception)
        return model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
