"""How exploration scales: interactions a second over the number of actors, and what each part of a run costs.

What is compared is measured in turn, in one run. All crews are held at a time; one that is not asked for rounds plays those
that it may be ahead, and then rests.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from kpagent.agents.exploration import Crew, ExplorationConfig, Turn
    from kpagent.agents.option_actor import Weights
    from kpagent.agents.option_learner import OptionLearner
    from kpagent.perception.online import OnlineTrainer

LARGEST_CLUSTER = 8
"""Actors of a crew on the cluster of many nodes, at most: a node is several processes."""
UNITS: Mapping[str, str] = {
    "interactions_per_s": "interactions/s",
    "ray_share": "",
    "ratio": "",
    "updates_per_s": "updates/s",
    "keypoint_steps_per_s": "steps/s",
    "round_ms": "ms",
    "publish_ms": "ms",
    "sample_ms": "ms",
    "pairs_ms": "ms",
    "store_ms": "ms",
    "bytes": "bytes",
    "bytes_per_interaction": "bytes",
    "bytes_per_update": "bytes",
    "bytes_per_keypoint_step": "bytes",
}
"""By the last part of a figure's name."""
_FILLING = 4
"""Rounds that a shard holds when drawing from it is measured."""
_LEAST_CALLS = 3

Samples = dict[str, list[float]]
"""What each figure came to in each round."""


