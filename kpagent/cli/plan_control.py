"""`kpagent plan control`: learn a task with continuous actions by planning in keypoints that one learns on the way."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpagent.cli.terminal import console, progress_bar, stop_on_interrupt
from kpagent.errors import UsageError

if TYPE_CHECKING:
    import gymnasium as gym

    from kpagent.agents.control_play import Moment
    from kpagent.agents.mpc_learning import ControlReport, MPCLearningConfig

_DOING = {
    "random": "random play",
    "playing": "playing",
    "start": "keypoints begin",
    "code": "learning keypoints",
    "encoding": "encoding frames",
    "learning": "learning dynamics",
}


@dataclass(frozen=True)
class PlanControl:
    """Learn a task with continuous actions from pixels: play, learn keypoints, dynamics and rewards, plan, play on.

    Then play some episodes, and film the first: keypoints on the frame, and beside it the rewards that came and those that
    were foretold. With --weights an agent that has learned does only this.
    """

    out: Path
    """Folder of the run: agent.safetensors, returns.csv, TensorBoard logs, control.mp4, control.png."""
    env: str | None = None
    """Gymnasium id with a box of actions, such as dm_control/reacher-easy-v0; what --weights learned, if not given."""
    weights: Path | None = None
    """An agent.safetensors: it plays, and nothing is learned."""
    steps: int = 50_000
    """Interactions to learn from: actions of the agent, each of which the environment may repeat."""
    random: int = 5_000
    """Of these, the first ones, with random actions."""
    repeat: int | None = None
    """How often an action is repeated; 8 in cartpole, 4 in reacher, cheetah, acrobot and pendulum, 2 in others of DeepMind
    Control and 1 elsewhere, if not given."""
    keypoints: int = 16
    """K."""
    code_steps: int = 2_000
    """Of the keypoints at first; a quarter each time that there is twice as much to learn from."""
    first_updates: int = 3_000
    """Of dynamics and rewards, from random play."""
    updates: float = 0.4
    """Of dynamics and rewards for each interaction after that."""
    horizon: int | None = None
    """Actions that are planned ahead: 12, if not given, or as --weights did."""
    candidates: int | None = None
    """Ways to act in each round of a decision: likewise, 500."""
    rounds: int | None = None
    """Of a decision: likewise, 4."""
    futures: int | None = None
    """Imagined futures of each way to act, or 0 to follow the mean of the model's beliefs: likewise, 0."""
    episodes: int = 5
    """To play at the end, without noise."""
    fps: float = 15
    """Frames a second of the film."""
    seed: int = 0
    """Of everything that is drawn."""
    device: str = "auto"
    """auto, cpu or cuda."""
    resume: bool = False
    """Take up the run in OUT where it was interrupted or killed."""

    def run(self) -> int:
        """Learn, unless there are weights; play, film, and say how it went."""
        from kpagent.agents.mpc_learning import AGENT, learned_env, load_planner
        from kpagent.envs.control_play import default_repeat, make_control_env
        from kpagent.envs.recording import require_film
        from kpagent.training import pick_device

        env_id, repeat = self._require_arguments()
        device = pick_device(self.device)
        if self.weights is not None:
            learned, repeat = learned_env(self.weights)
            if env_id not in (None, learned):
                raise UsageError(f"{self.weights} has learned {learned}, not {env_id}")
            env_id = learned
        assert env_id is not None
        repeat = default_repeat(env_id) if repeat is None else repeat
        with contextlib.closing(make_control_env(env_id, repeat=repeat)) as env:
            if self.weights is None:
                config = self._config()
                self._learn(env, env_id, repeat, config, device)
            path = self.out / AGENT if self.weights is None else self.weights
            planner = load_planner(path, env, device=device, seed=self.seed, **self._search)
            video, sheet = require_film(self.out / "control.mp4")
            self._play(env, planner, video)
        written = [*([path] if self.weights is None else []), video, sheet]
        console.print(f"wrote {', '.join(map(str, written))}{' and logs' if self.weights is None else ''}")
        return 0

    def _learn(self, env: gym.Env[Any, Any], env_id: str, repeat: int, config: MPCLearningConfig, device: Any) -> None:
        from kpagent.agents.mpc_learning import learn_control
        from kpagent.dynamics.configuration import StructVRNNConfig
        from kpagent.envs.control_sequences import action_bounds

        model = StructVRNNConfig.planning(self.keypoints, len(action_bounds(env_id, env.action_space)[0]))
        about = {"env": env_id, "repeat": repeat}
        started, begun, report = time.monotonic(), False, None
        with stop_on_interrupt() as stopped:
            run = learn_control(env, model, config, self.out, provenance=about, device=device, resume=self.resume)
            with contextlib.closing(run), progress_bar() as bar:  # type: ignore[type-var]
                task, line = bar.add_task("starting", total=self.steps), _Line()
                for report in run:
                    bar.update(task, completed=report.interactions, description=line.of(report))
                    begun = True
                    if report.ended is not None:
                        bar.console.print(f"{report.interactions} interactions: return {report.ended:.1f}")
                    if stopped:
                        break
        if stopped:
            raise KeyboardInterrupt(f"the run in {self.out} is kept; go on with --resume")
        if not begun or report is None:
            console.print(f"the run in {self.out} was finished before")
        else:
            console.print(f"{report.interactions} interactions, {time.monotonic() - started:.0f} s in this go")

    def _play(self, env: gym.Env[Any, Any], planner: Any, video: Path) -> None:
        import numpy as np

        from kpagent.agents.control_play import play
        from kpagent.agents.mpc_learning import evaluation_seed
        from kpagent.envs.recording import record

        returns: list[float] = []
        decisions, spent = 0, 0.0
        with progress_bar() as bar:
            task = bar.add_task("playing", total=None)

            def show(moment: Moment) -> None:
                bar.update(task, description=f"playing, episode {len(returns) + 1}, return {moment.total:.1f}")

            for number in range(self.episodes):
                started = time.monotonic()
                moments = play(planner, env, evaluation_seed(self.seed, number), longest=_LONGEST)
                if number == 0:
                    last = record(moments, video, fps=self.fps, on_scene=show)
                else:
                    for last in moments:
                        show(last)
                returns.append(last.total)
                decisions, spent = decisions + last.number, spent + time.monotonic() - started
                bar.console.print(f"episode {number + 1}: return {last.total:.1f} in {last.number} interactions")
        rate = decisions / max(spent, 1e-9)
        console.print(f"mean return {np.mean(returns):.1f} of {len(returns)} episodes; {rate:.1f} interactions/s")

    def _config(self) -> MPCLearningConfig:
        from kpagent.agents.control_learning import ControlTraining
        from kpagent.agents.keypoint_mpc import MPCConfig
        from kpagent.agents.mpc_learning import MPCLearningConfig

        return MPCLearningConfig(
            interactions=self.steps,
            random=self.random,
            longest=_LONGEST,
            first_updates=self.first_updates,
            updates=self.updates,
            training=ControlTraining.of(self.code_steps),
            planner=MPCConfig(**self._search),
            seed=self.seed,
        )

    @property
    def _search(self) -> dict[str, int]:
        """What was said of how actions are chosen."""
        given = {name: getattr(self, name) for name in ("horizon", "candidates", "rounds", "futures")}
        return {name: value for name, value in given.items() if value is not None}

    def _require_arguments(self) -> tuple[str | None, int | None]:
        """What the flags say of the environment; refuses those that cannot be."""
        if self.env is None and self.weights is None:
            raise UsageError("give --env, such as dm_control/reacher-easy-v0, or --weights of an agent that has learned")
        if self.weights is not None and (self.resume or self.repeat is not None):
            raise UsageError(f"--{'resume' if self.resume else 'repeat'} is for learning; leave it out, or --weights")
        for name, least in (("steps", 1), ("random", 1), ("episodes", 1), ("seed", 0), ("code_steps", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"--{name.replace('_', '-')} must be at least {least}, not {getattr(self, name)}")
        if self.repeat is not None and self.repeat < 1:
            raise UsageError(f"--repeat must be at least 1, not {self.repeat}")
        if self.random > self.steps:
            raise UsageError(f"--random must be at most --steps, which is {self.steps}, not {self.random}")
        if not 0 < self.fps < math.inf:
            raise UsageError(f"--fps must be above 0, not {self.fps}")
        self._config()
        return self.env, self.repeat


_LONGEST = 1_000
"""Interactions after which an episode ends in any case."""


class _Line:
    """What the bar says: what is being done, and how episodes went of late."""

    def __init__(self) -> None:
        self.recent: deque[float] = deque(maxlen=10)

    def of(self, report: ControlReport) -> str:
        if report.ended is not None:
            self.recent.append(report.ended)
        late = f", return {sum(self.recent) / len(self.recent):.1f} of late" if self.recent else ""
        return f"{_DOING[report.doing]} {report.step}/{report.steps}{late}"
