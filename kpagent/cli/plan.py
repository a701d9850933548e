"""`kpagent plan`: actions by planning, through subgoals or in imagined keypoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from kpagent.cli.plan_control import PlanControl
from kpagent.cli.plan_reach import PlanReach

Reach = Annotated[PlanReach, tyro.conf.subcommand("reach", prefix_name=False)]
Control = Annotated[PlanControl, tyro.conf.subcommand("control", prefix_name=False)]


@dataclass(frozen=True)
class Plan:
    """Plan through subgoals of a keyframe model (KeyIn), or in imagined keypoints, and act on it."""

    task: Annotated[Reach | Control, tyro.conf.arg(name="")]
    """What to do."""

    def run(self) -> int:
        """Do it."""
        return self.task.run()
