"""Struct-VRNN: keypoints of video and their futures, learned from frames alone (Minderer et al. 2019)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kpagent.dynamics.configuration import DynamicsConfig, StructVRNNConfig
from kpagent.dynamics.frame_code import PerceptionCode, new_frame_code
from kpagent.dynamics.vrnn import VRNN, Belief
from kpagent.errors import UsageError
from kpagent.files import from_header, load_tensors, require_fit, require_kind, save_tensors
from kpagent.keypoints import Keypoints
from kpagent.perception.detector import KeypointDetector
from kpagent.perception.methods import detector_from_tensors

FORMAT = 1
KIND = "struct_vrnn"
PERCEPTION = "code.perception."
"""How the names of a perception model's tensors begin."""
CHUNK = 256
"""Frames at a time, where no gradient is wanted."""


class StructVRNN(nn.Module):
    """The model: `loss` to train it, `encode`, `observe`, `imagine` and `render` to use it.

    Args:
        config: its shape.
        provenance: what its weights came from, as JSON values; it travels in the header of every file that `save` writes.
        perception: the model whose keypoints are the code, where the configuration's code is of kind perception; `on` makes
            such a configuration.

    Raises:
        UsageError: a perception model is missing, not wanted, or has another K or image size.

    Attributes:
        code: between frames and codes.
        dynamics: of codes; its errors do not reach `code` (section 4.1).
    """

    def __init__(
        self,
        config: StructVRNNConfig,
        provenance: Mapping[str, Any] | None = None,
        perception: KeypointDetector | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.provenance: dict[str, Any] = dict(provenance or {})
        self.code = new_frame_code(config.code, perception)
        self.dynamics = VRNN(config.dynamics, config.code.size)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def on(cls, perception: KeypointDetector, config: StructVRNNConfig | None = None) -> StructVRNN:
        """A model of the futures of another model's keypoints, such as a Transporter's, which stay as they are.

        Args:
            perception: a trained model.
            config: of the rest; `fast`, if not given. K, the image size and the kind of code become what is needed.

        Raises:
            UsageError: frames of the perception model's size do not fit the configuration's scales.
        """
        base = config or StructVRNNConfig.fast()
        return cls(base.on(perception.num_keypoints, perception.image_size), perception=perception)

    @classmethod
    def with_code_of(cls, other: StructVRNN, dynamics: DynamicsConfig) -> StructVRNN:
        """A model with the code of another, keypoints and painter, and dynamics that have learned nothing yet.

        Args:
            other: a trained model.
            dynamics: of the new one.
        """
        inner = other.code.perception if isinstance(other.code, PerceptionCode) else None
        model = cls(StructVRNNConfig(other.config.code, dynamics), perception=inner)
        model.code.load_state_dict(other.code.state_dict())
        return model

    @property
    def image_size(self) -> int:
        """Height and width, in pixels, of the frames that the networks see; others are resized."""
        return self.config.code.image_size

    @property
    def num_keypoints(self) -> int:
        """K."""
        return self.config.code.num_keypoints

    @property
    def feature_dim(self) -> int:
        """D of the keypoints that `encode` gives: none."""
        return 0

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The combined loss of a batch of sequences (Eq. 9).

        Args:
            batch: as of `FrameCode.loss`, with T + ΔT frames, and of `VRNN.loss` but for its codes.
        """
        loss, metrics, codes = self.code.loss_and_codes(batch)
        # bfloat16 would round coordinates to an eighth of a pixel of 64.
        with torch.autocast(self.device.type, enabled=False):
            in_time, others = self.dynamics.loss({**batch, "codes": codes})
        return loss + in_time, metrics | others

    @torch.no_grad()
    def encode(self, frames: Any) -> Keypoints:
        """Keypoints of a batch of frames, each by itself.

        Args:
            frames: (N, H, W, 3) uint8, an array or a tensor of any height and width.

        Returns:
            Keypoints of float32 tensors: xy (N, K, 2); presence (N, K), μ as a share of the largest of the frame; features
            with D = 0.

        Raises:
            UsageError: this model's codes are vectors without structure.
            TypeError: not uint8.
            ValueError: not (N, H, W, 3).
        """
        self._require_keypoints()
        return to_keypoints(self.encode_sequence(frames[None])[0])

    @torch.no_grad()
    def encode_sequence(self, frames: Any) -> Tensor:
        """Codes (B, T, 3K) of sequences of frames (B, T, H, W, 3) uint8: for keypoints, a triplet (x, y, μ) of each."""
        images = self.code.to_images(frames)
        parts = images.flatten(0, 1).split(CHUNK)
        with _evaluating(self.code):
            return torch.cat([self.code.read(part) for part in parts]).unflatten(0, images.shape[:2])

    def observe(self, frames: Any, actions: Any = None, *, seed: int | None = None) -> tuple[Belief, Tensor]:
        """Take in sequences of frames, or of codes.

        Args:
            frames: (B, T, H, W, 3) uint8, or codes (B, T, 3K) as of `encode_sequence`.
            actions: as of `VRNN.observe`.
            seed: as of `VRNN.observe`.

        Returns:
            The belief after the last frame, and the codes of the frames as they were decoded, (B, T, 3K).
        """
        codes = frames if frames.ndim == 3 else self.encode_sequence(frames)
        return self.dynamics.observe(_tensor(codes, self.device), _tensor(actions, self.device), seed=seed)

    def imagine(self, belief: Belief, steps: int, *, samples: int = 1, actions: Any = None, seed: int = 0) -> Tensor:
        """Futures as codes, (B, samples, steps, 3K); as of `VRNN.imagine`."""
        return self.dynamics.imagine(belief, steps, samples=samples, actions=_tensor(actions, self.device), seed=seed)

    @torch.no_grad()
    def render(self, first_frames: Any, codes: Tensor) -> np.ndarray:
        """Frames from codes.

        Args:
            first_frames: (B, H, W, 3) uint8, the first of each sequence.
            codes: (B, T, 3K).

        Returns:
            (B, T, S, S, 3) uint8.
        """
        first = self.code.to_images(first_frames[:, None])[:, 0]
        length = max(1, CHUNK // len(first))
        with _evaluating(self.code):
            first_codes = self.code.read(first)
            painted = [self.code.paint(first, first_codes, part) for part in codes.to(self.device).split(length, dim=1)]
        pixels = torch.cat(painted, dim=1).clamp(0, 1).mul(255).round().to(torch.uint8)
        return pixels.permute(0, 1, 3, 4, 2).cpu().numpy()

    def save(self, path: str | Path) -> None:
        """Write weights, configuration and provenance to one safetensors file.

        Raises:
            UsageError: the file cannot be written.
        """
        save_tensors(path, *self.pack())

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors and the header that `save` writes, which `from_tensors` takes."""
        header = {"format": FORMAT, "model": KIND, "config": self.config.to_dict(), "provenance": self.provenance}
        tensors = self.state_dict()
        if isinstance(self.code, PerceptionCode):
            inner, header["perception"] = self.code.perception.pack()
            tensors = {name: value for name, value in tensors.items() if not name.startswith(PERCEPTION)}
            tensors |= {PERCEPTION + name: value for name, value in inner.items()}
        return tensors, header

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> StructVRNN:
        """Read what `save` wrote.

        Raises:
            UsageError: no such file, damaged, altered, of another model or version, or tensors that do not fit.
        """
        return cls.from_tensors(*load_tensors(path), path).to(device)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any], path: str | Path) -> StructVRNN:
        """The model that tensors and header describe, in evaluation mode on the CPU.

        Args:
            tensors: by name.
            header: as `save` writes.
            path: where they came from, for messages.

        Raises:
            UsageError: of another model or version, or tensors that do not fit.
        """
        require_kind(path, header, KIND, FORMAT)
        perception = None
        if "perception" in header:
            inner = {name: value for name, value in tensors.items() if name.startswith(PERCEPTION)}
            tensors = {name: value for name, value in tensors.items() if name not in inner}
            if not isinstance(header["perception"], dict):
                raise UsageError(f"{path} has no valid configuration of its perception model")
            inner = {name.removeprefix(PERCEPTION): value for name, value in inner.items()}
            perception = detector_from_tensors(inner, header["perception"], path)
        about = header.get("provenance")
        model = from_header(path, lambda: cls(StructVRNNConfig.from_dict(header["config"]), about, perception))
        own = {name: value for name, value in model.state_dict().items() if not name.startswith(PERCEPTION)}
        require_fit(path, tensors, own)
        # Not strictly: the perception model has its tensors already.
        model.load_state_dict(tensors, assign=True, strict=False)
        return model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def _require_keypoints(self) -> None:
        if not self.config.code.has_keypoints:
            raise UsageError("this model codes frames by vectors without structure: it has no keypoints")


def to_keypoints(codes: Tensor) -> Keypoints:
    """Codes (..., 3K) of triplets (x, y, μ) as `Keypoints`; presence is μ as a share of the largest of the frame."""
    triplets = codes.unflatten(-1, (-1, 3))
    scale = triplets[..., 2].clamp_min(0)
    presence = scale / scale.amax(dim=-1, keepdim=True).clamp_min(1e-12)
    return Keypoints(triplets[..., :2], presence, triplets[..., :0])


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Normalisation by what was learned, in a training too, where a batch would else change what comes of a frame."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _tensor(values: Any, device: torch.device) -> Any:
    return None if values is None else torch.as_tensor(values, dtype=torch.float32, device=device)