@dataclass(frozen=True)
class Scaling:
    """Interactions a second of exploration over the number of actors, costs of its parts, and an estimate for 128 actors."""

    env: str = "ALE/MontezumaRevenge-v5"
    """Gymnasium id with numbered actions."""
    actors: tuple[int, ...] = ()
    """Numbers of Ray actors; 1, 2, 4 and so on up to this machine's CPUs, if not given."""
    seconds: float = 4.0
    """Of each measurement."""
    rounds: int = 3
    """Times that the things compared are measured in turn; the median counts."""
    pictures: Path | None = None
    """Folder for the estimate's picture; none is drawn, if not given."""
    device: str = "auto"
    """Where options and keypoints learn: auto, cpu or cuda."""
    seed: int = 0
    """Of play and parameters."""
    out: Path = Path("benchmarks/results")
    """Folder of the result."""

    def run(self, say: Callable[[str], None]) -> dict[str, Any]:
        """Measure, and say what follows for many actors; returns the result."""
        from kpagent.agents.crews import count_actions
        from kpagent.agents.distributed_crew import bytes_in_flight
        from kpagent.agents.exploration import ExplorationConfig, new_learner, weights_of
        from kpagent.benchmarks.results import Measurement
        from kpagent.benchmarks.scaling_estimate import Assumptions, Costs, draw_estimate, report
        from kpagent.collect.distributed import cluster, local_cluster
        from kpagent.training import pick_device

        self._check()
        config = ExplorationConfig(seed=self.seed)
        counts = self.counts()
        small = [count for count in counts if count <= LARGEST_CLUSTER] or counts[:1]
        measurement = Measurement("scaling", self._command(counts))
        learner, trainer = new_learner(count_actions(self.env, config), config, pick_device(self.device))

        say("what the learner and a shard of the replay cost")
        samples = self._measure_parts(config, learner, trainer)

        def weights() -> Weights:
            return weights_of(learner, trainer)

        in_flight = sum(bytes_in_flight(config, count) for count in counts)
        say(f"actors on this machine: {', '.join(map(str, counts))}")
        with cluster(sum(counts), None, in_flight, "actors"), self._solo(config) as solo:
            samples |= self._measure_crews(config, "actors", (0, *counts), weights, solo)
        in_flight = sum(bytes_in_flight(config, count) for count in small)
        say(f"actors on a cluster of as many nodes: {', '.join(map(str, small))}")
        with local_cluster(sum(small), in_flight):
            samples |= self._measure_crews(config, "cluster", small, weights)
        _add(measurement, samples)
        costs, assumed = Costs.of(measurement.figures), Assumptions.of(config)
        for line in report(costs, assumed):
            say(line)
        if self.pictures is not None:
            draw_estimate(self.pictures / "scaling.png", costs, assumed)
            say(f"wrote {self.pictures / 'scaling.png'}")
        return measurement.result()

    def counts(self) -> tuple[int, ...]:
        """Numbers of actors, ascending."""
        cpus = os.cpu_count() or 1
        doubling = itertools.takewhile(lambda count: count < cpus, (2**power for power in itertools.count()))
        return tuple(sorted(self.actors)) or (*doubling, cpus)

    def _check(self) -> None:
        from kpagent.collect.distributed import require_workers
        from kpagent.drawing import require_writable
        from kpagent.fields import require
        from kpagent.training import pick_device

        checks = {
            "actors must be different and at least 1": len(set(self.actors)) == len(self.actors)
            and min(self.actors, default=1) >= 1,
            "seconds must be positive": self.seconds > 0,
            "rounds must be at least 1": self.rounds >= 1,
        }
        require(self, checks)
        require_workers(self.counts()[-1], None, "actors")
        pick_device(self.device)
        if self.pictures is not None:
            require_writable(self.pictures / "scaling.png", ".png")

    def _command(self, counts: Sequence[int]) -> str:
        sizes = f"--actors {' '.join(map(str, counts))} --seconds {self.seconds:g} --rounds {self.rounds}"
        return f"kpagent bench scaling --env {self.env} {sizes} --device {self.device} --seed {self.seed}"

    def _measure_parts(self, config: ExplorationConfig, learner: OptionLearner, trainer: OnlineTrainer) -> Samples:
        """What an update, a step of the keypoints and a shard's work take, and how many bytes travel."""
        from kpagent.agents.crews import make_actor
        from kpagent.agents.distributed_crew import Rows, Shard
        from kpagent.agents.exploration import weights_of

        learning, drawn = config.learning, config.keypoints.batch_size
        shard = Shard(config, config.capacity, 0, 0)
        actor = make_actor(self.env, config, (self.seed, 0))
        with contextlib.closing(actor.players), _one_thread():
            played = [Rows(0, (0, 0), number, actor.play(config.round_length)) for number in range(_FILLING)]
        for rows in played:
            shard.store(rows)
        following = (played[-1]._replace(number=number) for number in itertools.count(_FILLING))
        seeds = itertools.count()

        def sample() -> Any:
            return shard.sample(learning.batch_size, learning.sequence_length, next(seeds))

        # The next batch is drawn by the shards while this one is learned from: it is not a part of an update's time.
        @functools.cache
        def pairs(count: int) -> Any:
            return shard.pairs(count, count)

        batches = itertools.cycle([sample() for _ in range(4)])
        size = sum(rows.experience.interactions for rows in played)
        samples: Samples = {
            "experience/bytes_per_interaction": [sum(map(_bytes, played)) / size],
            "weights/bytes": [_bytes(weights_of(learner, trainer))],
            "learner/bytes_per_update": [_bytes(next(batches))],
            "learner/bytes_per_keypoint_step": [_bytes(pairs(drawn))],
        }
        # On a GPU both are under way until somebody reads what they gave.
        work: dict[str, Callable[[], Any]] = {
            "learner/updates_per_s": lambda: float(learner.update(next(batches))["loss"]),
            "learner/keypoint_steps_per_s": lambda: float(trainer.step(pairs)),
            "shard/sample_ms": sample,
            "shard/pairs_ms": lambda: shard.pairs(drawn, next(seeds)),
            "shard/store_ms": lambda: shard.store(next(following)),
        }
        for each in work.values():
            each()
        for _, (name, each) in itertools.product(range(self.rounds), work.items()):
            took = _seconds_a_call(each, self.seconds / len(work))
            samples.setdefault(name, []).append(1 / took if name.endswith("_per_s") else 1000 * took)
        return samples

    @contextlib.contextmanager
    def _solo(self, config: ExplorationConfig) -> Iterator[Iterator[Turn]]:
        """Exploring in this process, after a warm-up that is as short as may be."""
        from kpagent.agents.crews import count_actions, make_crew
        from kpagent.agents.exploration import explore

        config = replace(config, warm_up=1000, warm_up_steps=1, interactions=2**40)
        num_actions = count_actions(self.env, config)
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            crew = stack.enter_context(contextlib.closing(make_crew(self.env, config)))
            keeping: dict[str, Any] = {"checkpoint_every_s": float("inf"), "device": self.device}
            turns = explore(self.env, num_actions, crew, config, folder, **keeping)
            stack.callback(turns.close)  # type: ignore[attr-defined]
            yield turns

    def _measure_crews(
        self,
        config: ExplorationConfig,
        group: str,
        counts: Sequence[int],
        weights: Callable[[], Weights],
        solo: Iterator[Turn] | None = None,
    ) -> Samples:
        """Crews of each size in turn, and exploring in this process beside them, if given."""
        from kpagent.agents.crews import make_crew
        from kpagent.agents.distributed_crew import ROUNDS_AHEAD

        samples: Samples = {}

        def note(name: str, value: float) -> None:
            samples.setdefault(name, []).append(value)

        with contextlib.ExitStack() as stack:
            crews = {n: stack.enter_context(contextlib.closing(make_crew(self.env, config, n))) for n in counts}
            for crew in crews.values():
                crew.publish(weights())
            for count, crew in crews.items():
                # Until its processes are there; then as long as its first rounds take.
                _discard(crew, max(1, count))
                started = time.perf_counter()
                _discard(crew, count)
                time.sleep(ROUNDS_AHEAD * (time.perf_counter() - started))
            while solo is not None and not next(solo).learning:
                pass
            for _ in range(self.rounds):
                for count, crew in crews.items():
                    with _one_thread() if count == 0 else contextlib.nullcontext():
                        _discard(crew, (ROUNDS_AHEAD + 1) * count)
                        pace = _pace(crew, weights, self.seconds)
                    note(f"{group}/{count}/interactions_per_s", pace.per_second)
                    if not count:
                        continue
                    note(f"{group}/{count}/ray_share", 1 - pace.playing / count)
                    if group == "actors" and count == counts[-1]:
                        note("learner/round_ms", 1000 * pace.round_s)
                        note("weights/publish_ms", 1000 * pace.publish_s)
                    # It plays on by as many rounds, and must not take the others' time.
                    time.sleep(ROUNDS_AHEAD * count * pace.seconds / pace.rounds)
                if solo is not None:
                    note("solo/interactions_per_s", _solo_pace(solo, self.seconds))
        return samples


