"""The model's baselines and ablations by name, as the paper compares them (Struct-VRNN section 5.1, Figures 4 and 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

from kpagent.dynamics.configuration import StructVRNNConfig
from kpagent.errors import UsageError

Method = Literal[
    "struct_vrnn", "no_bom", "struct_rnn", "cnn_vrnn", "no_separation", "no_sparsity", "supervised", "cnn_vrnn_supervised"
]
METHODS: tuple[Method, ...] = get_args(Method)

SUPERVISION = 100.0
"""Weight of true positions in the supervised forms, where the configuration has none: the paper gives no value. A mean
distance of 0.03 of six points then costs about half a unit, beside image errors of a few units."""


def method_config(name: str, base: StructVRNNConfig) -> StructVRNNConfig:
    """The configuration of a method, which differs from the full model in one thing alone.

    | name | differs in |
    |---|---|
    | struct_vrnn | nothing |
    | no_bom | one sample at each step, not the best of many |
    | struct_rnn | no latent belief: deterministic |
    | cnn_vrnn | frames are vectors of 3K numbers without structure |
    | no_separation | no separation loss |
    | no_sparsity | no sparsity loss |
    | supervised | the first keypoints are pulled to true positions |
    | cnn_vrnn_supervised | cnn_vrnn, whose vector is pulled to true positions likewise |

    Args:
        name: of the method.
        base: the full model.

    Raises:
        UsageError: no such method.
    """
    if name not in METHODS:
        raise UsageError(f"no method called {name!r}; there are {', '.join(METHODS)}")
    return _CHANGES[name](base)


def _in_code(base: StructVRNNConfig, **changes: Any) -> StructVRNNConfig:
    return replace(base, code=replace(base.code, **changes))


def _in_dynamics(base: StructVRNNConfig, **changes: Any) -> StructVRNNConfig:
    return replace(base, dynamics=replace(base.dynamics, **changes))


def _supervised(base: StructVRNNConfig) -> StructVRNNConfig:
    return _in_code(base, supervision=base.code.supervision or SUPERVISION)


def _vector(base: StructVRNNConfig) -> StructVRNNConfig:
    return _in_code(base, kind="vector")


_CHANGES: dict[str, Callable[[StructVRNNConfig], StructVRNNConfig]] = {
    "struct_vrnn": lambda base: base,
    "no_bom": lambda base: _in_dynamics(base, samples=1),
    "struct_rnn": lambda base: _in_dynamics(base, stochastic=False),
    "cnn_vrnn": _vector,
    "no_separation": lambda base: _in_code(base, separation=0.0),
    "no_sparsity": lambda base: _in_code(base, sparsity=0.0),
    "supervised": _supervised,
    "cnn_vrnn_supervised": lambda base: _supervised(_vector(base)),
}
