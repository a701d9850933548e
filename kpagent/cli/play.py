"""`kpagent play`: see an agent play."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kpagent.cli.terminal import console, progress_bar
from kpagent.errors import UsageError

if TYPE_CHECKING:
    from kpagent.agents.keyqn import KeyQN


@dataclass(frozen=True)
class Play:
    """Let an agent play, and write a video with its keypoints and Q-values, and a contact sheet beside it."""

    agent: str
    """Name of a shipped agent, such as pong, or path of a file that kpagent train wrote."""
    env: str | None = None
    """Gymnasium id; what the agent learned, if not given."""
    weights: str | None = None
    """Keypoints: name in the zoo (see kpagent zoo), path of a weights file, or objects for the true positions of objects;
    what the agent learned from, if not given."""
    out: Path = Path("play.mp4")
    """Video to write; the contact sheet has the same name with .png."""
    games: int = 1
    """Games to play to their end."""
    max_steps: int = 10_000
    """Interactions after which the video ends in any case."""
    epsilon: float = 0.01
    """Share of random actions."""
    fps: float = 30
    """Frames a second of the video."""
    seed: int = 0
    """Of the environment and the random actions."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def run(self) -> int:
        """Write the video and the sheet, and say how the games went."""
        from kpagent.agents.keyqn import KeyQN
        from kpagent.agents.playing import play
        from kpagent.agents.shipped import find_agent
        from kpagent.envs.players import make_player
        from kpagent.envs.recording import require_film
        from kpagent.training import pick_device

        path = find_agent(self.agent)
        require_film(self.out)
        agent = KeyQN.load(path, device=pick_device(self.device))
        env_id, see = self._learned(agent)
        player = make_player(env_id, see, features=agent.q_net.given_features > 0, device=self.device)
        with contextlib.closing(player), progress_bar() as bar:
            task = bar.add_task("playing", total=self.max_steps)
            report = play(
                agent,
                player,
                out=self.out,
                games=self.games,
                max_steps=self.max_steps,
                epsilon=self.epsilon,
                seed=self.seed,
                fps=self.fps,
                progress=lambda done, score: bar.update(task, completed=done, description=f"playing, score {score:g}"),
            )
        scores = [f"{score:g}" for score in report.scores]
        if report.unfinished is not None:
            scores.append(f"{report.unfinished:g} (game not over)")
        console.print(
            f"score {', '.join(scores)} in {report.interactions} interactions;"
            f" wrote {report.video} ({report.frames} frames) and {report.sheet}"
        )
        return 0

    def _learned(self, agent: KeyQN) -> tuple[str, str]:
        """What to play and what to see it through: what was asked for, or else what the agent learned from."""
        from kpagent.envs.players import OBJECTS
        from kpagent.perception.zoo import find

        env_id = self.env or agent.provenance.get("env")
        see = self.weights or agent.provenance.get("see")
        if env_id is None or see is None:
            raise UsageError(f"{self.agent} does not say what it learned from: give --env and --weights")
        if self.weights is None and see != OBJECTS:
            try:
                find(see)
            except UsageError:
                raise UsageError(
                    f"the agent learned from the keypoints of {see}, not to be found here: give --weights"
                ) from None
        return env_id, see
