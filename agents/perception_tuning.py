"""Perception that goes on learning from the frames that the agent sees, while the Q-network stays as it is.

The paper freezes perception and names its price: a game that shows new things later needs keypoints that know them. Here
training goes on from the same weights, so that each keypoint stays with what it follows; then every row of the replay is
encoded anew, and all that the Q-network sees speaks of the present keypoints. From untrained weights (`fresh_perception`),
perception sees nothing but the frames of the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from kpagent.agents.keyqn import KeyQN
from kpagent.collect.diversity import PairBuffer
from kpagent.collect.frame_log import FrameLog
from kpagent.collect.replay import SegmentReplay
from kpagent.collect.trajectories import PairBatch
from kpagent.envs.players import newest_frames
from kpagent.envs.vec_env import GymnasiumVecEnv
from kpagent.errors import UsageError
from kpagent.fields import require
from kpagent.frames import resize
from kpagent.perception.detector import KeypointDetector
from kpagent.perception.methods import load_detector, load_for_training, new_detector
from kpagent.perception.pretraining import PretrainingConfig, pretrain
from kpagent.training import TrainingConfig

PERCEPTION = "perception.safetensors"
"""In the folder of a run whose perception goes on learning: the present weights, with what painting frames takes."""
FRAMES = "frames.bin"
"""The frames behind the replay, as long as the run goes on."""
TUNING = "tuning"
"""Folder of the tunings, each with its TensorBoard logs and pictures."""

_NO_FRAMES: dict[str, Any] = {"tuned_at": [], "interactions": 0}
_ROUND = 64
_CHUNK = 256


@dataclass(frozen=True)
class TuningConfig:
    """When perception goes on learning, and how. `strict` is the preset for untrained weights."""

    at: tuple[int, ...] = (20_000, 40_000, 60_000)
    """Interactions after which it does."""
    steps: int = 500
    """Optimiser steps each time."""
    learning_rate: float = 3e-4
    """At the start of each; it falls to zero."""
    warm_up: int = 0
    """Interactions of random play from which untrained weights first learn; 0 for weights that are trained."""
    warm_up_steps: int = 2_000
    """Optimiser steps then."""
    spare: int = 0
    """Keypoints that untrained weights have besides at first; those missed least are dropped before Q-learning begins."""
    batch_size: int = 32
    """Frame pairs a step."""
    pairs: int = 3_000
    """Frame pairs to train on, chosen from three times as many for being unlike each other."""
    offset: tuple[int, int] = (1, 20)
    """Least and most interactions between the frames of a pair (Transporter section 4)."""
    seed: int = 0
    """Of pairs and batches."""

    @classmethod
    def strict(cls, **changes: Any) -> TuningConfig:
        """For untrained weights: 5,000 interactions of random play first."""
        return cls(**({"warm_up": 5_000} | changes))

    def __post_init__(self) -> None:
        for name in ("at", "offset"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        rising = all(before < after for before, after in zip((self.warm_up, *self.at), self.at, strict=False))
        checks = {
            "at must rise, from more than warm_up": rising,
            "steps must be at least 1": self.steps >= 1,
            "warm_up must not be negative": self.warm_up >= 0,
            "warm_up_steps must be at least 1": self.warm_up_steps >= 1,
            "spare must not be negative, and 0 without a warm_up": self.spare == 0 or (self.spare > 0 and self.warm_up > 0),
            "pairs must be at least 2": self.pairs >= 2,
            "offset must be two numbers from 1 on that do not fall": len(self.offset) == 2
            and 1 <= self.offset[0] <= self.offset[1],
        }
        require(self, checks)

    @property
    def schedule(self) -> tuple[int, ...]:
        """Interactions after which perception learns, the warm-up's among them."""
        return ((self.warm_up,) if self.warm_up else ()) + self.at

    def pretraining(self, first: bool) -> PretrainingConfig:
        """How one tuning trains.

        Args:
            first: it is that of untrained weights. Later a keypoint must stay what it is, so none is revived.
        """
        if first:
            training = TrainingConfig(self.warm_up_steps, self.batch_size, anneal=True, seed=self.seed)
            return PretrainingConfig(training, spare=self.spare)
        training = TrainingConfig(self.steps, self.batch_size, self.learning_rate, anneal=True, seed=self.seed)
        return PretrainingConfig(training, revive_every=0)


