"""What a KeyIn is made of, with the paper's values as presets (KeyIn section 4)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from kpagent.fields import is_whole, require, require_types


@dataclass(frozen=True)
class CodecConfig:
    """What stands for a frame: an embedding by convolutions, or a code that is given."""

    kind: Literal["frames", "codes"] = "frames"
    """frames embeds RGB images; codes takes sequences of numbers as they come, such as keypoints of a perception model."""
    size: int = 128
    """D, numbers in an embedding, or in the codes that come."""
    image_size: int = 32
    """Height and width of the frames that the networks see."""
    filters: tuple[int, ...] = (16, 32, 64)
    """Channels of the encoder's layers, each half as high and wide as the one before; the decoder has them in reverse."""
    brightness: float = 0.5
    """What every pixel is painted as before learning, above 0 and below 1; best near the mean of the frames. From far off,
    the way there drives embeddings into the ends of tanh, where they may stay."""

    def __post_init__(self) -> None:
        require_types(self)
        object.__setattr__(self, "filters", tuple(self.filters))
        checks = {
            "kind must be frames or codes": self.kind in ("frames", "codes"),
            "size must be from 1 to 4096": 1 <= self.size <= 4096,
            "filters must be from 1 to 1024, of one layer or more": len(self.filters) >= 1
            and all(is_whole(filters) and 1 <= filters <= 1024 for filters in self.filters),
            "brightness must be above 0 and below 1": 0 < self.brightness < 1,
            "image_size must be a multiple of 2 for each layer": self.image_size >= 2
            and self.image_size % 2 ** len(self.filters) == 0,
        }
        require(self, checks)

    @property
    def map_size(self) -> int:
        """Height and width of the last layer's maps."""
        return self.image_size // 2 ** len(self.filters)


