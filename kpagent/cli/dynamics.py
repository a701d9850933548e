"""`kpagent dynamics`: keypoints that have a future."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from kpagent.cli.dynamics_edit import Edit
from kpagent.cli.dynamics_rollout import DynamicsRollout
from kpagent.cli.dynamics_train import DynamicsTrain

Task = (
    Annotated[DynamicsTrain, tyro.conf.subcommand("train", prefix_name=False)]
    | Annotated[DynamicsRollout, tyro.conf.subcommand("rollout", prefix_name=False)]
    | Annotated[Edit, tyro.conf.subcommand("edit", prefix_name=False)]
)


@dataclass(frozen=True)
class Dynamics:
    """Learn keypoints and their futures from video (Struct-VRNN), and imagine what comes next."""

    task: Annotated[Task, tyro.conf.arg(name="")]
    """What to do."""

    def run(self) -> int:
        """Do it."""
        return self.task.run()
