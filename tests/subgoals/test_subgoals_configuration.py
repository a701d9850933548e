from __future__ import annotations

import json
from typing import Any

import pytest
from turning_dots import config

from kpagent.errors import UsageError
from kpagent.subgoals.configuration import CodecConfig, KeyInConfig

# Section 4 and what is known of the authors' experiments: Brownian motion, pushing.
PAPER: dict[str, tuple[Any, Any]] = {
    "frames": (30, 30),
    "keyframes": (6, 6),
    "longest": (10, 6),
    "given": (5, 1),
    "shortest_segment": (2, 2),
    "longest_segment": (8, 6),
    "segment_kl_scale": (1e-3, 1e-3),
    "image_scale": (0, 0),
    "code_scale": (1, 1),
    "kl_scale": (5e-2, 5e-2),
    "units": (256, 256),
    "layers": (2, 2),
    "latent": (10, 10),
    "start_units": (1024, 1024),
    "attention": ("keyframe", "keyframe"),
    "fixed_offsets": ((), ()),
    "keyframe_cost": (0, 0),
    "guide_share": (0, 0),
}


@pytest.mark.parametrize("name", PAPER)
def test_presets_are_the_papers(name: str) -> None:
    assert tuple(getattr(preset, name) for preset in (KeyInConfig.brownian(), KeyInConfig.pushing())) == PAPER[name]


def test_presets_have_the_papers_images() -> None:
    brownian, pushing = KeyInConfig.brownian(), KeyInConfig.pushing()
    assert [(one.codec.image_size, len(one.codec.filters), one.codec.size) for one in (brownian, pushing)] == [
        (32, 3, 128),
        (64, 4, 128),
    ]
    assert (brownian.length, pushing.length) == (35, 31)


def test_keypoints_are_codes_of_their_size() -> None:
    preset = KeyInConfig.keypoints(6, given=1, longest=6, longest_segment=6)
    assert (preset.codec.kind, preset.codec.size, preset.longest, preset.frames) == ("codes", 6, 6, 30)


@pytest.mark.parametrize(
    "preset", [KeyInConfig.brownian(), KeyInConfig.pushing(), KeyInConfig.keypoints(4), config(fixed_offsets=(2, 2, 3))]
)
def test_a_configuration_survives_json(preset: KeyInConfig) -> None:
    assert KeyInConfig.from_dict(json.loads(json.dumps(preset.to_dict()))) == preset


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "pixels"},
        {"size": 0},
        {"size": True},
        {"filters": ()},
        {"filters": (3, 2.5)},
        {"filters": 3},
        {"brightness": 0.0},
        {"brightness": 1},
        {"image_size": 30},
        {"image_size": 0},
        {"image_size": "32"},
    ],
    ids=str,
)
def test_a_wrong_codec_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"^{next(iter(wrong))} must .*; got ") as refusal:
        CodecConfig(**wrong)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"codec": {"kind": "frames"}},
        {"given": 0},
        {"frames": 0},
        {"keyframes": 7},
        {"longest": 1},
        {"units": 2.5},
        {"layers": 0},
        {"latent": 0},
        {"attention": "frame"},
        {"fixed_offsets": (2, 2)},
        {"fixed_offsets": (2, 2, 5)},
        {"fixed_offsets": (2, 2, 2.0)},
        {"fixed_offsets": (1, 1, 1)},
        {"kl_scale": -1},
        {"kl_scale": float("nan")},
        {"code_scale": -1.0},
        {"image_scale": -1.0},
        {"sequence_scale": float("inf")},
        {"keyframe_cost": -1.0},
        {"guide_share": 1.5},
        {"guide_scale": -1.0},
        {"guided": 0},
        {"shortest_segment": 0},
        {"shortest_segment": 5},
        {"longest_segment": 5},
        {"start_units": 0},
        {"segment_latent": 0},
        {"segment_kl_scale": None},
    ],
    ids=str,
)
def test_a_wrong_model_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"^{next(iter(wrong))} .*must .*; got ") as refusal:
        config(**wrong)
    assert "\n" not in str(refusal.value)