@dataclass(frozen=True)
class KeyInConfig:
    """The whole model. `brownian` and `pushing` are the paper's; `keypoints` learns from sequences of codes."""

    codec: CodecConfig = field(default_factory=CodecConfig)
    """What stands for a frame."""
    given: int = 5
    """T, the frames at the start of a sequence that the model is given; the last of them is the first keyframe."""
    frames: int = 30
    """N, the frames after them."""
    keyframes: int = 6
    """M, as many keyframes as there can be in them, and as many segments."""
    longest: int = 10
    """S, the largest offset between keyframes."""
    units: int = 256
    """Of each layer of each LSTM."""
    layers: int = 2
    """Of each LSTM."""
    latent: int = 10
    """Numbers in the latent z of a keyframe."""
    prior: Literal["unit", "learned"] = "unit"
    """What is believed of a keyframe's latent before it is known: a unit Gaussian, as in the paper, or a Gaussian that is
    learned from the keyframes before it and the frames that are given."""
    attention: Literal["keyframe", "time"] = "keyframe"
    """How a keyframe's latent attends to the future: by the likeness of frames to the keyframe before, as in Eq. 1; or to
    the frames at the soft time of the keyframe before, which need not be found by what they look like."""
    fixed_offsets: tuple[int, ...] = ()
    """Offsets of all keyframes, which are then not learned, as in the static and the jumpy baseline. Empty to learn them."""
    kl_scale: float = 5e-2
    """β, the weight of the KL divergence of a keyframe's latent (Eq. 3)."""
    code_scale: float = 1.0
    """βκ, the weight of the squared error of a keyframe's embedding, summed over its numbers (Eq. 3)."""
    image_scale: float = 0.0
    """βK, the weight of the error of a keyframe's image (Eq. 3)."""
    sequence_scale: float = 1.0
    """Weight of the error of the sequence, summed over frames (Eq. 4). That of an image is a mean over its pixels, that of a
    code a sum over its numbers."""
    keyframe_cost: float = 0.0
    """Loss of each keyframe that is expected inside the sequence. The paper has none: its Eq. 3 takes a mean over keyframes,
    so that superfluous ones cost nothing."""
    guide_share: float = 0.0
    """Share of the training of keyframes, from its start, in which offsets are drawn to those of the best way to cut a
    sequence that the interpolator knows; a keyframe is then predicted from the true frame at the end of the offsets before.
    The paper has no such guide. Without one, a pattern of offsets that is the same for all sequences may settle soon, and
    is hard to leave: an offset that changes moves all keyframes after it."""
    guide_scale: float = 1.0
    """Weight of the cross-entropy with these offsets, a mean over keyframes."""
    guided: int = 8
    """How many sequences of a batch are guided; and cut, for the interpolator to choose what it learns."""
    shortest_segment: int = 2
    """Least offset on which the interpolator is learned."""
    longest_segment: int = 8
    """Largest offset on which the interpolator is learned."""
    start_units: int = 1024
    """Hidden units of the network that gives LSTMinter its first state."""
    segment_latent: int = 10
    """Numbers in the latent of a segment, of the interpolator's sequence VAE."""
    segment_kl_scale: float = 1e-3
    """Weight of the KL divergence of that latent."""
    keyframe_noise: float = 0.0
    """Standard deviation of noise in the two keyframes that the interpolator learns from, in units of the code. Between
    exact ones it can tell a corner from frames beside it; with noise the corner itself explains more."""
    choosing: float = 0.0
    """Share of the training of the interpolator, at its end, in which most segments that it learns are those of the best
    ways to cut sequences that it knows, and no more random ones, as all of the paper's are. What it then learns best, it
    chooses more surely: where several kinds of cuts explain a sequence about as well, one of them wins."""

    def __post_init__(self) -> None:
        require_types(self)
        object.__setattr__(self, "fixed_offsets", tuple(self.fixed_offsets))
        scales = ("kl_scale", "code_scale", "image_scale", "sequence_scale", "segment_kl_scale", "guide_scale")
        sizes = ("given", "frames", "keyframes", "longest", "units", "layers", "latent", "start_units", "segment_latent")
        fixed = self.fixed_offsets
        checks = (
            {f"{name} must be at least 1": getattr(self, name) >= 1 for name in (*sizes, "guided")}
            | {
                f"{name} must not be negative": getattr(self, name) >= 0
                for name in (*scales, "keyframe_cost", "keyframe_noise")
            }
            | {
                "keyframes must be at most frames": self.keyframes <= self.frames,
                "longest times keyframes must reach frames": self.longest * self.keyframes >= self.frames,
                "guide_share must be from 0 to 1": 0 <= self.guide_share <= 1,
                "choosing must be from 0 to 1": 0 <= self.choosing <= 1,
                "prior must be unit or learned": self.prior in ("unit", "learned"),
                "attention must be keyframe or time": self.attention in ("keyframe", "time"),
                "fixed_offsets must be one from 1 to longest for each of the keyframes": not fixed
                or (len(fixed) == self.keyframes and all(is_whole(one) and 1 <= one <= self.longest for one in fixed)),
                "fixed_offsets must reach all frames": not fixed or sum(fixed) >= self.frames,
                "shortest_segment must be from 1 to longest_segment": 1 <= self.shortest_segment <= self.longest_segment,
                "longest_segment must be at most longest": self.longest_segment <= self.longest,
            }
        )
        require(self, checks)

    @property
    def length(self) -> int:
        """T + N, the frames of a training sequence."""
        return self.given + self.frames

    @classmethod
    def brownian(cls) -> KeyInConfig:
        """Structured Brownian motion (section 4.1.1)."""
        return cls(CodecConfig(brightness=0.02))

    @classmethod
    def pushing(cls) -> KeyInConfig:
        """The pushing dataset (section 4.1.2)."""
        codec = CodecConfig(image_size=64, filters=(16, 32, 64, 128))
        return cls(codec, given=1, longest=6, longest_segment=6)

    @classmethod
    def keypoints(cls, size: int, **times: Any) -> KeyInConfig:
        """Small and fast, for sequences of codes of `size` numbers, such as the coordinates of keypoints in [-1, 1].

        Errors of coordinates are small numbers, so they weigh more than those of images.

        Args:
            size: numbers in a code.
            times: other fields, such as those of `pushing`.
        """
        fields: dict[str, Any] = {
            "units": 128,
            "start_units": 256,
            "prior": "learned",
            "attention": "time",
            "kl_scale": 1.0,
            "code_scale": 10.0,
            "sequence_scale": 100.0,
            "keyframe_cost": 1.0,
            "guide_share": 1.0,
            "guide_scale": 10.0,
            "guided": 15,
            "segment_kl_scale": 0.1,
            "keyframe_noise": 0.05,
            "choosing": 0.3,
        }
        return cls(CodecConfig("codes", size), **(fields | times))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> KeyInConfig:
        """What `dataclasses.asdict` made, as it lies in the header of weights."""
        return cls(**(values | {"codec": CodecConfig(**values["codec"])}))

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return dataclasses.asdict(self)
