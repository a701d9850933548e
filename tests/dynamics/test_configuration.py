from __future__ import annotations

import json
from typing import Any

import pytest

from kpagent.dynamics.configuration import CodeConfig, DynamicsConfig, StructVRNNConfig
from kpagent.errors import UsageError

# Table S1, row by row: Basketball, Human3.6M, DMCS.
TABLE_S1: dict[str, tuple[str, tuple[float, float, float]]] = {
    "Input steps": ("dynamics.observed", (8, 8, 8)),
    "Predicted steps": ("dynamics.predicted", (8, 8, 8)),
    "Num. keypoints": ("code.num_keypoints", (12, 48, 64)),
    "Keypoint sparsity scale": ("code.sparsity", (1e-1, 1e-2, 5)),
    "Separation loss scale": ("code.separation", (0.1, 2e-2, 0.1)),
    "Separation loss width": ("code.separation_std", (2e-2, 2e-3, 2e-2)),
    "Keypoint blob width": ("code.blob_std", (1.5, 1.5, 1.5)),
    "Latent code size": ("dynamics.latent", (16, 16, 128)),
    "KL loss scale": ("dynamics.kl_scale", (1e-2, 1e-2, 3e-3)),
    "Prior net size": ("dynamics.prior_units", (16, 4, 16)),
    "Posterior net size": ("dynamics.posterior_units", (128, 128, 128)),
    "Num. RNN units": ("dynamics.rnn_units", (512, 512, 512)),
    "Num. samp. for BoM loss": ("dynamics.samples", (50, 50, 50)),
    # S1.1.1 to S1.3
    "Image resolution": ("code.image_size", (64, 64, 64)),
    "Size of the maps": ("code.map_size", (16, 16, 16)),
    "Size-preserving layers": ("code.extra_layers", (1, 2, 1)),
    "Weight decay": ("code.weight_decay", (1e-4, 1e-4, 1e-4)),
    "KL annealing": ("dynamics.kl_anneal", (0.25, 0.25, 0.25)),
    "Scheduled sampling, observed": ("dynamics.own_observed", (1, 1, 1)),
    "Scheduled sampling, predicted": ("dynamics.own_predicted", (0.5, 0.5, 0.5)),
}


@pytest.mark.parametrize("row", TABLE_S1)
def test_presets_are_those_of_table_s1(row: str) -> None:
    name, expected = TABLE_S1[row]
    part, field = name.split(".")
    presets = (StructVRNNConfig.basketball(), StructVRNNConfig.human36m(), StructVRNNConfig.dmcs(6))
    assert tuple(getattr(getattr(preset, part), field) for preset in presets) == expected


def test_presets_are_the_papers_architecture() -> None:
    for preset in (StructVRNNConfig.basketball(), StructVRNNConfig.human36m(), StructVRNNConfig.dmcs(6)):
        code = preset.code
        assert (code.kind, code.location, code.normalization, code.patch) == ("keypoints", "mean", "none", 1)
        assert preset.dynamics.stochastic
    assert [preset.dynamics.actions for preset in (StructVRNNConfig.basketball(), StructVRNNConfig.dmcs(6))] == [0, 6]
    assert StructVRNNConfig.fast(5, actions=2).code.num_keypoints == 5
    assert StructVRNNConfig.fast(5, actions=2).dynamics.actions == 2
    assert StructVRNNConfig.fast().code.map_size == 16


@pytest.mark.parametrize("preset", ["basketball", "human36m", "dmcs", "fast"])
def test_a_configuration_survives_json(preset: str) -> None:
    config = getattr(StructVRNNConfig, preset)()
    assert StructVRNNConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_keypoints": 0},
        {"num_keypoints": 257},
        {"num_keypoints": 4.5},
        {"num_keypoints": True},
        {"num_keypoints": "12"},
        {"kind": "points"},
        {"kind": 3},
        {"filters": ()},
        {"filters": 32},
        {"filters": (32, 0)},
        {"filters": (32, 4.5)},
        {"filters": (32, "64")},
        {"filters": (2000,)},
        {"patch": 0},
        {"image_size": 65},
        {"image_size": 8},
        {"image_size": -64},
        {"extra_layers": -1},
        {"normalization": "layer"},
        {"location": "max"},
        {"sharpness": 0.0},
        {"sharpness": float("nan")},
        {"blob_std": 0.0},
        {"separation": -0.1},
        {"separation": float("inf")},
        {"separation_std": 0.0},
        {"sparsity": -1.0},
        {"sparsity": None},
        {"weight_decay": -1.0},
        {"supervision": -1.0},
    ],
    ids=str,
)
def test_a_wrong_code_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"^{next(iter(wrong))} must .*; got ") as refusal:
        CodeConfig(**wrong)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"observed": 1},
        {"observed": 2.0},
        {"predicted": 0},
        {"stochastic": 1},
        {"samples": 0},
        {"latent": 0},
        {"kl_scale": -0.1},
        {"kl_scale": float("nan")},
        {"kl_anneal": 1.5},
        {"prior_units": 0},
        {"posterior_units": 0},
        {"rnn_units": 0},
        {"own_observed": -0.1},
        {"own_predicted": 1.1},
        {"own_predicted": "1"},
        {"actions": -1},
    ],
    ids=str,
)
def test_wrong_dynamics_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"^{next(iter(wrong))} must .*; got ") as refusal:
        DynamicsConfig(**wrong)
    assert "\n" not in str(refusal.value)


def test_a_list_of_filters_and_whole_numbers_for_shares_are_taken() -> None:
    assert CodeConfig(filters=[8, 16], separation=0).filters == (8, 16)  # type: ignore[arg-type]
    assert DynamicsConfig(own_observed=0, kl_anneal=1).own_observed == 0
