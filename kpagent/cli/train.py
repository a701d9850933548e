"""`kpagent train`: learn to play from keypoints."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from kpagent.cli.terminal import console, progress_bar, stop_on_interrupt
from kpagent.errors import UsageError


@dataclass(frozen=True)
class Train:
    """Learn to play an environment from its keypoints with KeyQN, and say how well it plays.

    The protocol is that of Atari 100k: see docs/atari100k.md.
    """

    env: str
    """Gymnasium id with numbered actions, such as ALE/Pong-v5."""
    out: Path
    """Folder of the run: the agent, logs, and a checkpoint while it goes on."""
    weights: str | None = None
    """Keypoints: name in the zoo (see kpagent zoo), or path of a weights file."""
    oracle: bool = False
    """See the true positions of objects instead, where they are known: what is left to learn is the agent's share."""
    steps: int = 100_000
    """Interactions, those of the warm-up included."""
    envs: int = 4
    """Copies of the environment that are played at once."""
    features: bool = True
    """See what is under the keypoints besides where they are."""
    updates: int = 2
    """Updates of the network after every step of all copies."""
    episodes: int = 100
    """Whole games to play at the end, their score unclipped; 0 for none."""
    epsilon: float = 0.01
    """Share of random actions in these."""
    seed: int = 0
    """Of the environments, the network and the draws."""
    device: str = "auto"
    """auto, cpu or cuda."""
    resume: bool = False
    """Take up the run in OUT where it was interrupted or killed."""

    def run(self) -> int:
        """Train, evaluate, and say what was written."""
        from kpagent.agents.evaluation import play_games
        from kpagent.agents.keyqn import KeyQN
        from kpagent.agents.learning_run import AGENT, learn, recent_score
        from kpagent.drawing import require_writable
        from kpagent.envs.players import OBJECTS, make_players
        from kpagent.training import pick_device

        if (self.weights is None) != self.oracle:
            raise UsageError("give either --weights, a name in the zoo or the path of a weights file, or --oracle")
        if self.steps < 1 or self.envs < 1 or self.updates < 1 or self.episodes < 0:
            raise UsageError("--steps, --envs and --updates must be at least 1, and --episodes at least 0")
        if not 0 <= self.epsilon <= 1:
            raise UsageError(f"--epsilon must be in [0, 1], not {self.epsilon}")
        device = pick_device(self.device)
        require_writable(self.out / AGENT, ".safetensors")
        see = OBJECTS if self.weights is None else self.weights
        seen = {"features": self.features and not self.oracle, "device": self.device}
        players = make_players(self.env, self.envs, see, seed=self.seed, **seen)  # type: ignore[arg-type]
        started = time.monotonic()
        with progress_bar() as bar, stop_on_interrupt() as stopped:
            task = bar.add_task("learning", total=self.steps)

            def on_step(agent: KeyQN) -> bool:
                score = recent_score(agent)
                note = "learning" if score is None else f"learning, score {score:.1f}"
                bar.update(task, completed=agent.num_timesteps, description=note)
                return not stopped

            agent = learn(
                players,
                self.out,
                self.steps,
                resume=self.resume,
                provenance={"env": self.env, "see": see, "features": seen["features"], "seed": self.seed},
                on_step=on_step,
                gradient_steps=self.updates,
                seed=self.seed,
                device=device,
            )
        players.close()
        if agent.num_timesteps < self.steps:
            raise KeyboardInterrupt(f"the run in {self.out} is kept; go on with --resume")
        console.print(f"{agent.num_timesteps} interactions, {time.monotonic() - started:.0f} s in this go")
        if self.episodes:
            with progress_bar() as bar:
                task = bar.add_task("playing", total=self.episodes)
                games = make_players(self.env, min(16, self.episodes), see, seed=self.seed + 10_000, **seen)  # type: ignore[arg-type]
                scores = play_games(agent, games, self.episodes, self.epsilon, lambda done: bar.update(task, completed=done))
                games.close()
            console.print(
                f"score over {self.episodes} games: mean {scores.mean():.1f}, from {scores.min():g} to {scores.max():g}"
            )
        console.print(f"wrote {self.out / AGENT} and logs")
        return 0