class _Pace(NamedTuple):
    """How a crew collects."""

    per_second: float
    """Interactions."""
    rounds: int
    """That came in."""
    seconds: float
    """In which they did."""
    playing: float
    """Actors that played, in the mean over time."""
    round_s: float
    """Processor seconds of this process for each round."""
    publish_s: float
    """Seconds to publish weights."""


def _pace(crew: Crew, weights: Callable[[], Weights], seconds: float) -> _Pace:
    """Gather for some seconds, publishing weights after each turn as `explore` does."""
    interactions = rounds = turns = 0
    gathering = publishing = 0.0
    played = getattr(crew, "playing_s", 0.0)
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        spent = time.process_time()
        gathered = crew.gather(random=False)
        gathering += time.process_time() - spent
        interactions += sum(each.interactions for each in gathered)
        rounds, turns = rounds + len(gathered), turns + 1
        before = time.perf_counter()
        crew.publish(weights())
        publishing += time.perf_counter() - before
    playing = (getattr(crew, "playing_s", 0.0) - played) / elapsed
    return _Pace(interactions / elapsed, rounds, elapsed, playing, gathering / rounds, publishing / turns)


def _solo_pace(turns: Iterator[Turn], seconds: float) -> float:
    """Interactions a second of playing and learning in turn, over some seconds."""
    before = next(turns).interactions
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        reached = next(turns).interactions
    return (reached - before) / elapsed


def _discard(crew: Crew, rounds: int) -> None:
    """Gather at least so many rounds, which began before anything was measured."""
    while rounds > 0:
        rounds -= len(crew.gather(random=False))


def _seconds_a_call(work: Callable[[], Any], seconds: float) -> float:
    """Mean over some seconds of calls, and over a few calls at least."""
    calls, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or calls < _LEAST_CALLS:
        work()
        calls += 1
    return elapsed / calls


def _bytes(value: Any) -> int:
    """As it travels between processes."""
    return len(pickle.dumps(value, protocol=5))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """As in an actor's process."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _add(measurement: Any, samples: Samples) -> None:
    """Medians, and ratios to one actor of the rounds in which both were measured."""
    from kpagent.benchmarks.results import bootstrap_ci95

    for name, values in samples.items():
        measurement.add(name, float(np.median(values)), UNITS[name.rpartition("/")[2]])
        group, count, *rest = name.split("/")
        one = samples.get(f"{group}/1/interactions_per_s")
        if one and rest == ["interactions_per_s"] and int(count) > 1:
            ratio = np.asarray(values) / np.asarray(one)
            interval = bootstrap_ci95(ratio) if len(ratio) > 1 else None
            measurement.add(f"{group}/{count}/ratio", float(np.median(ratio)), "", ci95=interval)