class PerceptionTuning(BaseCallback):
    """Trains what the players see with on their own frames, at set numbers of interactions, and renews the replay.

    The environment sees with the new weights from the next observation on. Recurrent states in the replay stay as they
    were, but for the keypoints of the observation before; burn-in warms them. The Q-network is not touched.

    A run that was killed is taken up with all its frames: they lie in `frames.bin` beside the agent's checkpoint, and a
    tuning that was interrupted goes on where it was. What was kept of the run decides which tunings are done.

    Args:
        folder: of the run; gets `perception.safetensors`, `frames.bin` and `tuning/`.
        config: when and how.
        keep: is called before each tuning, to keep the agent as it is; without, a kill may cost more.
        on_progress: is told the steps done and those of this tuning; False leaves it off and ends the run, to be taken up.

    Raises:
        UsageError: when learning begins: what the players see with cannot learn, or its frames cannot be kept.
    """

    model: KeyQN

    def __init__(
        self,
        folder: Path,
        config: TuningConfig | None = None,
        *,
        keep: Callable[[], None] | None = None,
        on_progress: Callable[[int, int], bool] | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.config = folder, config or TuningConfig()
        self.keep, self.on_progress = keep, on_progress
        self._pending: list[bytes] | None = None
        self._goes_on = True

    @property
    def perception(self) -> KeypointDetector:
        """The model that the players see with."""
        return find_trainable(self.training_env)

    @property
    def tuned_at(self) -> list[int]:
        """Which of the tunings of `config.schedule` are done."""
        done: list[int] = self.perception.provenance.get("own_frames", {}).get("tuned_at", [])
        return done

    def close(self) -> None:
        """Let go of the file of frames."""
        if hasattr(self, "frames"):
            self.frames.close()

    def _on_training_start(self) -> None:
        model, replay = self.perception, self.model.replay
        path = self.folder / FRAMES
        if self.num_timesteps == 0:
            shutil.rmtree(self.folder / TUNING, ignore_errors=True)
            if model.provenance.get("own_frames") != _NO_FRAMES:
                before = model.provenance
                env = {"env": before["env"]} if "env" in before else {}
                model.provenance = env | {"init": {"provenance": before}, "own_frames": _NO_FRAMES}
            model.save(self.folder / PERCEPTION)
        written = replay.written if replay.written.any() and path.exists() else None
        self.frames = FrameLog(path, replay.num_envs, replay.rows, model.image_size, written=written)
        # A kill may have come between new weights and the next checkpoint of the agent.
        if self.model.provenance.get("tuned_at", []) != self.tuned_at:
            self._renew()
        self._pending = None

    def _on_rollout_start(self) -> None:
        if self._pending is None:
            self._pending = self._newest()
        due = [at for at in self.config.schedule if at <= self.num_timesteps]
        if due and due[-1] not in self.tuned_at and self._goes_on:
            self._tune(due[-1])

    def _on_step(self) -> bool:
        assert self._pending is not None
        written = self.model.replay.written.tolist()
        envs = list(range(len(written)))
        rows, frames = list(written), list[bytes | None](self._pending)
        for env, (done, info) in enumerate(zip(self.locals["dones"], self.locals["infos"], strict=True)):
            if done and info.get("TimeLimit.truncated", False):
                envs.append(env)
                rows.append(written[env] + 1)
                frames.append(None)
        self.frames.add(envs, rows, frames)
        self._pending = self._newest()
        return self._goes_on

    def _tune(self, at: int) -> None:
        first = at == self.config.warm_up
        config = self.config.pretraining(first)
        if self.keep is not None:
            self.keep()
        # Whatever is drawn here, the agent's own draws stay as they would have been.
        devices = [self.perception.device] if self.perception.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            learner = self._learner(first)
            pairs = draw_pairs(self.frames, self.model.replay, self.config, at)
            out = self.folder / TUNING / str(at)
            before = self.perception.provenance
            about = {name: value for name, value in before.items() if name in ("env", "init")}
            run = pretrain(learner, pairs, config, out, provenance=about, resume=True)
            with contextlib.closing(run):  # type: ignore[type-var]
                for report in run:
                    if self.on_progress is not None and not self.on_progress(report.step, config.training.steps):
                        self._goes_on = False
                        return
                    if report.evaluation is not None:
                        ratio = report.evaluation.loss / report.evaluation.copy_loss
                        self.logger.record("perception/held_out_over_copying", ratio)
        tuned = load_detector(out / "best.safetensors")
        tuned.provenance["own_frames"] = {"tuned_at": [*self.tuned_at, at], "interactions": self.num_timesteps}
        tuned.save(self.folder / PERCEPTION)
        (out / "checkpoint.safetensors").unlink()
        put_weights(tuned, self.perception)
        self._renew()

    def _learner(self, first: bool) -> KeypointDetector:
        """The present model as one to train, with keypoints to spare at first."""
        model = load_for_training(self.folder / PERCEPTION, self.config.seed)
        if first and self.config.spare:
            torch.manual_seed(self.config.seed)
            model = model.fresh(dataclasses.replace(model.config, num_keypoints=model.num_keypoints + self.config.spare))
        return model.to(self.perception.device)

    def _renew(self) -> None:
        """Let all that the agent keeps and sees speak of the present keypoints."""
        agent, model = self.model, self.perception
        encode_again(agent.replay, self.frames, model)
        agent.provenance["tuned_at"] = list(self.tuned_at)
        if agent._last_obs is not None:
            agent._last_obs = _observe(model, newest_frames(self._players()), "features" in agent.replay.observation)
        if agent._state is not None and "xy" in agent._state:
            newest = (np.arange(agent.replay.num_envs), (agent.replay.written - 1) % agent.replay.rows)
            before = torch.as_tensor(agent.replay.observation["xy"][newest], device=agent.device)
            agent._state = agent._state | {"xy": before}

    def _newest(self) -> list[bytes]:
        frames = resize(newest_frames(self._players()), self.frames.image_size)
        return [self.frames.compress(frame) for frame in frames]

    def _players(self) -> GymnasiumVecEnv:
        assert isinstance(self.training_env, GymnasiumVecEnv)
        return self.training_env


def fresh_perception(env_id: str, num_keypoints: int, *, seed: int = 0, **changes: Any) -> KeypointDetector:
    """An untrained Transporter for `make_players`, for a run in which perception sees only the frames of the run.

    Args:
        env_id: what it will see.
        num_keypoints: K.
        seed: of the parameters.
        changes: fields of its configuration, such as `difference`.

    Raises:
        UsageError: a configuration that cannot be.
    """
    model = new_detector("transporter", num_keypoints, seed=seed, **changes)
    model.provenance = {"env": env_id, "own_frames": _NO_FRAMES}
    return model.eval()


def interactions_seen(provenance: Mapping[str, Any], *, own: bool) -> tuple[int | None, int]:
    """Interactions whose frames perception was trained on: those before the run, and those of the run itself.

    The paper does not count the former.

    Args:
        provenance: of the weights.
        own: they are those of this run (`perception.safetensors`), so that `own_frames` are frames of the run.

    Returns:
        Before the run, None where the weights do not say; and within.
    """
    within = provenance.get("own_frames", {}).get("interactions", 0)
    if not {"pairs", "init", "own_frames"} & provenance.keys():
        return None, 0
    before: int | None = provenance.get("pairs", {}).get("interactions", 0)
    if "init" in provenance:
        earlier, _ = interactions_seen(provenance["init"].get("provenance", {}), own=False)
        before = None if before is None or earlier is None else before + earlier
    if own:
        return before, within
    return (None if before is None else before + within), 0


def find_trainable(players: Any) -> KeypointDetector:
    """The model that all players see with, where it can learn.

    Raises:
        UsageError: they see with no model, with several, or with one that cannot learn.
    """
    env = players.env if isinstance(players, GymnasiumVecEnv) else None
    found = [env.perception] if env is not None and hasattr(env, "perception") else []
    if env is not None and not found and players.has_attr("perception"):
        found = players.get_attr("perception")
    if not found or any(model is not found[0] for model in found) or not isinstance(found[0], KeypointDetector):
        raise UsageError("perception can go on learning where all players of make_players see with one keypoint detector")
    return found[0]


def put_weights(source: KeypointDetector, target: KeypointDetector) -> None:
    """Let `target` see as `source` does, on the device where it is.

    Raises:
        ValueError: their configurations differ.
    """
    if source.config != target.config:
        raise ValueError(f"weights of {source.config} do not fit {target.config}")
    has = target.state_dict().keys()
    target.load_state_dict({name: value for name, value in source.state_dict().items() if name in has})
    target.provenance = dict(source.provenance)


def draw_pairs(frames: FrameLog, replay: SegmentReplay, config: TuningConfig, at: int) -> PairBatch:
    """Frame pairs of the rows that a replay keeps, unlike each other, both frames of each from one episode.

    Three times as many as are wanted are drawn uniformly, and compete as in `kpagent.collect.diversity`.

    Args:
        frames: of the rows.
        replay: says where episodes begin.
        config: how many, how far apart, and the seed.
        at: the interactions of this tuning, which draws others than the next.

    Returns:
        The pairs of one episode follow each other; at most `config.pairs`.

    Raises:
        UsageError: there are no two frames that far apart.
    """
    generator = np.random.default_rng((config.seed, at))
    env, row, episode = (np.concatenate(parts) for parts in zip(*_kept(frames, replay), strict=True))
    index = generator.integers(max(len(row), 1), size=4 * 3 * config.pairs if len(row) else 0)
    later = index + generator.integers(config.offset[0], config.offset[1] + 1, size=len(index))
    inside = later < len(row)
    index, later = index[inside], later[inside]
    # Rows without a frame are missing in between, so distances are taken from the rows themselves.
    near = (episode[index] == episode[later]) & (row[later] - row[index] <= config.offset[1])
    index, later = index[near][: 3 * config.pairs], later[near][: 3 * config.pairs]
    if len(index) < 2:
        raise UsageError(f"{len(row)} frames hold no pairs {config.offset[0]} to {config.offset[1]} interactions apart")
    buffer = PairBuffer(min(config.pairs, len(index)), frames.image_size, seed=config.seed)
    for start in range(0, len(index), _ROUND):
        source, target = index[start : start + _ROUND], later[start : start + _ROUND]
        batch = PairBatch(frames.read(env[source], row[source]), frames.read(env[target], row[target]), episode[source])
        rest = buffer.fill(batch)
        while len(rest):
            buffer.offer(rest[: buffer.capacity])
            rest = rest[buffer.capacity :]
    return buffer.release()


@torch.no_grad()
def encode_again(replay: SegmentReplay, frames: FrameLog, model: KeypointDetector) -> None:
    """Put the keypoints that a model finds now into all rows of a replay whose frames are kept.

    A row without a frame, such as the last one of a truncated episode, keeps what it has. Of the recurrent states, `xy`,
    the keypoints of the observation before, is renewed too; that of the oldest row kept is not, where its past is lost.

    Args:
        replay: is changed in place.
        frames: of its rows.
        model: what sees.
    """
    features = "features" in replay.observation
    for env, row, _ in _kept(frames, replay):
        for start in range(0, len(row), _CHUNK):
            part = slice(start, start + _CHUNK)
            place = env[part], row[part] % replay.rows
            for name, value in _observe(model, frames.read(env[part], row[part]), features).items():
                replay.observation[name][place] = value
    if "xy" not in replay.state:
        return
    for copy in range(replay.num_envs):
        rows = np.arange(replay.written[copy] - replay.sizes[copy] + 1, replay.written[copy])
        before = replay.observation["xy"][copy, (rows - 1) % replay.rows]
        first = replay.first[copy, rows % replay.rows]
        replay.state["xy"][copy, rows % replay.rows] = np.where(first[:, None, None], 0, before)


def _kept(frames: FrameLog, replay: SegmentReplay) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each copy, its rows that have a frame: the copy, the row and a number of the episode, each (n,)."""
    found = []
    episodes = 0
    for copy in range(replay.num_envs):
        rows = np.arange(replay.written[copy] - replay.sizes[copy], replay.written[copy])
        episode = episodes + 1 + np.cumsum(replay.first[copy, rows % replay.rows])
        episodes = int(episode[-1]) if len(episode) else episodes
        rows_with = frames.has(copy, rows)
        found.append((np.full(rows_with.sum(), copy), rows[rows_with], episode[rows_with]))
    return found


def _observe(model: KeypointDetector, frames: np.ndarray, features: bool) -> dict[str, np.ndarray]:
    keypoints = model.encode(frames, features=features).numpy()
    seen = {"xy": keypoints.xy, "presence": keypoints.presence}
    return seen | {"features": keypoints.features} if features else seen
