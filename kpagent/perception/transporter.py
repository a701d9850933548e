"""Transporter: keypoints learned by moving features between two frames (Kulkarni et al. 2019, section 3.1).

Two encoders see a frame: Φ says what is at each place, Ψ says where the K keypoints are. Given a source and a target
frame, the features of the source are erased around the keypoints of both frames and those of the target are pasted in
around its own keypoints (Eq. 1). RefineNet must paint the target from the result. What moved between the two frames can
only arrive through a keypoint, so the keypoints learn to sit on what moves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kpagent.errors import UsageError
from kpagent.files import load_tensors, save_tensors
from kpagent.frames import fold_patches, to_cells, to_images, unfold_patches
from kpagent.keypoints import Keypoints, gaussian_maps, joint_expectation, marginal_expectation, pool_features
from kpagent.perception.inference import fold
from kpagent.perception.networks import NORMALIZATIONS, Encoder, KeyNet, RefineNet

FORMAT = 1
RELEASED_HEATMAP_STD = 0.1 / math.sqrt(2)
"""exp(-d² / σ²) with σ = 0.1, as the authors released it, written as exp(-d² / (2 std²))."""


@dataclass(frozen=True)
class TransporterConfig:
    """The shape of a Transporter. `paper` and `fast` are the presets."""

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
    expectation: Literal["marginal", "joint"] = "joint"
    """Softmax of each map's marginals, as in the paper, or over all its cells: the latter leaves the centre at smaller
    logits, and so starts to learn sooner."""
    logit_scale: float = 3.0
    """Factor on the maps before their softmax; too small, an object hardly moves the expectation, too large, keypoints
    start frozen where the first weights happened to put them."""
    heatmap_std: float = RELEASED_HEATMAP_STD
    """Standard deviation of the Gaussians, in coordinate units (the image is 2 wide)."""
    transport: Literal["features", "pixels"] = "features"
    """What Eq. 1 moves: features, or the pixels themselves (the ablation of Appendix D)."""
    residual: bool = True
    """Eq. 1 moves the pixels beside the features, over a background, and RefineNet only adds what that lacks. Covering what
    moves then pays from the first step; without, RefineNet first learns to paint a still image and keypoints park."""

    @classmethod
    def paper(cls, num_keypoints: int, **changes: Any) -> TransporterConfig:
        """Appendix A, at the 128×128 of Appendix B."""
        preset: dict[str, Any] = {
            "image_size": 128,
            "patch": 1,
            "filters": (32, 32, 64, 64, 128, 128),
            "strides": (1, 1, 2, 1, 2, 1),
            "first_kernel": 7,
            "normalization": "batch",
            "expectation": "marginal",
            "logit_scale": 1.0,
            "residual": False,
        }
        return cls(num_keypoints, **(preset | changes))

    @classmethod
    def fast(cls, num_keypoints: int, **changes: Any) -> TransporterConfig:
        """Small enough to learn on two cores of a CPU in half an hour; the default everywhere."""
        return cls(num_keypoints, **changes)

    def __post_init__(self) -> None:
        for name in ("filters", "strides"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        whole = all(isinstance(value, int) for value in (self.num_keypoints, self.image_size, self.patch))
        patched = whole and self.patch >= 1 and self.image_size % self.patch == 0
        checks = {
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
            "transport must be features or pixels": self.transport in ("features", "pixels"),
            "residual must be true or false": isinstance(self.residual, bool),
        }
        for message, holds in checks.items():
            if not holds:
                value = getattr(self, message.split()[0])
                raise UsageError(f"{message}; got {value!r}")


class Transporter(nn.Module):
    """The model: `loss` to train it, `encode` to use it.

    Args:
        config: its shape.
        provenance: what its weights came from (environment, frames, steps, seed, versions, figures), as JSON values; it
            travels in the header of every file that `save` writes.
    """

    def __init__(self, config: TransporterConfig, provenance: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config
        self.provenance: dict[str, Any] = dict(provenance or {})
        channels = 3 * config.patch**2
        shape = (config.filters, config.strides, config.first_kernel, config.normalization)
        self.features = Encoder(channels, *shape)
        self.keynet = KeyNet(Encoder(channels, *shape), config.filters[-1], config.num_keypoints)
        moved = channels if config.transport == "pixels" else config.filters[-1]
        size = config.image_size // config.patch
        # Pixels are moved at their own resolution, so RefineNet has nothing to upsample.
        strides = (1,) * len(config.strides) if config.transport == "pixels" else config.strides
        refine_shape = (config.filters, strides, config.first_kernel, config.normalization)
        self.refine: RefineNet | None = RefineNet(moved, channels, size, *refine_shape)
        self.background: Tensor | None
        self.register_buffer("background", torch.zeros(3, config.image_size, config.image_size) if config.residual else None)
        if config.residual:
            for parameter in self.refine.layers[-1].parameters():
                nn.init.zeros_(parameter)
        self._folded: dict[str, nn.Module] | None = None
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

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

    def set_background(self, frames: Any) -> None:
        """Take the median of frames for what lies behind what moves; a residual model wants it before training.

        Args:
            frames: (N, H, W, 3) uint8, spread over the data; a few hundred are enough.
        """
        if self.background is not None:
            self.background.copy_(to_images(frames, self.image_size).median(dim=0).values)

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error between the target frame and its reconstruction from the source frame (section 3.1).

        Args:
            batch: `source` and `target`, (N, H, W, 3) uint8, N frame pairs; optionally `weight`, (size, size), by which
                the squared error of each pixel is multiplied, and `tolerance`, c: the loss ℓ of a pair then enters as
                c log(1 + ℓ / c), so that a pair far worse than c cannot outweigh all others.

        Returns:
            The loss, a scalar, and metrics: `l2`, the mean squared error without weights.

        Raises:
            UsageError: these weights were saved for inference only.
        """
        target = to_images(batch["target"], self.image_size, self.device)
        image, _ = self.reconstruct(to_images(batch["source"], self.image_size, self.device), target)
        error = (image.float() - target).square().mean(dim=1)
        weighted = error * batch["weight"].to(error) if "weight" in batch else error
        of_pair = weighted.mean(dim=(1, 2))
        if "tolerance" in batch:
            of_pair = batch["tolerance"] * torch.log1p(of_pair / batch["tolerance"])
        return of_pair.mean(), {"l2": error.mean().detach()}

    def reconstruct(self, source: Tensor, target: Tensor, *, without: int | None = None) -> tuple[Tensor, Tensor]:
        """The target painted from the source frame and what the target's keypoints bring (Eq. 1 and RefineNet).

        Args:
            source: (N, 3, size, size) in [0, 1]; no gradient flows through it.
            target: (N, 3, size, size) in [0, 1].
            without: a keypoint that neither erases nor brings anything.

        Returns:
            The reconstruction, (N, 3, size, size), and the target's keypoints, (N, K, 2).
        """
        if self.refine is None:
            raise UsageError("these weights hold what inference needs and no more; train a checkpoint of kpagent pretrain")
        source = source.detach()
        source_cells, target_cells = fold_patches(source, self.config.patch), fold_patches(target, self.config.patch)
        pixels = self.config.transport == "pixels"
        with torch.no_grad():
            source_xy = self._locate(source_cells)
            source_moved = source_cells if pixels else self.features(source_cells)
        target_xy = self._locate(target_cells)
        target_moved = target_cells if pixels else self.features(target_cells)
        used = [k for k in range(self.num_keypoints) if k != without]
        carriers = (source_xy[:, used], target_xy[:, used])
        painted: Tensor = self.refine(self._transport(source_moved, target_moved, *carriers))
        if self.background is not None:
            behind = fold_patches(self.background[None], self.config.patch)
            painted = painted + self._transport(source_cells, target_cells, *carriers, behind)
        return unfold_patches(painted, self.config.patch), target_xy

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
        xy = self._expect(folded["keynet"](cells))
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
            inference_only: leave out RefineNet and counters, which `encode` does not need.

        Raises:
            UsageError: the file cannot be written.
        """
        inference_only = inference_only or self.refine is None
        state = self.state_dict()
        if inference_only:
            state = {name: value for name, value in state.items() if _needed_for_inference(name)}
        header = {
            "format": FORMAT,
            "model": "transporter",
            "config": dataclasses.asdict(self.config),
            "provenance": self.provenance,
            "inference_only": inference_only,
        }
        save_tensors(path, state, header)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> Transporter:
        """Read what `save` wrote, ready to encode.

        Raises:
            UsageError: no such file, damaged, altered, of another model or version, or tensors that do not fit.
        """
        tensors, header = load_tensors(path)
        if header.get("model") != "transporter":
            raise UsageError(f"{path} holds a {header.get('model')!r}, not a transporter")
        if header.get("format") != FORMAT:
            raise UsageError(f"{path} has format {header.get('format')!r}; this kpagent reads format {FORMAT}")
        try:
            model = cls(TransporterConfig(**header["config"]), header.get("provenance"))
        except (TypeError, KeyError, ValueError) as error:
            raise UsageError(f"{path} has no valid configuration: {error}") from error
        if header.get("inference_only"):
            model.refine = model.background = None
        wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        if header.get("inference_only"):
            wanted = {name: shape for name, shape in wanted.items() if _needed_for_inference(name)}
        found = {name: tuple(value.shape) for name, value in tensors.items()}
        if wanted != found:
            name = sorted(wanted.items() ^ found.items())[0][0]
            raise UsageError(f"{path} does not fit its configuration: {name} is {found.get(name)}, not {wanted.get(name)}")
        if not all(bool(value.isfinite().all()) for value in tensors.values()):
            raise UsageError(f"{path} holds weights that are not finite numbers")
        model.load_state_dict(tensors, strict=False)
        return model.to(device).eval()

    def train(self, mode: bool = True) -> Transporter:
        """As of `torch.nn.Module`; what `encode` had prepared from the old weights is dropped."""
        self._folded = None
        return super().train(mode)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As of `torch.nn.Module`; what `encode` had prepared from the old weights is dropped."""
        self._folded = None
        return super().load_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Transporter:
        self._folded = None
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_folded": None}

    def _transport(
        self, source: Tensor, target: Tensor, source_xy: Tensor, target_xy: Tensor, behind: Tensor | None = None
    ) -> Tensor:
        maps = (*source.shape[-2:], self.config.heatmap_std)
        return transport(source, target, gaussian_maps(source_xy, *maps), gaussian_maps(target_xy, *maps), behind)

    def _locate(self, folded: Tensor) -> Tensor:
        return self._expect(self.keynet(folded))

    def _expect(self, logits: Tensor) -> Tensor:
        expectation = joint_expectation if self.config.expectation == "joint" else marginal_expectation
        return expectation(logits.float() * self.config.logit_scale)


