"""What a Struct-VRNN is made of, with Table S1's values as presets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from kpagent.fields import is_whole, require, require_types


@dataclass(frozen=True)
class CodeConfig:
    """How frames become codes and codes frames (Struct-VRNN sections 3.1 and 4.1, S1.1.1)."""

    num_keypoints: int = 12
    """K; more than there are moving things, since presence and sparsity switch off what is not needed."""
    kind: Literal["keypoints", "vector", "perception"] = "keypoints"
    """keypoints codes a frame by K triplets (x, y, μ); vector by 3K numbers without structure, as CNN-VRNN does; perception
    by the keypoints of a perception model that was trained before and stays as it is, with their presence for μ."""
    image_size: int = 64
    """Height and width of the frames that the networks see."""
    patch: int = 1
    """Each patch × patch block of pixels becomes the channels of one place; 1 leaves the pixels as they are."""
    filters: tuple[int, ...] = (32, 64, 128)
    """Channels at each scale of the detector, each half as high and wide as the one before; the generator has them in
    reverse. The last scale is that of the maps."""
    extra_layers: int = 1
    """Size-preserving layers besides, at each scale."""
    normalization: Literal["none", "batch"] = "none"
    """Batch normalisation after each convolution, or none, as in the paper."""
    location: Literal["mean", "softmax"] = "mean"
    """How a map gives a keypoint. mean: its mean place (Eq. S1, S2), with its mean intensity for μ (Eq. S3). softmax: the
    mean place of its softmax, which leaves the centre far sooner, with the sigmoid of its highest value for μ."""
    sharpness: float = 3.0
    """Factor on maps before their softmax."""
    blob_std: float = 1.5
    """σ of the Gaussians that stand for keypoints, in cells of the maps (Eq. S4)."""
    separation: float = 0.1
    """λ_sep, the weight of the separation loss; 0 leaves it out."""
    separation_std: float = 0.02
    """σ_sep, where the image is 2 wide."""
    sparsity: float = 0.1
    """λ_sparse, the weight of the sparsity loss; 0 leaves it out."""
    weight_decay: float = 1e-4
    """Weight of the squared convolution kernels in the loss."""
    supervision: float = 0.0
    """Weight of the squared distance between the first keypoints and true positions; 0 learns without any."""

    def __post_init__(self) -> None:
        require_types(self)
        object.__setattr__(self, "filters", tuple(self.filters))
        checks = {
            "num_keypoints must be from 1 to 256": 1 <= self.num_keypoints <= 256,
            "kind must be keypoints, vector or perception": self.kind in ("keypoints", "vector", "perception"),
            "filters must be from 1 to 1024, at one scale or more": len(self.filters) >= 1
            and all(is_whole(filters) and 1 <= filters <= 1024 for filters in self.filters),
            "patch must be at least 1": self.patch >= 1,
            "image_size must be a multiple of patch and of each halving, with maps of at least 4 cells": self.patch >= 1
            and self.image_size % (self.patch * 2 ** (len(self.filters) - 1)) == 0
            and self.map_size >= 4,
            "extra_layers must not be negative": self.extra_layers >= 0,
            "normalization must be none or batch": self.normalization in ("none", "batch"),
            "location must be mean or softmax": self.location in ("mean", "softmax"),
            "sharpness must be positive": self.sharpness > 0,
            "blob_std must be positive": self.blob_std > 0,
            "separation must not be negative": self.separation >= 0,
            "separation_std must be positive": self.separation_std > 0,
            "sparsity must not be negative": self.sparsity >= 0,
            "weight_decay must not be negative": self.weight_decay >= 0,
            "supervision must not be negative": self.supervision >= 0,
        }
        require(self, checks)

    @property
    def map_size(self) -> int:
        """Height and width of the maps."""
        return self.image_size // (self.patch * 2 ** (len(self.filters) - 1))

    @property
    def has_keypoints(self) -> bool:
        """Whether a code is a triplet for each keypoint."""
        return self.kind != "vector"

    @property
    def size(self) -> int:
        """Numbers in the code of a frame, 3K."""
        return 3 * self.num_keypoints


@dataclass(frozen=True)
class DynamicsConfig:
    """How codes go on in time (Struct-VRNN sections 3.2 and 4.2, S1.1.2, S1.3)."""

    observed: int = 8
    """T, the frames of a training sequence that the model sees."""
    predicted: int = 8
    """ΔT, the frames after them that it foretells."""
    stochastic: bool = True
    """False leaves out the latent belief: a recurrent network that foretells one future, the paper's Struct-RNN."""
    samples: int = 50
    """Samples at each step, of which the best is learned from (Eq. 8); 1 leaves that out."""
    latent: int = 16
    """Numbers in the latent belief z."""
    kl_scale: float = 1e-2
    """β of Eq. 6."""
    kl_anneal: float = 0.25
    """Share of the training over which β grows from 0."""
    prior_units: int = 16
    """Hidden units of φ_prior."""
    posterior_units: int = 128
    """Hidden units of φ_enc and of φ_dec."""
    rnn_units: int = 512
    """Units of the GRU."""
    own_observed: float = 1.0
    """Share of observed steps after which the GRU is fed what was decoded rather than what was seen, at the end of training;
    it grows from 0 (scheduled sampling)."""
    own_predicted: float = 0.5
    """The same of predicted steps."""
    actions: int = 0
    """Numbers in an action; 0 for a model without actions."""

    def __post_init__(self) -> None:
        require_types(self)
        sizes = ("latent", "prior_units", "posterior_units", "rnn_units", "samples", "predicted")
        shares = ("kl_anneal", "own_observed", "own_predicted")
        checks = (
            {"observed must be at least 2": self.observed >= 2}
            | {f"{name} must be at least 1": getattr(self, name) >= 1 for name in sizes}
            | {f"{name} must be from 0 to 1": 0 <= getattr(self, name) <= 1 for name in shares}
            | {"kl_scale must not be negative": self.kl_scale >= 0, "actions must not be negative": self.actions >= 0}
        )
        require(self, checks)


