"""Exploring without rewards: actors play keypoint options, Transporter and the Q-functions learn from what they bring.

`explore` is the whole algorithm, read from top to bottom. Who plays, and where experience is kept, is a `Crew`: one in this
process, or one of many processes on many machines.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kpagent.agents.agent_file import load_agent, save_agent
from kpagent.agents.option_actor import Experience, Weights
from kpagent.agents.option_agent import OptionAgent
from kpagent.agents.option_learner import OptionLearner, OptionLearningConfig
from kpagent.agents.option_network import OptionNetwork, OptionNetworkConfig
from kpagent.collect.replay import Segments
from kpagent.errors import UsageError
from kpagent.fields import require
from kpagent.files import write_json
from kpagent.perception.detector import KeypointDetector
from kpagent.perception.methods import new_detector
from kpagent.perception.online import OnlineConfig, OnlineTrainer
from kpagent.training import describe, pick_device

AGENT, PERCEPTION = "agent.safetensors", "perception.safetensors"
"""In the folder of a run: the options and the keypoints as they are now."""
PLACES = "places.json"
"""In the folder of a run: `Turn.places` as nested lists, under `cells`."""
CHECKPOINT = "checkpoint.safetensors"
"""The learner, as long as the run goes on."""
SETTLING = 25
"""Steps of the keypoints in a turn at the end of the warm-up, in which nobody plays."""
CELLS = (21, 16)
"""Rows and columns of the map of places: squares of 10 pixels of Atari's screen."""


