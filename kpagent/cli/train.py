"""`kpagent train`: learn to play from keypoints."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kpagent.cli.terminal import console, progress_bar, stop_on_interrupt
from kpagent.errors import UsageError

if TYPE_CHECKING:
    from kpagent.agents.perception_tuning import TuningConfig
    from kpagent.perception.detector import KeypointDetector


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
    finetune: bool = False
    """Let perception go on learning from what the agent sees, after 20,000, 40,000 and 60,000 interactions."""
    strict: bool = False
    """Begin with untrained keypoints, in place of --weights: perception learns from the first 5,000 interactions, which are
    random, and goes on learning as with --finetune, so that it too sees no frames but those of this run."""
    keypoints: int | None = None
    """With --strict: K, the number of keypoints; a few more than there are moving things. 8, if not given."""
    spare: int = 0
    """With --strict: keypoints to train besides; as many, those missed least, are dropped before play is learned."""
    difference: bool = False
    """With --strict: let keypoints be found in what differs from the median frame."""
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
        from kpagent.agents.learning_run import AGENT, kept_perception, learn, recent_score
        from kpagent.agents.perception_tuning import PERCEPTION
        from kpagent.drawing import require_writable
        from kpagent.envs.players import OBJECTS, make_players
        from kpagent.training import pick_device

        tuning = self._tuning()
        if self.steps < 1 or self.envs < 1 or self.updates < 1 or self.episodes < 0:
            raise UsageError("--steps, --envs and --updates must be at least 1, and --episodes at least 0")
        if not 0 <= self.epsilon <= 1:
            raise UsageError(f"--epsilon must be in [0, 1], not {self.epsilon}")
        device = pick_device(self.device)
        require_writable(self.out / AGENT, ".safetensors")
        see = str(self.out / PERCEPTION) if tuning is not None else self.weights or OBJECTS
        kept = kept_perception(self.out) if tuning is not None and self.resume else None
        begin = kept or (self._untrained() if self.strict else self.weights or OBJECTS)
        seen = {"features": self.features and not self.oracle, "device": self.device}
        players = make_players(self.env, self.envs, begin, seed=self.seed, **seen)  # type: ignore[arg-type]
        started = time.monotonic()
        with progress_bar() as bar, stop_on_interrupt() as stopped:
            task = bar.add_task("learning", total=self.steps)

            def on_step(agent: KeyQN) -> bool:
                score = recent_score(agent)
                note = "learning" if score is None else f"learning, score {score:.1f}"
                bar.update(task, completed=agent.num_timesteps, description=note)
                return not stopped

            def on_tuning(step: int, steps: int) -> bool:
                bar.update(task, description=f"perception learns, {step} of {steps}")
                return not stopped

            agent = learn(
                players,
                self.out,
                self.steps,
                resume=self.resume,
                provenance={"env": self.env, "see": see, "features": seen["features"], "seed": self.seed},
                on_step=on_step,
                tuning=tuning,
                on_tuning=on_tuning,
                gradient_steps=self.updates,
                seed=self.seed,
                device=device,
            )
        players.close()
        if agent.num_timesteps < self.steps:
            raise KeyboardInterrupt(f"the run in {self.out} is kept; go on with --resume")
        console.print(f"{agent.num_timesteps} interactions, {time.monotonic() - started:.0f} s in this go")
        if not self.oracle:
            self._account(see, agent.num_timesteps)
        if self.episodes:
            with progress_bar() as bar:
                task = bar.add_task("playing", total=self.episodes)
                games = make_players(self.env, min(16, self.episodes), see, seed=self.seed + 10_000, **seen)  # type: ignore[arg-type]
                scores = play_games(agent, games, self.episodes, self.epsilon, lambda done: bar.update(task, completed=done))
                games.close()
            console.print(
                f"score over {self.episodes} games: mean {scores.mean():.1f}, from {scores.min():g} to {scores.max():g}"
            )
        also = f", {self.out / PERCEPTION}" if tuning is not None else ""
        console.print(f"wrote {self.out / AGENT}{also} and logs")
        return 0

    def _tuning(self) -> TuningConfig | None:
        """How perception goes on learning, if it does; refuses flags that contradict each other."""
        from kpagent.agents.perception_tuning import TuningConfig

        if self.strict and (self.oracle or self.weights is not None):
            raise UsageError("--strict begins with untrained keypoints: leave out --weights and --oracle")
        if self.strict and self.finetune:
            raise UsageError("perception goes on learning with --strict in any case: leave out --finetune")
        if self.oracle and self.finetune:
            raise UsageError("there is no perception to train with --oracle: leave out --finetune, or give --weights")
        if not self.strict and (self.keypoints is not None or self.spare or self.difference):
            raise UsageError("--keypoints, --spare and --difference are for --strict; weights have what they have")
        if not self.strict and (self.weights is None) != self.oracle:
            raise UsageError("give --weights, a name in the zoo or the path of a weights file, or --oracle, or --strict")
        if not self.strict and not self.finetune:
            return None
        tuning = TuningConfig.strict(spare=self.spare, seed=self.seed) if self.strict else TuningConfig(seed=self.seed)
        if self.steps <= tuning.schedule[0]:
            flag = "--strict" if self.strict else "--finetune"
            raise UsageError(
                f"perception first learns after {tuning.schedule[0]} interactions with {flag}; --steps must be more,"
                f" not {self.steps}"
            )
        return tuning

    def _untrained(self) -> KeypointDetector:
        from kpagent.agents.perception_tuning import fresh_perception

        count = 8 if self.keypoints is None else self.keypoints
        return fresh_perception(self.env, count, seed=self.seed, difference=self.difference)

    def _account(self, see: str, interactions: int) -> None:
        """Say which frames perception was trained on."""
        from kpagent.agents.perception_tuning import interactions_seen
        from kpagent.perception.zoo import load

        before, within = interactions_seen(load(see, "cpu").provenance, own=self.finetune or self.strict)
        uncounted = "an unknown number of interactions" if before is None else f"{before} interactions"
        console.print(
            f"perception learned from {uncounted} before, which are not counted, and from {within} of these {interactions}"
        )