@dataclass(frozen=True)
class StructVRNNConfig:
    """The whole model. `basketball`, `human36m` and `dmcs` are Table S1's; `fast`, `control`, `planning` are for CPUs."""

    code: CodeConfig = field(default_factory=CodeConfig)
    """Frames and codes."""
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    """Codes in time."""

    @classmethod
    def basketball(cls) -> StructVRNNConfig:
        """Table S1, Basketball."""
        return cls()

    @classmethod
    def human36m(cls) -> StructVRNNConfig:
        """Table S1, Human3.6M; two size-preserving layers at each scale."""
        code = CodeConfig(48, extra_layers=2, separation=0.02, separation_std=0.002, sparsity=0.01)
        return cls(code, DynamicsConfig(prior_units=4))

    @classmethod
    def dmcs(cls, actions: int = 0) -> StructVRNNConfig:
        """Table S1, DeepMind Control Suite.

        Args:
            actions: numbers in an action.
        """
        return cls(CodeConfig(64, sparsity=5.0), DynamicsConfig(latent=128, kl_scale=3e-3, actions=actions))

    @classmethod
    def fast(cls, num_keypoints: int = 12, actions: int = 0) -> StructVRNNConfig:
        """Few channels on blocks of 2×2 pixels, normalised, and keypoints by softmax: it learns in minutes on a CPU.

        Args:
            num_keypoints: K.
            actions: numbers in an action.
        """
        code = CodeConfig(num_keypoints, patch=2, filters=(32, 64), normalization="batch", location="softmax")
        return cls(code, DynamicsConfig(actions=actions))

    @classmethod
    def control(cls, num_keypoints: int = 64, actions: int = 0) -> StructVRNNConfig:
        """`fast` for several control tasks at once: K, the latent belief and β of Table S1, DeepMind Control Suite.

        Args:
            num_keypoints: K.
            actions: numbers in an action.
        """
        base = cls.fast(num_keypoints, actions)
        return replace(base, dynamics=replace(base.dynamics, latent=128, kl_scale=3e-3))

    @classmethod
    def planning(cls, num_keypoints: int = 16, actions: int = 0) -> StructVRNNConfig:
        """`fast` with dynamics small enough to imagine thousands of futures for every action.

        They foretell by themselves from the first step of training on, as a planner lets them, and no sample that lies near
        to what came is picked, for a planner cannot pick. β is that of codes whose numbers have a deviation of 1.

        Args:
            num_keypoints: K.
            actions: numbers in an action.
        """
        dynamics = DynamicsConfig(
            predicted=12,
            samples=1,
            kl_scale=0.1,
            kl_anneal=0.0,
            prior_units=32,
            posterior_units=64,
            rnn_units=96,
            own_predicted=1.0,
            actions=actions,
        )
        return replace(cls.fast(num_keypoints, actions), dynamics=dynamics)

    def on(self, num_keypoints: int, image_size: int) -> StructVRNNConfig:
        """The same for the keypoints of a perception model, whose K and image size these are.

        Raises:
            UsageError: frames of that size do not fit the scales.
        """
        code = replace(self.code, kind="perception", num_keypoints=num_keypoints, image_size=image_size, supervision=0.0)
        return replace(self, code=code)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StructVRNNConfig:
        """What `dataclasses.asdict` made, as it lies in the header of weights."""
        return cls(CodeConfig(**values["code"]), DynamicsConfig(**values["dynamics"]))

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return dataclasses.asdict(self)
