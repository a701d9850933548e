"""`kpagent rewards`: what a dynamics model knows of rewards that it never saw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from kpagent.cli.rewards_eval import RewardsEval
from kpagent.cli.rewards_record import RewardsRecord
from kpagent.cli.rewards_train import RewardsTrain

Task = (
    Annotated[RewardsRecord, tyro.conf.subcommand("record", prefix_name=False)]
    | Annotated[RewardsTrain, tyro.conf.subcommand("train", prefix_name=False)]
    | Annotated[RewardsEval, tyro.conf.subcommand("eval", prefix_name=False)]
)


@dataclass(frozen=True)
class Rewards:
    """Record tasks with continuous actions, and predict their rewards from a dynamics model's states (Struct-VRNN)."""

    task: Annotated[Task, tyro.conf.arg(name="")]
    """What to do."""

    def run(self) -> int:
        """Do it."""
        return self.task.run()
