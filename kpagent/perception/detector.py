"""What every keypoint detector shares: the encoders Φ and Ψ, frames to `Keypoints`, and weights on disk.

A method of learning keypoints (`Transporter`, and the published ones it is compared with) is a subclass with a loss: it
says how the two encoders are trained, and holds what else that takes. What is used afterwards is the same for all of them.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from kpagent.errors import UsageError
from kpagent.fields import require
from kpagent.files import load_tensors, require_fit, require_kind, save_tensors
from kpagent.frames import fold_patches, to_cells, to_images
from kpagent.keypoints import Keypoints, gaussian_maps, joint_expectation, marginal_expectation, pool_features
from kpagent.perception.inference import fold
from kpagent.perception.networks import NORMALIZATIONS, Encoder, KeyNet

FORMAT = 1
RELEASED_HEATMAP_STD = 0.1 / math.sqrt(2)
"""exp(-d² / σ²) with σ = 0.1, as the authors of Transporter released it, written as exp(-d² / (2 std²))."""


@dataclass(frozen=True)
class DetectorConfig:
    """The shape of Φ and Ψ, the same for every method. `paper` and `fast` are the presets."""

    num_keypoints: int
    """K, set for each environment."""
    image_size: int = 84
    """Height and width of the frames that the networks see."""
    patch: int = 2
    """Each patch × patch block of pixels becomes the channels of one place before Φ and Ψ, and is unfolded after
    RefineNet; 1 leaves the pixels as they are. Layers at full resolution, with few channels, are where a CPU is slowest."""
    filters: tuple[int, ...] = (16, 32, 32, 32)
    """Channels of each layer of Φ and Ψ; RefineNet has them in reverse. The last is D."""
    strides: tuple[int, ...] = (1, 2, 1, 1)
    """Stride of each layer of Φ and Ψ, 1 or 2."""
    first_kernel: int = 3
    """Kernel size of the first layer (and of RefineNet's last); the others have 3."""
    normalization: Literal["batch", "instance", "layer"] = "batch"
    """Normalisation between each convolution and its ReLU."""
    expectation: Literal["marginal", "joint", "channels"] = "joint"
    """Softmax of each map's marginals, as in the paper, or over all its cells: the latter leaves the centre at smaller
    logits, and so starts to learn sooner."""
    logit_scale: float = 3.0
    """Factor on the maps before their softmax; too small, an object hardly moves the expectation, too large, keypoints
    start frozen where the first weights happened to put them."""
    heatmap_std: float = RELEASED_HEATMAP_STD
    """Standard deviation of the Gaussians, in coordinate units (the image is 2 wide)."""
    difference: bool = False
    """Ψ sees what a frame has other than the background, the median frame. Without walls and floors to tell places by, a
    keypoint goes by what a thing looks like and follows it wherever it goes; things that look alike need the places."""

    @classmethod
    def paper(cls, num_keypoints: int, **changes: Any) -> Self:
        """Transporter Appendix A, at the 128×128 of Appendix B."""
        preset: dict[str, Any] = {
            "image_size": 128,
            "patch": 1,
            "filters": (32, 32, 64, 64, 128, 128),
            "strides": (1, 1, 2, 1, 2, 1),
            "first_kernel": 7,
            "normalization": "batch",
            "expectation": "marginal",
            "logit_scale": 1.0,
        }
        return cls(num_keypoints, **(preset | changes))

    @classmethod
    def fast(cls, num_keypoints: int, **changes: Any) -> Self:
        """Small enough to learn on two cores of a CPU in half an hour; the default everywhere."""
        return cls(num_keypoints, **changes)

    def __post_init__(self) -> None:
        for name in ("filters", "strides"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        require(self, self._checks())

    def _checks(self) -> dict[str, bool]:
        """Whether each field is as it must be, by a message that begins with the field's name."""
        whole = all(isinstance(value, int) for value in (self.num_keypoints, self.image_size, self.patch))
        patched = whole and self.patch >= 1 and self.image_size % self.patch == 0
        return {
            "num_keypoints must be a whole number from 1 to 256": whole and 1 <= self.num_keypoints <= 256,
            "image_size must be a whole number from 16 to 512": whole and 16 <= self.image_size <= 512,
            "patch must be at least 1 and divide image_size": patched,
            "filters and strides must be of one length, from 1 to 32": 1 <= len(self.filters) == len(self.strides) <= 32,
            "filters must be from 1 to 1024": all(isinstance(f, int) and 1 <= f <= 1024 for f in self.filters),
            "strides must be 1 or 2": all(stride in (1, 2) for stride in self.strides),
            "first_kernel must be odd, at most 15": self.first_kernel in range(1, 16, 2),
            f"normalization must be one of {', '.join(NORMALIZATIONS)}": self.normalization in NORMALIZATIONS,
            "expectation must be marginal or joint": self.expectation in ("marginal", "joint"),
            "heatmap_std must be positive": isinstance(self.heatmap_std, int | float) and 0 < self.heatmap_std < 10,
            "logit_scale must be positive": isinstance(self.logit_scale, float) and 0 < self.logit_scale < 1000,
            "difference must be true or false": isinstance(self.difference, bool),
        }


class KeypointDetector(nn.Module, ABC):
    """A model that finds keypoints: `loss` to train it, `encode` to use it. Each method is a subclass.

    Args:
        config: its shape.
        provenance: what its weights came from (environment, frames, steps, seed, versions, figures), as JSON values; it
            travels in the header of every file that `save` writes.

    Attributes:
        features: Φ.
        keynet: Ψ without the expectation.
        background: (3, size, size), what most frames show; None for a model that has no use for it.
        inference_only: whether what the loss needs besides was left out when the weights were saved.
    """

    kind: ClassVar[str]
    """The method's name, in the header of its weights."""
    config_type: ClassVar[type[DetectorConfig]]
    """Of `config`."""
    spare_maps: ClassVar[int] = 0
    """Maps of Ψ that stand for no keypoint; they come last."""
    training_only: ClassVar[tuple[str, ...]] = ()
    """Attributes that the loss needs and `encode` does not; None in weights for inference only."""

    config: DetectorConfig
    background: Tensor | None

    def __init__(self, config: DetectorConfig, provenance: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config
        self.provenance: dict[str, Any] = dict(provenance or {})
        channels = 3 * config.patch**2
        shape = (config.filters, config.strides, config.first_kernel, config.normalization)
        self.features = Encoder(channels, *shape)
        self.keynet = KeyNet(Encoder(channels, *shape), config.filters[-1], config.num_keypoints + self.spare_maps)
        frame = (3, config.image_size, config.image_size)
        self.register_buffer("background", torch.zeros(frame) if config.difference else None)
        self.inference_only = False
        self._folded: dict[str, nn.Module] | None = None

    @property
    def image_size(self) -> int:
        """Height and width, in pixels, of the frames that the networks see; `encode` resizes others."""
        return self.config.image_size

    @property
    def num_keypoints(self) -> int:
        """K."""
        return self.config.num_keypoints

    @property
    def feature_dim(self) -> int:
        """D of the keypoints that `encode` gives."""
        return self.config.filters[-1]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def fresh(self, config: DetectorConfig) -> Self:
        """A model of this method with the same provenance, another configuration and parameters of its own."""
        return type(self)(config, self.provenance)

    def drop_training_only(self) -> None:
        """Leave what `encode` needs and no more."""
        for name in self._training_only():
            setattr(self, name, None)
        self.inference_only = True

    def set_background(self, frames: Any) -> None:
        """Take the median of frames for what lies behind what moves; a model that has a background wants it before training.

        Args:
            frames: (N, H, W, 3) uint8, spread over the data; a few hundred are enough.
        """
        if self.background is not None:
            self.background.copy_(to_images(frames, self.image_size).median(dim=0).values)
            self._folded = None

    def keynet_input(self, cells: Tensor) -> Tensor:
        """What Ψ sees of folded frames, (N, C, H', W'): what is not background, or all of them."""
        if not self.config.difference:
            return cells
        assert self.background is not None
        return cells - fold_patches(self.background[None], self.config.patch)

    @abstractmethod
    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """What training minimises.

        Args:
            batch: as `kpagent.perception.pretraining.PairBatches` gives.

        Returns:
            The loss, a scalar, and metrics; `l2` among them, the mean squared error of pixels without weights.

        Raises:
            UsageError: these weights were saved for inference only.
        """

    @torch.no_grad()
    def encode(self, frames: Any, *, features: bool = True) -> Keypoints:
        """Keypoints of a batch of frames; each frame's do not depend on the others in its batch.

        Args:
            frames: (N, H, W, 3) uint8, an array or a tensor of any height and width.
            features: whether to pool Φ under the keypoints; without, D = 0, in about half the time.

        Returns:
            Keypoints of float32 tensors on the model's device: xy (N, K, 2), presence (N, K) all one, features (N, K, D).

        Raises:
            TypeError: not uint8.
            ValueError: not (N, H, W, 3).
        """
        folded = self._folded or {"keynet": fold(self.keynet), "features": fold(self.features)}
        # In training the next step may change the weights, and nothing would say so.
        self._folded = None if self.training else folded
        cells = to_cells(frames, self.image_size, self.config.patch, self.device)
        xy = self._expect(folded["keynet"](self.keynet_input(cells)))
        presence = xy.new_ones(xy.shape[:-1])
        if not features:
            return Keypoints(xy, presence, xy.new_zeros((*xy.shape[:-1], 0)))
        seen = folded["features"](cells)
        height, width = seen.shape[-2:]
        return Keypoints(xy, presence, pool_features(seen, gaussian_maps(xy, height, width, self.config.heatmap_std)))

    def save(self, path: str | Path, *, inference_only: bool = False) -> None:
        """Write weights, configuration and provenance to one safetensors file.

        Args:
            path: where.
            inference_only: leave out what `encode` does not need: RefineNet, counters, a background that Ψ does not see.

        Raises:
            UsageError: the file cannot be written.
        """
        save_tensors(path, *self.pack(inference_only=inference_only))

    def pack(self, *, inference_only: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors and the header that `save` writes, which `from_tensors` takes."""
        inference_only = inference_only or self.inference_only
        state = self.state_dict()
        if inference_only:
            state = {name: value for name, value in state.items() if self._needed_for_inference(name)}
        header = {
            "format": FORMAT,
            "model": self.kind,
            "config": dataclasses.asdict(self.config),
            "provenance": self.provenance,
            "inference_only": inference_only,
        }
        return state, header

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> Self:
        """Read what `save` wrote, ready to encode.

        Raises:
            UsageError: no such file, damaged, altered, of another model or version, or tensors that do not fit.
        """
        return cls.from_tensors(*load_tensors(path), path).to(device)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], header: Mapping[str, Any], path: str | Path) -> Self:
        """The model that tensors and header describe, in evaluation mode on the CPU.

        Args:
            tensors: by name.
            header: as `save` writes.
            path: where they came from, for messages.

        Raises:
            UsageError: of another model or version, or tensors that do not fit.
        """
        require_kind(path, header, cls.kind, FORMAT)
        try:
            # Weights from before there was `difference` were trained without.
            model = cls(cls.config_type(**({"difference": False} | header["config"])), header.get("provenance"))
        except (TypeError, KeyError, ValueError) as error:
            raise UsageError(f"{path} has no valid configuration: {error}") from error
        if header.get("inference_only"):
            model.drop_training_only()
        wanted = model.state_dict()
        if header.get("inference_only"):
            wanted = {name: value for name, value in wanted.items() if model._needed_for_inference(name)}
        require_fit(path, tensors, wanted)
        model.load_state_dict(tensors, strict=False)
        return model.eval()

    def train(self, mode: bool = True) -> Self:
        """As of `torch.nn.Module`; what `encode` had prepared from the old weights is dropped."""
        self._folded = None
        return super().train(mode)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As of `torch.nn.Module`; what `encode` had prepared from the old weights is dropped."""
        self._folded = None
        return super().load_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._folded = None
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_folded": None}

    def _locate(self, cells: Tensor) -> Tensor:
        """Keypoints (N, K, 2) of folded frames."""
        return self._expect(self.keynet(self.keynet_input(cells)))

    def _expect(self, logits: Tensor) -> Tensor:
        """Keypoints (N, K, 2) of the maps of Ψ."""
        expectation = joint_expectation if self.config.expectation == "joint" else marginal_expectation
        return expectation(logits.float() * self.config.logit_scale)

    def _training_only(self) -> tuple[str, ...]:
        return tuple(name for name in self.training_only if name != "background" or not self.config.difference)

    def _needed_for_inference(self, name: str) -> bool:
        return name.split(".")[0] not in self._training_only() and not name.endswith("num_batches_tracked")