def transport(
    source: Tensor, target: Tensor, source_maps: Tensor, target_maps: Tensor, behind: Tensor | None = None
) -> Tensor:
    """Move the target's features into the source's at the keypoints (Transporter Eq. 1), keypoint by keypoint.

    First every keypoint of the source erases what is under it; then the target's features are laid over the rest,
    one keypoint after the other, with the heatmap for opacity:

        Φ̂ = Πₖ (1 - H_s,k) Φ(x_s);   then for each k:   Φ̂ ← (1 - H_t,k) Φ̂ + H_t,k Φ(x_t)

    which comes to Eq. 1 with H = 1 - Πₖ (1 - Hₖ) for both frames. That H never exceeds 1, however many keypoints meet in
    one place, where a sum of heatmaps does; and the order of the keypoints does not matter.

    Args:
        source: (N, D, H, W).
        target: (N, D, H, W).
        source_maps: (N, K, H, W) in [0, 1].
        target_maps: (N, K, H, W) in [0, 1].
        behind: what appears where the source is erased, of the shape of `source` or one that broadcasts to it; zeros, as
            in Eq. 1, by default.

    Returns:
        (N, D, H, W).
    """
    keep_source = (1 - source_maps).prod(dim=-3, keepdim=True)
    keep_target = (1 - target_maps).prod(dim=-3, keepdim=True)
    erased = keep_source * source
    if behind is not None:
        erased = erased + (1 - keep_source) * behind
    return keep_target * erased + (1 - keep_target) * target


def _needed_for_inference(name: str) -> bool:
    return not name.startswith(("refine.", "background")) and not name.endswith("num_batches_tracked")
