"""`kpagent plan`: subgoals that lead somewhere, and the way there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from kpagent.cli.plan_reach import PlanReach

Reach = Annotated[PlanReach, tyro.conf.subcommand("reach", prefix_name=False)]


@dataclass(frozen=True)
class Plan:
    """Plan through subgoals of a keyframe model (KeyIn), and act on them."""

    # Of a union of one there would be no word to give.
    task: Annotated[Reach | None, tyro.conf.DisallowNone, tyro.conf.arg(name="")]
    """What to do."""

    def run(self) -> int:
        """Do it."""
        assert self.task is not None
        return self.task.run()
