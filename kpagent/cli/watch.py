"""`kpagent watch`: see what keypoints see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kpagent.cli.terminal import console, progress_bar


@dataclass(frozen=True)
class Watch:
    """Play an environment at random and write a video with its keypoints, and a contact sheet beside it."""

    env: str
    """Gymnasium id, such as ALE/Pong-v5."""
    weights: str
    """Name in the zoo (see kpagent zoo), or path of a weights file."""
    out: Path = Path("watch.mp4")
    """Video to write; the contact sheet has the same name with .png."""
    steps: int = 600
    """Interactions to play."""
    fps: float = 30
    """Frames a second of the video."""
    trail: int = 16
    """Interactions after which a trail has faded."""
    labels: bool = False
    """Number the keypoints."""
    seed: int = 0
    """Of the environment and the actions."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def run(self) -> int:
        """Write the video and the sheet, print an observation and the speed."""
        from kpagent.envs.watching import format_observation, watch
        from kpagent.perception.zoo import find

        find(self.weights)
        with progress_bar() as bar:
            task = bar.add_task("playing", total=self.steps)
            report = watch(
                self.env,
                self.weights,
                out=self.out,
                steps=self.steps,
                seed=self.seed,
                fps=self.fps,
                trail=self.trail,
                labels=self.labels,
                device=self.device,
                progress=lambda done, total: bar.update(task, completed=done),
            )
        console.print(f"an observation of KeypointObservation:\n{format_observation(report.observation)}")
        console.print(f"{report.interactions_per_s:.0f} interactions/s, environment and keypoints")
        console.print(f"wrote {report.video} ({report.interactions} frames) and {report.sheet}")
        return 0
