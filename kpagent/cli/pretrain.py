"""`kpagent pretrain`: learn the keypoints of an environment."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kpagent.cli.terminal import console, progress_bar, stop_on_interrupt
from kpagent.errors import UsageError

if TYPE_CHECKING:
    from kpagent.collect.pairs import FramePairs
    from kpagent.perception.detector import KeypointDetector
    from kpagent.perception.pretraining import PretrainingConfig


@dataclass(frozen=True)
class Pretrain:
    """Learn keypoints of an environment from the frames of random play, without labels or rewards."""

    env: str
    """Gymnasium id, such as ALE/Pong-v5."""
    out: Path
    """Folder of the run: weights, checkpoint, TensorBoard logs, frame pairs."""
    keypoints: int | None = None
    """K, the number of keypoints; a few more than there are moving things. 8, or that of --init, if not given."""
    spare: int = 0
    """Keypoints to train besides; as many, those that are missed least, are dropped at the end."""
    method: Literal["transporter", "jakab", "zhang", "pixels"] | None = None
    """How keypoints are learned; jakab, zhang and pixels are what Transporter is compared with. transporter, or that of
    --init, if not given."""
    init: str | None = None
    """Weights to go on from: a name in the zoo, or the path of a weights file."""
    preset: Literal["fast", "paper"] = "fast"
    """fast learns on a CPU; paper is the published configuration."""
    steps: int | None = None
    """Optimiser steps; the preset's, if not given."""
    normalization: Literal["batch", "instance", "layer"] | None = None
    """Normalisation of the networks; the preset's, if not given."""
    difference: bool = False
    """Let keypoints be found in what differs from the median frame: for things that look different and roam everywhere."""
    align: bool = False
    """Move what slides in the source frame as the background moves, so that it needs no keypoints."""
    mix: float = 0.0
    """Share of the pairs whose frames come from different episodes: for things that lie still within one."""
    balance: float | None = None
    """Weight of rarely moving pixels in the loss, from 0 (plain) to 1; the preset's, if not given."""
    batch_size: int | None = None
    """Frame pairs a step; the preset's, if not given."""
    precision: Literal["auto", "bf16", "float32"] = "auto"
    """auto takes bf16 where it is faster."""
    pairs: Path | None = None
    """File of frame pairs to train on; collected into OUT/pairs.h5, if not given."""
    capacity: int | None = None
    """Frame pairs to keep when collecting; the preset's, if not given."""
    interactions: int | None = None
    """Interactions to spend on collecting; the preset's, if not given."""
    trajectory_length: int | None = None
    """Most interactions between the frames of a pair; the preset's, if not given."""
    actors: int = 0
    """Ray workers that collect; 0 collects in this process, without Ray."""
    ray_address: str | None = None
    """Ray cluster to join ("auto"); starts Ray on this machine, if not given."""
    seed: int = 0
    """Of collection, parameters and batches."""
    device: str = "auto"
    """auto, cpu or cuda."""
    resume: bool = False
    """Take up the run in OUT where it was interrupted or killed."""

    def run(self) -> int:
        """Collect (or load) frame pairs, train, and say what was written."""
        from kpagent.envs.making import make_vector_env
        from kpagent.perception.pretraining import PretrainingConfig, pretrain, require_spare
        from kpagent.training import pick_device

        model = self._model()
        config = getattr(PretrainingConfig, self.preset)()
        training = replace(config.training, seed=self.seed, precision=self.precision)
        if self.steps is not None:
            training = replace(training, steps=self.steps)
        if self.batch_size is not None:
            training = replace(training, batch_size=self.batch_size)
        config = replace(config, training=training)
        if self.balance is not None:
            config = replace(config, balance=self.balance)
        config = replace(config, spare=self.spare, mix=self.mix)
        require_spare(model, config)
        device = pick_device(self.device)
        make_vector_env(self.env, 1).close()
        if (self.out / "checkpoint.safetensors").exists() and not self.resume:
            raise UsageError(f"{self.out} holds a run already; add --resume to take it up, or choose another --out")

        pairs = self._pairs(model.image_size, config)
        about: dict[str, Any] = {"env": self.env, "pairs": dict(pairs.info)}
        if self.init is not None:
            about["init"] = {"weights": self.init, "provenance": model.provenance}
        run = pretrain(model.to(device), pairs, config, self.out, provenance=about, resume=self.resume)
        with progress_bar() as bar, stop_on_interrupt() as stopped, contextlib.closing(run):  # type: ignore[type-var]
            task = bar.add_task("pretraining", total=training.steps)
            for report in run:
                bar.update(task, completed=report.step)
                if report.evaluation is not None:
                    seen = report.evaluation
                    if report.dropped:
                        bar.console.print(f"dropped keypoints {', '.join(map(str, report.dropped))} of the best weights:")
                    bar.console.print(
                        f"step {report.step}: held-out loss {seen.loss:.6f}, copying the source {seen.copy_loss:.6f}"
                        f" (ratio {seen.loss / seen.copy_loss:.3f})"
                    )
                    if seen.warning and report.step >= training.steps // 4:
                        bar.console.print(f"warning: {seen.warning}")
                if stopped:
                    break
        if stopped:
            raise KeyboardInterrupt(f"the run in {self.out} is kept; go on with --resume")
        console.print(
            f"wrote {self.out / 'best.safetensors'} (kpagent watch --env {self.env} --weights ... shows it) and logs"
        )
        return 0

    def _model(self) -> KeypointDetector:
        """A fresh model, or that of --init, which the other flags may not contradict."""
        from kpagent.perception.methods import load_for_training, method_of, new_detector
        from kpagent.perception.zoo import find

        changes: dict[str, Any] = {name: True for name in ("difference", "align") if getattr(self, name)}
        if self.init is None:
            if self.normalization:
                changes |= {"normalization": self.normalization}
            count = (8 if self.keypoints is None else self.keypoints) + self.spare
            return new_detector(self.method or "transporter", count, preset=self.preset, seed=self.seed, **changes)
        if self.spare:
            raise UsageError("--spare is for a fresh start: weights of --init keep the keypoints that they have")
        model = load_for_training(find(self.init), self.seed, **changes)
        has = {"method": method_of(model), "keypoints": model.num_keypoints, "normalization": model.config.normalization}
        for name, value in has.items():
            given = getattr(self, name)
            if given not in (None, value):
                raise UsageError(f"{self.init} has {name} {value}, not {given}; leave out --{name}, or --init")
        return model

    def _pairs(self, image_size: int, pretraining: PretrainingConfig) -> FramePairs:
        from kpagent.collect.pairs import FramePairs, PairsConfig
        from kpagent.drawing import require_writable
        from kpagent.envs.making import copies
        from kpagent.perception.pretraining import training_pairs

        path = self.pairs or self.out / "pairs.h5"
        if self.pairs is not None or path.exists():
            pairs = FramePairs.load(path)
            if pairs.info.get("env") != self.env:
                cure = "choose another --out" if self.pairs is None else "give its environment as --env"
                raise UsageError(f"{path} holds frames of {pairs.info.get('env')}, not of {self.env}; {cure}")
            console.print(f"read {len(pairs)} frame pairs of {pairs.info.get('env')} from {path}")
            return pairs
        config = PairsConfig.paper() if self.preset == "paper" else PairsConfig()
        config = replace(config, image_size=image_size, seed=self.seed, num_envs=copies(self.env))
        if self.capacity is not None:
            config = replace(config, capacity=self.capacity, candidates=min(config.candidates, self.capacity))
        if self.interactions is not None:
            config = replace(config, interactions=self.interactions)
        if self.trajectory_length is not None:
            config = replace(config, trajectory_length=self.trajectory_length)
        # What would fail only after an hour of collecting.
        training_pairs(config.capacity, pretraining)
        require_writable(path, ".h5")
        pairs = collect(self.env, config, self.actors, self.ray_address)
        pairs.save(path)
        info = pairs.info
        console.print(
            f"wrote {len(pairs)} frame pairs to {path}: {info['interactions_per_s']:.0f} interactions/s,"
            f" coverage {_figure(info['coverage_filled'])} when just filled, {_figure(info['coverage'])} at the end"
        )
        return pairs


def collect(env_id: str, config: Any, actors: int = 0, ray_address: str | None = None) -> FramePairs:
    """Diverse frame pairs of an environment, with a progress bar; through Ray with `actors` workers, without it at 0."""
    from functools import partial

    from kpagent.collect.pairs import collect_pairs, gather
    from kpagent.envs.making import make_vector_env

    console.print(f"collecting {config.capacity} frame pairs in {config.memory_bytes() / 1e9:.1f} GB of memory")
    with progress_bar() as bar:
        task = bar.add_task("collecting", total=config.interactions)
        if actors:
            from kpagent.collect.distributed import collect_pairs_distributed

            make = partial(_make_worker_env, env_id)
            collection = collect_pairs_distributed(make, config, workers=actors, address=ray_address, env_id=env_id)
            return gather(collection, lambda progress: bar.update(task, completed=progress.interactions))
        with contextlib.closing(make_vector_env(env_id, config.num_envs)) as env:
            collection = collect_pairs(env, config, env_id=env_id)
            return gather(collection, lambda progress: bar.update(task, completed=progress.interactions))


def _make_worker_env(env_id: str, num_envs: int, seed: int) -> Any:
    from kpagent.envs.making import make_vector_env

    return make_vector_env(env_id, num_envs)


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
