"""Keypoints of environments: learn them, watch them, measure them."""

# Each subcommand is a frozen dataclass whose fields are its flags.

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from kpagent.benchmarks.keypoint_distance import KeypointDistance
from kpagent.benchmarks.pairs import Pairs
from kpagent.benchmarks.robustness import Robustness
from kpagent.benchmarks.speed import Speed
from kpagent.benchmarks.tracking import Tracking
from kpagent.errors import UsageError

if TYPE_CHECKING:
    from kpagent.collect.pairs import FramePairs
    from kpagent.perception.detector import KeypointDetector
    from kpagent.perception.pretraining import PretrainingConfig

# A pipe has no width of its own, and 80 columns would cut the names of figures.
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)


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
        with _bar("pretraining") as bar, _stop_on_interrupt() as stopped, contextlib.closing(run):  # type: ignore[type-var]
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
    with _bar("collecting") as bar:
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
        with _bar("playing") as bar:
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


@dataclass(frozen=True)
class Zoo:
    """List the shipped weights with their figures."""

    def run(self) -> int:
        """Print the table; precision and recall are those of tracks of 200 frames."""
        from kpagent.perception.zoo import shipped

        table = Table("name", "environment", "K", "image", "steps", "held-out loss / copying", "precision", "recall")
        for name, header in shipped().items():
            config, about = header["config"], header["provenance"]
            held_out = about.get("held_out", {})
            ratio = f"{held_out['loss'] / held_out['copy_loss']:.3f}" if held_out else ""
            found = about.get("tracking", {})
            scores = [f"{found[f'{name}@200']:.2f}" if found else "" for name in ("precision", "recall")]
            size = f"{config['image_size']}×{config['image_size']}"
            row = (name, about.get("env", ""), config["num_keypoints"], size, about.get("steps", ""), ratio, *scores)
            table.add_row(*map(str, row))
        console.print(table)
        return 0


@dataclass(frozen=True)
class Bench:
    """Measure, print a table and write benchmarks/results/NAME.json."""

    benchmark: Annotated[
        Annotated[Speed, tyro.conf.subcommand("speed")]
        | Annotated[KeypointDistance, tyro.conf.subcommand("keypoints")]
        | Annotated[Pairs, tyro.conf.subcommand("pairs")]
        | Annotated[Tracking, tyro.conf.subcommand("tracking")]
        | Annotated[Robustness, tyro.conf.subcommand("robustness")],
        tyro.conf.arg(name=""),
    ]

    def run(self) -> int:
        """Run it and print what it found."""
        from kpagent.benchmarks.results import write
        from kpagent.drawing import require_writable

        require_writable(self.benchmark.out / "results.json", ".json")
        with _bar("measuring") as bar:
            bar.add_task(type(self.benchmark).__name__, total=None)
            result = self.benchmark.run(lambda line: bar.console.print(line))
        table = Table("figure", "value", "unit")
        for name, figure in result["figures"].items():
            table.add_row(name, f"{figure['value']:.4g}", figure["unit"])
        console.print(table)
        console.print(f"wrote {write(result, self.benchmark.out)}")
        return 0


Command = (
    Annotated[Pretrain, tyro.conf.subcommand("pretrain")]
    | Annotated[Watch, tyro.conf.subcommand("watch")]
    | Annotated[Zoo, tyro.conf.subcommand("zoo")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; ends the process with 0, or with 2 and one line on a mistake of the user's or Ctrl-C."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        command = _parse(arguments)
        sys.exit(command.run())
    except (UsageError, FloatingPointError) as error:
        sys.exit(_fail(str(error)))
    except KeyboardInterrupt as interrupt:
        sys.exit(_fail(f"interrupted{': ' if interrupt.args else ''}{' '.join(map(str, interrupt.args))}"))


def _parse(arguments: list[str] | None) -> Any:
    """The command, or a UsageError of one line where tyro would print a box."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(Command, prog="kpagent", args=arguments, description=__doc__)
    except SystemExit as end:
        if not end.code:
            raise
        raise UsageError(_unboxed(complaint.getvalue())) from None


def _unboxed(box: str) -> str:
    """The title and the text of a box of tyro's in one line, without the suggestions at its end, a screen long."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()
    # Where the terminal knows no Unicode, the box has rules of hyphens and no sides.
    title, *lines = (re.sub(r"^-{4,}$", "", line.strip("╭╮╰╯│─ ")) for line in plain)
    parts = [" ".join(part.split()) for part in re.split(r"\n\n+", "\n".join(lines).strip())]
    kept = itertools.takewhile(lambda part: not re.match(r"Arguments (are applied|similar)|For full helptext", part), parts)
    return f"{title}: {'; '.join(kept).removeprefix(f'{title}: ')}"


def _fail(message: str) -> int:
    print(f"kpagent: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield bar


@contextlib.contextmanager
def _stop_on_interrupt() -> Iterator[list[bool]]:
    """A list that is no longer empty once Ctrl-C was pressed; pressed again, it interrupts at once."""
    stopped: list[bool] = []

    def stop(number: int, frame: Any) -> None:
        stopped.append(True)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    main()
