"""Learning to plan from nothing but one's own episodes: keypoints, dynamics and rewards, all from what was played so far.

`learn_control` is the whole algorithm, read from top to bottom. Everything in it is a function of the seed and of the
episodes on disk, so a run that was killed goes on as if it had not been.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch

from kpagent.agents.control_learning import ControlTraining, encode, keep_code, learn_code, learn_world, take_code
from kpagent.agents.control_model import ControlModel, RewardReadConfig
from kpagent.agents.control_play import Moment, RandomPolicy, gather, play
from kpagent.agents.keypoint_mpc import KeypointMPC, MPCConfig
from kpagent.collect.episodes import Episode, EpisodeReplay
from kpagent.dynamics.configuration import StructVRNNConfig
from kpagent.errors import UsageError
from kpagent.fields import require
from kpagent.files import read_header, write_text
from kpagent.run_folder import claim
from kpagent.training import Progress, describe

AGENT = "agent.safetensors"
"""In the folder of a run: the model when the run ends, for `ControlModel.load`; its header knows environment and planner."""
EPISODES = "episodes"
"""In the folder of a run: what was played, as long as the run goes on."""
RETURNS = "returns.csv"
"""In the folder of a run: interactions so far, return and kind of each episode."""
WORLD = "checkpoint.safetensors"
"""In the folder of a run: the state of dynamics and rewards, as long as it goes on."""


@dataclass(frozen=True)
class MPCLearningConfig:
    """How an agent learns to plan."""

    interactions: int = 50_000
    """Altogether, an interaction being one action of the agent, however often the environment repeats it."""
    random: int = 5_000
    """Of these, the first ones, with random actions."""
    capacity: int = 50_000
    """Interactions that are kept in memory."""
    longest: int = 1_000
    """Interactions after which an episode ends in any case."""
    first_updates: int = 3_000
    """Of dynamics and rewards, from random play."""
    updates: float = 0.4
    """For each interaction after that."""
    updates_again: int = 500
    """More, each time that the keypoints have learned on, which they do whenever there is twice as much to learn from."""
    training: ControlTraining = field(default_factory=ControlTraining)
    """Of keypoints, dynamics and rewards."""
    rewards: RewardReadConfig = field(default_factory=RewardReadConfig)
    """How rewards are read."""
    planner: MPCConfig = field(default_factory=MPCConfig)
    """How actions are chosen."""
    seed: int = 0
    """Of everything that is drawn."""

    def __post_init__(self) -> None:
        checks = {
            "random must be at least 1": self.random >= 1,
            "interactions must be at least random": self.interactions >= self.random,
            "capacity must be at least longest": self.capacity >= self.longest,
            "longest must be at least 2": self.longest >= 2,
            "first_updates must be at least 1": self.first_updates >= 1,
            "updates must not be negative": self.updates >= 0,
            "updates_again must not be negative": self.updates_again >= 0,
            "seed must not be negative": self.seed >= 0,
        }
        require(self, checks)

    def stages(self, interactions: int) -> int:
        """How often the keypoints have learned, or have to, after so many interactions."""
        return (interactions // self.random).bit_length()

    def due(self, interactions: int) -> int:
        """Updates of dynamics and rewards after so many interactions."""
        later = int(self.updates * max(0, interactions - self.random))
        return self.first_updates + later + self.updates_again * (self.stages(interactions) - 1)


@dataclass(frozen=True)
class ControlReport:
    """What `learn_control` yields as it goes on."""

    doing: Literal["random", "playing", "start", "code", "encoding", "learning"]
    """What is being done."""
    step: int
    """Of that: actions of this episode, or steps."""
    steps: int
    """Of how many, at most."""
    interactions: int
    """So far."""
    ended: float | None = None
    """The return of the episode that has just ended."""
    metrics: Any = None
    """Of an update of dynamics and rewards: scalars by name."""


def learn_control(
    env: gym.Env[Any, Any],
    model_config: StructVRNNConfig,
    config: MPCLearningConfig,
    out: Path,
    *,
    provenance: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
    resume: bool = False,
) -> Iterator[ControlReport]:
    """Learn within a number of interactions, in a folder that holds the run.

    In `out`: `config.json`; `agent.safetensors`, when it is done; `returns.csv`; `logs/` for TensorBoard; and as long as it
    goes on `episodes/` and the state of what learns. A run that is taken up gives, on one machine and number of threads, the
    parameters of one that ran through; a kill costs the episode, or a minute of learning, that it fell into.

    Args:
        env: whose observations are frames, as `make_control_env` makes it.
        model_config: of the model; its actions become those of the environment.
        config: how.
        out: folder of the run.
        provenance: what the environment is, `env` and `repeat`; it goes into the header of the weights.
        device: where it learns and plans.
        resume: take up the run in `out`.

    Raises:
        UsageError: before any work: an environment that the planner cannot act in; `out` holds a run and `resume` is not
            set, or one of other settings. Later: episodes too short to learn from.
    """
    # The first weights depend on the seed alone, not on what was drawn before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = ControlModel(model_config, config.rewards).to(device).eval()
    planner = KeypointMPC(env, model, config.planner, seed=config.seed)
    about = dict(provenance or {})
    settings = {"model": model_config.to_dict(), "learning": describe(config), "provenance": about}
    begun = any((out / name).exists() for name in (AGENT, EPISODES))
    claim(out, settings, begun=begun, resume=resume)
    return _Run(env, model, planner, config, out, settings).go()


class _Run:
    """A run that was found to be possible."""

    def __init__(
        self,
        env: gym.Env[Any, Any],
        model: ControlModel,
        planner: KeypointMPC,
        config: MPCLearningConfig,
        out: Path,
        settings: dict[str, Any],
    ) -> None:
        self.env, self.model, self.planner, self.config, self.out = env, model, planner, config, out
        self.settings = settings
        self.replay = EpisodeReplay(config.capacity)
        self.interactions, self.stage, self.updates = 0, 0, 0
        self.returns: list[tuple[int, float, str]] = []

    def go(self) -> Iterator[ControlReport]:
        from torch.utils.tensorboard import SummaryWriter

        config = self.config
        if (self.out / AGENT).exists():
            return
        (self.out / EPISODES).mkdir(parents=True, exist_ok=True)
        yield from self._restore()
        with SummaryWriter(self.out / "logs", purge_step=self.interactions) as log:
            while True:
                if self.interactions >= config.random:
                    yield from self._learn_code()
                    yield from self._learn_world(log)
                if self.interactions >= config.interactions:
                    break
                yield from self._play(log)
        self._finish()

    def _restore(self) -> Iterator[ControlReport]:
        """Take up what is on disk."""
        paths = sorted((self.out / EPISODES).glob("*.safetensors"))
        while (self.out / _code_file(self.stage)).exists():
            self.stage += 1
        if self.stage:
            take_code(self.out / _code_file(self.stage - 1), self.model)
        for number, path in enumerate(paths):
            episode, about = Episode.load(path)
            self._keep(episode, encode(self.model, episode) if self.stage else None, about["kind"])
            yield ControlReport("encoding", number + 1, len(paths), self.interactions)

    def _play(self, log: Any) -> Iterator[ControlReport]:
        """One more episode."""
        config, number = self.config, len(self.returns)
        random = self.interactions < config.random
        longest = min(config.longest, (config.random if random else config.interactions) - self.interactions)
        policy: Any = self.planner
        seeds = np.random.SeedSequence((config.seed, number, 2)).generate_state(2)
        if random:
            assert isinstance(self.env.action_space, gym.spaces.Box)
            policy = RandomPolicy(self.env.action_space, int(seeds[1]))
        self.planner.begun = number
        doing: Literal["random", "playing"] = "random" if random else "playing"
        moments: list[Moment] = []
        for moment in play(policy, self.env, int(seeds[0] >> 1), longest=longest, deterministic=False):
            moments.append(moment)
            yield ControlReport(doing, moment.number, longest, self.interactions + moment.number)
        episode = gather(iter(moments))
        kind = "random" if random else "planned"
        episode.save(self.out / EPISODES / f"{number:06}.safetensors", {"kind": kind})
        self._keep(episode, encode(self.model, episode) if self.stage else None, kind)
        last = moments[-1]
        write_text(self.out / RETURNS, _table(self.returns))
        log.add_scalar(f"return/{kind}", last.total, self.interactions)
        if last.expected:
            away = np.array(last.rewards) - np.array(last.expected)
            log.add_scalar("rewards/next_error", float(np.abs(away).mean()), self.interactions)
        yield ControlReport(doing, last.number, longest, self.interactions, ended=last.total)

    def _learn_code(self) -> Iterator[ControlReport]:
        """Let the keypoints learn as often as there is cause to by now."""
        config = self.config
        while self.stage < config.stages(self.interactions):
            checkpoint = self.out / f"checkpoint-code-{self.stage}.safetensors"
            learning = learn_code(
                self.model, self.replay, config.training, stage=self.stage, seed=config.seed, checkpoint=checkpoint
            )
            with contextlib.closing(learning):  # type: ignore[type-var]
                for doing, step, steps in learning:
                    yield ControlReport(doing, step, steps, self.interactions)  # type: ignore[arg-type]
            self.model.eval()
            for number, episode in enumerate(self.replay.episodes):
                self.replay.codes[number] = encode(self.model, episode)
                yield ControlReport("encoding", number + 1, len(self.replay.episodes), self.interactions)
            codes = torch.cat([codes for codes in self.replay.codes if codes is not None])
            rewards = np.concatenate([episode.rewards for episode in self.replay.episodes])
            self.model.set_units(codes, torch.from_numpy(rewards).to(codes))
            keep_code(self.out / _code_file(self.stage), self.model)
            checkpoint.unlink(missing_ok=True)
            self.stage += 1

    def _learn_world(self, log: Any) -> Iterator[ControlReport]:
        """Let dynamics and rewards learn as long as they have to by now."""
        config, due = self.config, self.config.due(self.interactions)
        steps = learn_world(
            self.model, self.replay, config.training, steps=due, seed=config.seed, checkpoint=self.out / WORLD
        )
        progress: Progress | None = None
        with contextlib.closing(steps):  # type: ignore[type-var]
            for progress in steps:
                yield ControlReport("learning", progress.step, due, self.interactions, metrics=progress.metrics)
        if progress is not None:
            for name, value in progress.metrics.items():
                log.add_scalar(f"model/{name}", float(value), self.interactions)

    def _keep(self, episode: Episode, codes: torch.Tensor | None, kind: str) -> None:
        self.replay.add(episode, codes)
        self.interactions += len(episode)
        self.returns.append((self.interactions, float(episode.rewards.astype(np.float64).sum()), kind))

    def _finish(self) -> None:
        """Write the agent, and let go of what only the run needed."""
        self.model.provenance = {
            **self.settings["provenance"],
            "learning": self.settings["learning"],
            "interactions": self.interactions,
            "versions": {"kpagent": version("kpagent"), "torch": torch.__version__},
        }
        self.model.save(self.out / AGENT)
        for path in (*(self.out / EPISODES).iterdir(), *self.out.glob("checkpoint*"), *self.out.glob("code-*")):
            path.unlink()
        (self.out / EPISODES).rmdir()


def read_returns(out: Path) -> list[tuple[int, float, str]]:
    """Interactions so far, return and kind (random, planned) of each episode of a run."""
    path = out / RETURNS
    lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
    return [(int(at), float(value), kind) for at, value, kind in (line.split(",") for line in lines)]


def evaluation_seed(seed: int, episode: int) -> int:
    """Of the reset of an episode that nothing is learned from: another than those of any training."""
    return int(np.random.SeedSequence((seed, episode, 3)).generate_state(1)[0] >> 1)


def load_planner(
    path: Path, env: gym.Env[Any, Any], *, device: torch.device | str = "cpu", seed: int = 0, **changes: Any
) -> KeypointMPC:
    """The agent of a finished run, for the environment that it learned in.

    Args:
        path: `agent.safetensors`.
        env: to act in.
        device: where it plans.
        seed: of what it draws.
        changes: of the fields of its `MPCConfig`.

    Raises:
        UsageError: no such file, damaged, no such agent, or one of another environment.
    """
    model = ControlModel.load(path, device)
    try:
        planner = MPCConfig(**{**model.provenance["learning"]["planner"], **changes})
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path} does not say how it plans: {error}") from error
    return KeypointMPC(env, model, planner, seed=seed)


def learned_env(path: Path) -> tuple[str, int]:
    """The environment that an agent learned in, and how often it repeats an action.

    Raises:
        UsageError: no such file, or it does not say so.
    """
    if not path.is_file():
        raise UsageError(f"no weights file at {path}")
    about = read_header(path).get("provenance") or {}
    if not isinstance(about.get("env"), str) or not isinstance(about.get("repeat"), int):
        raise UsageError(f"{path} is no agent of kpagent plan control: it does not say what it learned in")
    return about["env"], about["repeat"]


def _code_file(stage: int) -> str:
    return f"code-{stage}.safetensors"


def _table(returns: list[tuple[int, float, str]]) -> str:
    return "interactions,return,kind\n" + "".join(f"{at},{value!r},{kind}\n" for at, value, kind in returns)
