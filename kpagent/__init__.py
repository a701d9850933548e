"""Reinforcement learning from keypoints: image coordinates learned from raw frames, without labels or rewards.

The names below are looked up when they are first used, so `import kpagent` loads nothing but this file.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kpagent.agents.keypoint_options import KeypointOptions
    from kpagent.agents.keyqn import KeyQN
    from kpagent.dynamics.struct_vrnn import StructVRNN
    from kpagent.envs import KeypointObservation, KeypointVectorObservation
    from kpagent.errors import UsageError
    from kpagent.keypoints import Keypoints
    from kpagent.perception.transporter import Transporter, TransporterConfig
    from kpagent.perception.zoo import load
    from kpagent.subgoals.keyin import KeyIn

__version__ = "0.1.0"

__all__ = [
    "KeyIn",
    "KeyQN",
    "KeypointObservation",
    "KeypointOptions",
    "KeypointVectorObservation",
    "Keypoints",
    "StructVRNN",
    "Transporter",
    "TransporterConfig",
    "UsageError",
    "load",
]

_HOMES = {
    "KeyIn": "kpagent.subgoals.keyin",
    "KeyQN": "kpagent.agents.keyqn",
    "KeypointObservation": "kpagent.envs",
    "KeypointOptions": "kpagent.agents.keypoint_options",
    "KeypointVectorObservation": "kpagent.envs",
    "Keypoints": "kpagent.keypoints",
    "StructVRNN": "kpagent.dynamics.struct_vrnn",
    "Transporter": "kpagent.perception.transporter",
    "TransporterConfig": "kpagent.perception.transporter",
    "UsageError": "kpagent.errors",
    "load": "kpagent.perception.zoo",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kpagent' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | __all__)
