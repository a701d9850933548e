"""What every test starts from: one thread, one seed, no display, no dependence on the time of day."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

# Before anything imports MuJoCo or Ray, which read these once.
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# Else the workers wait for whatever runs beside the tests.
os.environ.setdefault("RAY_worker_niceness", "0")

import hypothesis
import numpy as np
import pytest
import torch

# A shell starts what runs in its background deaf to Ctrl-C, which tests press.
signal.signal(signal.SIGINT, signal.default_int_handler)

# On small tensors a second thread costs more than it brings, and it stands in the way of whatever runs beside the tests.
torch.set_num_threads(1)

hypothesis.settings.register_profile("kpagent", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("kpagent")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (what libraries draw from it, not what tests draw)


@pytest.fixture(scope="module")
def short_start() -> Iterator[None]:
    """The keypoints of a Struct-VRNN begin with 2 steps in place of 150, for which commands have no flag."""
    from kpagent.dynamics.learning import LearningConfig
    from kpagent.dynamics.motion_start import MotionStartConfig

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LearningConfig, "fast", classmethod(lambda cls: cls(start=MotionStartConfig(steps=2))))
        yield
