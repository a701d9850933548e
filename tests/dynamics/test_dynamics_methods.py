"""The paper's baselines: each differs from the full model in the one thing that it is named after."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kpagent.dynamics.configuration import StructVRNNConfig
from kpagent.dynamics.methods import METHODS, SUPERVISION, method_config
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.errors import UsageError

DIFFERENCES: dict[str, dict[str, Any]] = {
    "struct_vrnn": {},
    "no_bom": {"dynamics.samples": 1},
    "struct_rnn": {"dynamics.stochastic": False},
    "cnn_vrnn": {"code.kind": "vector"},
    "no_separation": {"code.separation": 0},
    "no_sparsity": {"code.sparsity": 0},
    "supervised": {"code.supervision": SUPERVISION},
    "cnn_vrnn_supervised": {"code.kind": "vector", "code.supervision": SUPERVISION},
}


def flat(config: StructVRNNConfig) -> dict[str, Any]:
    return {f"{part}.{name}": value for part, values in config.to_dict().items() for name, value in values.items()}


@pytest.mark.parametrize("preset", ["basketball", "human36m", "dmcs", "fast"])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_differs_in_what_it_is_named_after_alone(preset: str, name: str) -> None:
    base = getattr(StructVRNNConfig, preset)()
    found, full = flat(method_config(name, base)), flat(base)
    assert {key: value for key, value in found.items() if value != full[key]} == DIFFERENCES[name]


def test_every_method_has_its_difference() -> None:
    assert set(METHODS) == set(DIFFERENCES)


@pytest.mark.parametrize("name", ["supervised", "cnn_vrnn_supervised"])
def test_supervision_that_is_set_keeps_its_weight(name: str) -> None:
    base = method_config("supervised", StructVRNNConfig.fast())
    half = StructVRNNConfig.from_dict({**base.to_dict(), "code": {**base.to_dict()["code"], "supervision": 0.5}})
    assert method_config(name, half).code.supervision == 0.5


def test_the_unstructured_code_has_as_many_numbers() -> None:
    full = StructVRNNConfig.fast(5)
    codes = [StructVRNN(config).code.read(torch.rand(1, 3, 64, 64)) for config in (full, method_config("cnn_vrnn", full))]
    assert [code.shape for code in codes] == [(1, 15), (1, 15)]


def test_another_name_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^no method called 'svg'; there are struct_vrnn, [^\n]*$"):
        method_config("svg", StructVRNNConfig())
