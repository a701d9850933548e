"""`kpagent keyframes`: the few frames that explain the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from kpagent.cli.keyframes_show import KeyframesShow
from kpagent.cli.keyframes_train import KeyframesTrain

Task = (
    Annotated[KeyframesTrain, tyro.conf.subcommand("train", prefix_name=False)]
    | Annotated[KeyframesShow, tyro.conf.subcommand("show", prefix_name=False)]
)


@dataclass(frozen=True)
class Keyframes:
    """Find the few frames of sequences that explain the rest (KeyIn), and see other ways to go on."""

    task: Annotated[Task, tyro.conf.arg(name="")]
    """What to do."""

    def run(self) -> int:
        """Do it."""
        return self.task.run()