@dataclass(frozen=True)
class ExplorationConfig:
    """How options are learned."""

    num_keypoints: int = 8
    """K."""
    interactions: int = 2_500_000
    """Altogether, four frames each, those of the warm-up included."""
    warm_up: int = 20_000
    """Interactions of random play, from which the keypoints alone learn."""
    warm_up_steps: int = 2_000
    """Optimiser steps of the keypoints at the end of the warm-up."""
    envs: int = 16
    """Copies of the environment that each actor plays."""
    round_length: int = 20
    """Interactions of each copy between two turns of learning."""
    updates: int = 1
    """Of the Q-functions after each actor's round."""
    keypoint_steps: int = 1
    """Of the keypoints after each actor's round."""
    commitment: int = 20
    """T, interactions for which an option is kept."""
    capacity: int = 200_000
    """Interactions that are kept."""
    offset: tuple[int, int] = (1, 100)
    """Least and most interactions between the frames of a pair: Appendix B's trajectories. With section 4's 20, and five
    keypoints, Ms. Pac-Man was followed by one of them in 67% of frames after 2,200 steps; with 100 and eight, in 96%."""
    watch_every: int = 4
    """Interactions between two looks at where the most controllable keypoint is."""
    difference: bool = False
    """As of `DetectorConfig`."""
    learning: OptionLearningConfig = field(default_factory=OptionLearningConfig)
    """Of the Q-functions."""
    keypoints: OnlineConfig = field(default_factory=OnlineConfig)
    """Of the keypoints."""
    network: OptionNetworkConfig = field(default_factory=OptionNetworkConfig)
    """Sizes of the Q-functions' network."""
    seed: int = 0
    """Of everything that is drawn."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "offset", tuple(self.offset))
        checks = {
            "num_keypoints must be at least 1": self.num_keypoints >= 1,
            "interactions must be at least 1": self.interactions >= 1,
            "warm_up must be at least 1000": self.warm_up >= 1000,
            "warm_up_steps must be at least 1": self.warm_up_steps >= 1,
            "envs must be at least 1": self.envs >= 1,
            "round_length must be at least 1": self.round_length >= 1,
            "updates must be at least 1": self.updates >= 1,
            "keypoint_steps must not be negative": self.keypoint_steps >= 0,
            "commitment must be at least 1": self.commitment >= 1,
            "capacity must be at least warm_up": self.capacity >= self.warm_up,
            "offset must be two numbers from 1 on that do not fall": len(self.offset) == 2
            and 1 <= self.offset[0] <= self.offset[1],
            "watch_every must be at least 1": self.watch_every >= 1,
            "seed must not be negative": self.seed >= 0,
        }
        require(self, checks)


class Crew(Protocol):
    """Who plays, and where experience is kept."""

    def publish(self, weights: Weights) -> None:
        """Let everybody play and see with these weights from now on."""

    def gather(self, *, random: bool) -> list[Experience]:
        """What the next actors to finish a round have experienced, without its rows: these are in the replay."""

    def sample(self, batch_size: int, length: int, generator: np.random.Generator) -> Segments:
        """Segments of everybody's experience."""

    def pairs(self, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Frame pairs of everybody's experience, (count, S, S, 3) uint8 each."""

    def close(self) -> None:
        """End all that plays."""


@dataclass(frozen=True)
class Turn:
    """What `explore` yields after each turn of playing and learning."""

    interactions: int
    """So far."""
    per_second: float
    """Interactions, of this turn."""
    learning: bool
    """Whether the warm-up is over."""
    keypoint_loss: float | None
    """Mean of this turn's steps."""
    option_loss: float | None
    """Of this turn's last update."""
    displacement: tuple[float, ...] | None
    """Mean move an interaction of the keypoint whose option was followed, along each of four directions (coordinates)."""
    keypoint: int | None
    """The one that was the most controllable most often in this turn."""
    returns: tuple[float, ...]
    """Extrinsic score of each game that ended in this turn; nothing learns from it."""
    places: np.ndarray
    """`CELLS` int64, how often the most controllable keypoint has been in each cell of the screen since learning began."""


def explore(
    env_id: str,
    num_actions: int,
    crew: Crew,
    config: ExplorationConfig,
    folder: Path,
    *,
    resume: bool = False,
    checkpoint_every_s: float = 120.0,
    device: str = "auto",
) -> Iterator[Turn]:
    """Learn options from nothing but frames, yielding after each turn; a run that was killed can be taken up.

    In `folder`: `agent.safetensors`, the options; `perception.safetensors`, the keypoints; `places.json`, where the most
    controllable keypoint has been; `config.json`; and while the run goes on `checkpoint.safetensors`, the learner. The
    replay is not kept: a run that is taken up fills it anew by playing. One that is finished yields nothing more.

    Args:
        env_id: for the provenance.
        num_actions: A.
        crew: plays and keeps experience.
        config: how.
        folder: of the run.
        resume: take up the run in the folder, if there is one.
        checkpoint_every_s: most seconds of work that a kill may cost.
        device: of the learner: auto, cpu or cuda.

    Raises:
        UsageError: the folder holds a run already and `resume` was not asked for, or one of other settings.
    """
    learner, trainer = new_learner(num_actions, config, pick_device(device))
    generator = np.random.default_rng((config.seed, 1))
    settings = json.loads(json.dumps({"env": env_id, "actions": num_actions, "exploration": describe(config)}))
    kept = folder / CHECKPOINT
    require_free(folder, resume)
    run = _Run(learner, trainer, generator, settings)
    if kept.exists():
        run.restore(kept)
    elif (folder / AGENT).exists():
        _require_same(settings, read_settings(folder), folder)
        return
    write_json(folder / "config.json", settings)
    filled, saved_at, turns = 0, time.monotonic(), 0
    learning = config.learning

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        return crew.pairs(count, generator)

    crew.publish(weights_of(learner, trainer))
    try:
        while run.interactions < config.interactions:
            started = time.perf_counter()
            # Before anybody learns to move keypoints, they must be worth moving.
            settling = filled >= config.warm_up and trainer.steps < config.warm_up_steps
            gathered = [] if settling else crew.gather(random=learner.updates == 0)
            fresh = sum(each.interactions for each in gathered)
            run.interactions += fresh
            filled += fresh
            # Before, the Q-functions and keypoints that say where are random.
            for each in gathered if learner.updates else []:
                run.places += count_places(each.places)
            steps = (
                min(SETTLING, config.warm_up_steps - trainer.steps) if settling else config.keypoint_steps * len(gathered)
            )
            figures: dict[str, Tensor] = {}
            losses = [trainer.step(draw) for _ in range(steps)] if filled >= config.warm_up else []
            if filled >= config.warm_up and trainer.steps >= config.warm_up_steps:
                for _ in range(config.updates * len(gathered)):
                    figures = learner.update(crew.sample(learning.batch_size, learning.sequence_length, generator))
                crew.publish(weights_of(learner, trainer))
            turns += 1
            returns = tuple(score for each in gathered for score in each.returns)
            yield run.turn(fresh / (time.perf_counter() - started), losses, figures, gathered, returns)
            if time.monotonic() - saved_at > checkpoint_every_s:
                run.keep(folder, config)
                saved_at = time.monotonic()
    finally:
        if turns:
            run.keep(folder, config)
    kept.unlink(missing_ok=True)


def new_learner(num_actions: int, config: ExplorationConfig, device: torch.device) -> tuple[OptionLearner, OnlineTrainer]:
    """The learners of options and keypoints, before the first step."""
    # The keypoints of an untrained model and the Q-functions depend on the seed alone, not on what was drawn before.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        network = OptionNetwork(config.num_keypoints, num_actions, config.network).to(device)
    perception = new_perception(config).to(device)
    return OptionLearner(network, perception, config.learning), OnlineTrainer(perception, config.keypoints)


def new_perception(config: ExplorationConfig) -> KeypointDetector:
    """An untrained Transporter."""
    size = config.network.image_size
    return new_detector(
        "transporter", config.num_keypoints, seed=config.seed, image_size=size, difference=config.difference
    ).eval()


def weights_of(learner: OptionLearner, trainer: OnlineTrainer) -> Weights:
    """What a crew plays and sees with: the slow copy of the Q-functions, and the keypoints."""
    parts = {"network": learner.target.state_dict(), "perception": trainer.model.state_dict()}
    return {part: {name: tensor.cpu().numpy() for name, tensor in state.items()} for part, state in parts.items()}


def count_places(places: np.ndarray) -> np.ndarray:
    """How many of (M, 2) coordinates in [-1, 1] lie in each cell of the screen, `CELLS` int64."""
    counts, _, _ = np.histogram2d(places[:, 1], places[:, 0], bins=CELLS, range=[[-1, 1], [-1, 1]])
    return counts.astype(np.int64)


def require_free(folder: Path, resume: bool) -> None:
    """Make sure that no run is overwritten.

    Raises:
        UsageError: the folder holds a run, and `resume` was not asked for.
    """
    if not resume and any((folder / name).exists() for name in (CHECKPOINT, AGENT)):
        raise UsageError(f"{folder} holds a run already; add --resume to take it up, or choose another --out")


def read_settings(folder: Path) -> dict[str, Any]:
    """What a run in a folder was started with: `env`, `actions` and `exploration`.

    Raises:
        UsageError: there is no run, or its config.json is damaged.
    """
    path = folder / "config.json"
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    return settings


def _require_same(settings: Any, found: Any, folder: Path) -> None:
    if found != settings:
        raise UsageError(f"{folder} holds a run of other settings; resume it as it was started")


class _Run:
    """What a run has come to, and how it is kept."""

    def __init__(
        self,
        learner: OptionLearner,
        trainer: OnlineTrainer,
        generator: np.random.Generator,
        settings: Mapping[str, Any],
    ) -> None:
        self.learner, self.trainer, self.generator, self.settings = learner, trainer, generator, settings
        self.interactions = 0
        self.places = np.zeros(CELLS, np.int64)

    def turn(
        self,
        per_second: float,
        losses: list[Tensor],
        figures: Mapping[str, Tensor],
        gathered: list[Experience],
        returns: tuple[float, ...],
    ) -> Turn:
        """What has just been done."""
        controlled = np.concatenate([np.zeros(0, np.int64), *(each.controlled for each in gathered)])
        return Turn(
            interactions=self.interactions,
            per_second=per_second,
            learning=bool(figures),
            keypoint_loss=float(torch.stack(losses).mean()) if losses else None,
            option_loss=float(figures["loss"]) if figures else None,
            displacement=tuple(figures["displacement"].tolist()) if figures else None,
            keypoint=int(np.bincount(controlled).argmax()) if len(controlled) else None,
            returns=returns,
            places=self.places.copy(),
        )

    def keep(self, folder: Path, config: ExplorationConfig) -> None:
        """Write the learner, the options and the keypoints."""
        learner, trainer = self.learner, self.trainer
        about = {
            "algorithm": "Exploration",
            "settings": self.settings,
            "progress": {
                "interactions": self.interactions,
                "updates": learner.updates,
                "steps": trainer.steps,
                "generator": self.generator.bit_generator.state,
            },
        }
        tensors = {
            "network": learner.network.state_dict(),
            "target": learner.target.state_dict(),
            "perception": trainer.model.state_dict(),
            "online": trainer.state_dict(),
            "run": {"places": torch.as_tensor(self.places)},
        }
        save_agent(folder / CHECKPOINT, about, tensors, learner.optimizer.state_dict())
        about_agent = {"env": self.settings["env"], "interactions": self.interactions, "seed": config.seed}
        OptionAgent(learner.target, config.commitment, about_agent).save(folder / AGENT)
        trainer.model.provenance = about_agent | {"steps": trainer.steps}
        trainer.model.save(folder / PERCEPTION)
        write_json(folder / PLACES, {"cells": self.places.tolist()})

    def restore(self, path: Path) -> None:
        """Take up what `keep` wrote.

        Raises:
            UsageError: damaged, or of other settings.
        """
        about, tensors, optimizer = load_agent(path, "Exploration")
        _require_same(self.settings, about.get("settings"), path.parent)
        learner, trainer, progress = self.learner, self.trainer, about["progress"]
        learner.network.load_state_dict(tensors["network"])
        learner.target.load_state_dict(tensors["target"])
        learner.optimizer.load_state_dict(optimizer)
        trainer.model.load_state_dict(tensors["perception"])
        # Before the first step there is nothing to keep, and a group of no tensors leaves no trace in the file.
        trainer.load_state_dict(tensors.get("online", {}), progress["steps"])
        self.interactions, learner.updates = progress["interactions"], progress["updates"]
        self.places[:] = tensors["run"]["places"].numpy()
        self.generator.bit_generator.state = progress["generator"]
