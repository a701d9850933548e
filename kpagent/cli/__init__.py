"""The `kpagent` command: keypoints of environments, and agents that play with them."""

# Each subcommand is a frozen dataclass in a module of its own, whose fields are its flags.

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import sys
from typing import Annotated, Any

import tyro

from kpagent.cli.bench import Bench
from kpagent.cli.dynamics import Dynamics
from kpagent.cli.explore import Explore
from kpagent.cli.keyframes import Keyframes
from kpagent.cli.plan import Plan
from kpagent.cli.play import Play
from kpagent.cli.pretrain import Pretrain
from kpagent.cli.rewards import Rewards
from kpagent.cli.train import Train
from kpagent.cli.watch import Watch
from kpagent.cli.zoo import Zoo
from kpagent.errors import UsageError

Command = (
    Annotated[Pretrain, tyro.conf.subcommand("pretrain")]
    | Annotated[Watch, tyro.conf.subcommand("watch")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Play, tyro.conf.subcommand("play")]
    | Annotated[Explore, tyro.conf.subcommand("explore")]
    | Annotated[Dynamics, tyro.conf.subcommand("dynamics")]
    | Annotated[Keyframes, tyro.conf.subcommand("keyframes")]
    | Annotated[Plan, tyro.conf.subcommand("plan")]
    | Annotated[Rewards, tyro.conf.subcommand("rewards")]
    | Annotated[Zoo, tyro.conf.subcommand("zoo")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; ends the process with 0, or with 2 and one line on a mistake of the user's or Ctrl-C."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        command = _parse(arguments)
        sys.exit(command.run())
    except (UsageError, FloatingPointError) as error:
        sys.exit(_fail(str(error)))
    except KeyboardInterrupt as interrupt:
        sys.exit(_fail(f"interrupted{': ' if interrupt.args else ''}{' '.join(map(str, interrupt.args))}"))


def _parse(arguments: list[str] | None) -> Any:
    """The command, or a UsageError of one line where tyro would print a box."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(Command, prog="kpagent", args=arguments, description=__doc__)
    except SystemExit as end:
        if not end.code:
            raise
        raise UsageError(_unboxed(complaint.getvalue())) from None


def _unboxed(box: str) -> str:
    """The title and the text of a box of tyro's in one line, without the suggestions at its end, a screen long."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()
    # Where the terminal knows no Unicode, the box has rules of hyphens and no sides.
    title, *lines = (re.sub(r"^-{4,}$", "", line.strip("╭╮╰╯│─ ")) for line in plain)
    parts = [" ".join(part.split()) for part in re.split(r"\n\n+", "\n".join(lines).strip())]
    kept = itertools.takewhile(lambda part: not re.match(r"Arguments (are applied|similar)|For full helptext", part), parts)
    return f"{title}: {'; '.join(kept).removeprefix(f'{title}: ')}"


def _fail(message: str) -> int:
    print(f"kpagent: {' '.join(message.split())}", file=sys.stderr)
    return 2
