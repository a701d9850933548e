"""`kpagent explore`: learn to move what can be moved, without rewards."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kpagent.cli.terminal import console, progress_bar, stop_on_interrupt
from kpagent.errors import UsageError

if TYPE_CHECKING:
    from kpagent.agents.exploration import ExplorationConfig

RANDOM_INTERACTIONS = 8_000
"""Of random play, for the heatmap beside that of options: some ten seconds on one core."""


@dataclass(frozen=True)
class Explore:
    """Explore an environment without rewards: learn keypoints, and options that move them, both from frames alone.

    Rewards are counted, and never learned from: see docs/exploration.md.
    """

    env: str
    """Gymnasium id with numbered actions, such as ALE/MontezumaRevenge-v5."""
    frames: int = 10_000_000
    """Frames to see altogether; an interaction is four of Atari, and one of anything else."""
    out: Path = Path("runs/explore")
    """Folder of the run: options, keypoints, logs, pictures, and a checkpoint while it goes on."""
    actors: int = 0
    """Ray actors that play; 0 plays in this process, without Ray."""
    shards: int = 1
    """Ray actors that keep what was experienced."""
    ray_address: str | None = None
    """Ray cluster to join ("auto"); starts Ray on this machine, if not given."""
    keypoints: int = 8
    """K, the number of keypoints; a few more than there are moving things."""
    difference: bool = False
    """Let keypoints be found in what differs from the median frame: for things that look different and roam everywhere."""
    commitment: int = 20
    """T, interactions for which an option is kept."""
    envs: int = 16
    """Copies of the environment that each actor plays."""
    updates: int = 1
    """Of the options' values after every 20 interactions of an actor's copies."""
    keypoint_steps: int = 1
    """Of the keypoints after every 20 interactions of an actor's copies."""
    warm_up: int = 20_000
    """Interactions of random play, from which the keypoints alone learn."""
    warm_up_steps: int = 2_000
    """Steps of the keypoints at the end of the warm-up."""
    capacity: int = 200_000
    """Interactions that are kept, 1 to 4 KB each."""
    film_steps: int = 1_000
    """Interactions of the film at the end, at most; 0 for none."""
    checkpoint_every_s: float = 120.0
    """Most seconds of work that a kill may cost."""
    seed: int = 0
    """Of the environments, the networks and the draws; with --actors 0, one seed gives one result."""
    device: str = "auto"
    """Where options and keypoints learn: auto, cpu or cuda."""
    resume: bool = False
    """Take up the run in OUT where it was interrupted or killed."""

    def run(self) -> int:
        """Explore, draw where the most controllable keypoint has been, film an episode, and say what was written."""
        from kpagent.agents.crews import count_actions, make_crew
        from kpagent.agents.exploration import AGENT, PERCEPTION, explore, new_perception, require_free
        from kpagent.agents.exploration_log import ExplorationLog
        from kpagent.drawing import require_writable
        from kpagent.envs.players import make_player
        from kpagent.training import pick_device

        config = self._config()
        pick_device(self.device)
        num_actions = count_actions(self.env, config)
        # What would only fail when the first frame, or the film at the end, is drawn.
        make_player(self.env, new_perception(config), features=False, device="cpu").close()
        require_free(self.out, self.resume)
        require_writable(self.out / AGENT, ".safetensors")
        started, turn = time.monotonic(), None
        each = self._frames_of_an_interaction()
        log = ExplorationLog(self.out / "logs", each, config.commitment)
        crew = make_crew(self.env, config, self.actors, self.shards, self.ray_address)
        keeping = {"resume": self.resume, "checkpoint_every_s": self.checkpoint_every_s, "device": self.device}
        turns = explore(self.env, num_actions, crew, config, self.out, **keeping)  # type: ignore[arg-type]
        with contextlib.ExitStack() as stack:
            for part in (crew, log, turns):
                stack.enter_context(contextlib.closing(part))  # type: ignore[type-var]
            bar, stopped = stack.enter_context(progress_bar()), stack.enter_context(stop_on_interrupt())
            task = bar.add_task("starting", total=config.interactions * each)
            for turn in turns:
                log.note(turn)
                bar.update(task, completed=turn.interactions * each, description=log.line())
                if stopped:
                    break
        if stopped and (turn is None or turn.interactions < config.interactions):
            raise KeyboardInterrupt(f"the run in {self.out} is kept; go on with --resume")
        if turn is None:
            console.print(f"the run in {self.out} was finished before")
        else:
            scores = f"; {log.games} games ended, best score {log.best:g}" if log.best is not None else ""
            console.print(f"{turn.interactions * each} frames, {time.monotonic() - started:.0f} s in this go{scores}")
        written = [AGENT, PERCEPTION, *self._show(config)]
        console.print(f"wrote {', '.join(str(self.out / name) for name in written)} and logs")
        return 0

    def _config(self) -> ExplorationConfig:
        """What the flags say; refuses those that contradict each other."""
        from kpagent.agents.exploration import ExplorationConfig

        for flag, value, least in (("frames", self.frames, 1), ("actors", self.actors, 0), ("shards", self.shards, 1)):
            if value < least:
                raise UsageError(f"--{flag} must be at least {least}, not {value}")
        if self.film_steps < 0:
            raise UsageError(f"--film-steps must be at least 0, not {self.film_steps}")
        if self.checkpoint_every_s < 0:
            raise UsageError(f"--checkpoint-every-s must be at least 0, not {self.checkpoint_every_s}")
        if self.ray_address is not None and not self.actors:
            raise UsageError("--ray-address is for actors: give --actors too, or leave it out")
        each = self._frames_of_an_interaction()
        if self.frames <= self.warm_up * each:
            raise UsageError(
                f"nothing is learned in the warm-up's {self.warm_up * each} frames: --frames must be more, not {self.frames}"
            )
        return ExplorationConfig(
            num_keypoints=self.keypoints,
            interactions=-(-self.frames // each),
            warm_up=self.warm_up,
            warm_up_steps=self.warm_up_steps,
            envs=self.envs,
            updates=self.updates,
            keypoint_steps=self.keypoint_steps,
            commitment=self.commitment,
            capacity=self.capacity,
            difference=self.difference,
            seed=self.seed,
        )

    def _frames_of_an_interaction(self) -> int:
        from kpagent.envs.atari import FRAME_SKIP
        from kpagent.envs.objects import ATARI_VARIANTS

        return FRAME_SKIP if ATARI_VARIANTS.get(self.env, self.env).startswith("ALE/") else 1

    def _show(self, config: ExplorationConfig) -> list[str]:
        """Draw the heatmaps and film an episode; returns the names of what was written."""
        import numpy as np

        from kpagent.agents.exploration import AGENT, PERCEPTION, PLACES
        from kpagent.agents.exploration_pictures import draw_places, random_places
        from kpagent.agents.option_agent import OptionAgent
        from kpagent.agents.option_film import film_options
        from kpagent.envs.frame_players import make_frame_players
        from kpagent.envs.players import make_player, newest_frame
        from kpagent.envs.vec_env import LARGEST_SEED
        from kpagent.perception.methods import load_detector

        agent = OptionAgent.load(self.out / AGENT, "cpu")
        perception = load_detector(self.out / PERCEPTION, "cpu")
        places = np.array(json.loads((self.out / PLACES).read_text(encoding="utf-8"))["cells"])
        interactions = min(RANDOM_INTERACTIONS, config.interactions)
        names = ["places.png"]
        player = make_player(self.env, perception, features=False, device="cpu")
        with contextlib.closing(player), progress_bar() as bar:
            task = bar.add_task("looking at random play", total=None)
            other_seed = (self.seed + 10_000) % (LARGEST_SEED - config.envs)
            others = make_frame_players(self.env, config.envs, config.network.image_size, seed=other_seed)
            with contextlib.closing(others):
                compared = random_places(agent, perception, others, -(-interactions // config.envs), self.seed)
            player.reset(seed=self.seed)
            shown = {"options, while they were learned": places, f"random actions, {interactions} interactions": compared}
            draw_places(self.out / "places.png", newest_frame(player), shown)
            if self.film_steps:
                bar.update(task, description="filming", total=self.film_steps)
                film_options(
                    agent,
                    player,
                    out=self.out / "film.mp4",
                    max_steps=self.film_steps,
                    seed=self.seed,
                    progress=lambda done: bar.update(task, completed=done),
                )
                names += ["film.mp4", "film.png"]
        return names
