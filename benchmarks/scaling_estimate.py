"""What many actors and a faster learner would do: an estimate from the costs that `kpagent bench scaling` measures.

Each part of a run is taken to be busy for a fixed time, or to move a fixed number of bytes, for each interaction, and to
wait for nothing else; the part that can take the fewest interactions a second is the one that the run waits for. What was
not measured is in `Assumptions`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kpagent.files import replace_file

if TYPE_CHECKING:
    from kpagent.agents.exploration import ExplorationConfig

PARTS = ("actors", "network", "shards", "learner")
"""Of a run: who plays, the connection of the learner's machine, who keeps and draws, and who learns and directs."""
SPEED_UPS = (1.0, 10.0, 100.0, 1000.0)
"""Of the learner, for which estimates are given, since none was measured."""
REPLAY_RATIOS = (0.25, 1.0, 4.0)
"""That are drawn."""
COLOURS = dict(zip(PARTS, ("#0072B2", "#009E73", "#CC79A7", "#D55E00"), strict=True))


@dataclass(frozen=True)
class Costs:
    """What was measured, in interactions, seconds and bytes."""

    actor_per_s: float
    """Interactions a second of one actor."""
    update_s: float
    """Of an update of the options' values."""
    keypoint_step_s: float
    """Of an optimiser step of the keypoints."""
    round_s: float
    """Processor time of the learner's process for the calls of one round of an actor."""
    publish_s: float
    """To lay new weights into the store."""
    store_s: float
    """Of a shard, to take in a round."""
    sample_s: float
    """Of a shard, to draw the segments of an update."""
    pairs_s: float
    """Of a shard, to draw the pairs of a step of the keypoints."""
    weights_bytes: float
    """Of one version."""
    segments_bytes: float
    """Of an update."""
    pairs_bytes: float
    """Of a step of the keypoints."""

    @classmethod
    def of(cls, figures: Mapping[str, Mapping[str, Any]]) -> Costs:
        """From the figures of a result; an actor is as fast as on average where the fewest played."""
        fewest = min(int(name.split("/")[1]) for name in figures if name.startswith("actors/") and "/0/" not in name)

        def value(name: str) -> float:
            return float(figures[name]["value"])

        return cls(
            actor_per_s=value(f"actors/{fewest}/interactions_per_s") / fewest,
            update_s=1 / value("learner/updates_per_s"),
            keypoint_step_s=1 / value("learner/keypoint_steps_per_s"),
            round_s=value("learner/round_ms") / 1000,
            publish_s=value("weights/publish_ms") / 1000,
            store_s=value("shard/store_ms") / 1000,
            sample_s=value("shard/sample_ms") / 1000,
            pairs_s=value("shard/pairs_ms") / 1000,
            weights_bytes=value("weights/bytes"),
            segments_bytes=value("learner/bytes_per_update"),
            pairs_bytes=value("learner/bytes_per_keypoint_step"),
        )


@dataclass(frozen=True)
class Assumptions:
    """What was not measured: the size of the run, and machines that nobody had at hand."""

    actors: int = 128
    """Of one CPU each, as fast as the one that was measured; the paper's number."""
    actors_per_machine: int = 32
    """Which share a store: a version of the weights is fetched once a machine."""
    shards: int = 8
    """Of a CPU each, with equal shares of the work."""
    bandwidth: float = 1.25e9
    """Bytes a second of the learner's machine, in each direction: 10 Gbit/s."""
    speed_up: float = 1.0
    """How much faster updates and steps are than they were measured; what 4 GPUs would make of them is not known."""
    rounds_per_version: float = 1.0
    """Rounds of all actors between two versions of the weights that are fetched; 1 is the worst case for the network, a
    learner that waits for each round."""
    replay_ratio: float = 1.0
    """Rows learned from for each interaction."""
    rows_per_update: int = 320
    """That an update learns from."""
    steps_per_update: float = 1.0
    """Steps of the keypoints for each update."""
    round_interactions: int = 320
    """Of a round of an actor, all its copies together."""

    @classmethod
    def of(cls, config: ExplorationConfig) -> Assumptions:
        """The paper's actors, exploring with these settings."""
        rows = config.learning.batch_size * (config.learning.sequence_length - 1)
        interactions = config.envs * config.round_length
        return cls(
            replay_ratio=config.updates * rows / interactions,
            rows_per_update=rows,
            steps_per_update=config.keypoint_steps / config.updates,
            round_interactions=interactions,
        )

    @property
    def updates(self) -> float:
        """For each interaction."""
        return self.replay_ratio / self.rows_per_update


def saturation(costs: Costs, assumed: Assumptions) -> dict[str, float]:
    """Interactions a second at which each of `PARTS` has no time or bandwidth left."""
    rounds = 1 / assumed.round_interactions
    updates = assumed.updates
    steps = updates * assumed.steps_per_update
    machines = math.ceil(assumed.actors / assumed.actors_per_machine)
    fetches = rounds * min(1.0, machines / assumed.rounds_per_version)
    received = updates * costs.segments_bytes + steps * costs.pairs_bytes
    shard = rounds * costs.store_s + updates * costs.sample_s + steps * costs.pairs_s
    return {
        "actors": assumed.actors * costs.actor_per_s,
        "network": assumed.bandwidth / max(received, fetches * costs.weights_bytes),
        "shards": assumed.shards / shard,
        "learner": 1 / (_directing(costs, assumed) + _learning(costs, assumed) / assumed.speed_up),
    }


def first_to_saturate(costs: Costs, assumed: Assumptions) -> tuple[str, float]:
    """The part that the run waits for, and how many interactions a second the run comes to."""
    found = saturation(costs, assumed)
    part = min(found, key=found.__getitem__)
    return part, found[part]


def speed_up_needed(costs: Costs, assumed: Assumptions) -> float:
    """How much faster updates and steps must be for the learner to keep up with all other parts.

    Infinite, where its calls and the weights that it publishes alone take too long.
    """
    others = min(rate for part, rate in saturation(costs, assumed).items() if part != "learner")
    left = 1 / others - _directing(costs, assumed)
    return _learning(costs, assumed) / left if left > 0 else math.inf


def _directing(costs: Costs, assumed: Assumptions) -> float:
    """Seconds for each interaction that no GPU takes from the learner's process."""
    # One that is never idle finds a round of each actor waiting, and publishes once for all of them.
    rounds_per_turn = max(assumed.rounds_per_version, assumed.actors)
    return (costs.round_s + costs.publish_s / rounds_per_turn) / assumed.round_interactions


def _learning(costs: Costs, assumed: Assumptions) -> float:
    """Seconds for each interaction of updates and steps, as they were measured."""
    return assumed.updates * (costs.update_s + assumed.steps_per_update * costs.keypoint_step_s)


def report(costs: Costs, assumed: Assumptions) -> list[str]:
    """The estimate in words, a line each."""
    found = saturation(costs, assumed)
    lines = [
        f"estimate for {assumed.actors} actors, from the costs measured here; assumed: {assumed.actors_per_machine} actors "
        f"a machine, each as fast as one here, {assumed.shards} shards, {assumed.bandwidth * 8 / 1e9:g} Gbit/s to and from "
        f"the learner, a version of the weights every {assumed.rounds_per_version:g} rounds, and a replay ratio of "
        f"{assumed.replay_ratio:g}",
        *(f"{part}: saturated at {found[part]:,.0f} interactions/s" for part in PARTS if part != "learner"),
    ]
    for speed_up in SPEED_UPS:
        chosen = dataclasses.replace(assumed, speed_up=speed_up)
        part, rate = first_to_saturate(costs, chosen)
        how = "as fast as here" if speed_up == 1 else f"assumed {speed_up:g} times as fast as here"
        lines.append(
            f"learner, its updates {how}: saturated at {saturation(costs, chosen)['learner']:,.0f}; first of all {part}, "
            f"at {rate:,.0f}, with {rate / found['actors']:.0%} of the actors' time used"
        )
    needed = speed_up_needed(costs, assumed)
    others = {part: rate for part, rate in found.items() if part != "learner"}
    second = min(others, key=others.__getitem__)
    if math.isinf(needed):
        alone = 1 / _directing(costs, assumed)
        return [*lines, f"first: the learner, however fast its updates, since its calls alone end at {alone:,.0f}"]
    if needed <= 1:
        return [*lines, f"first: {second}, even with updates as fast as here"]
    return [*lines, f"first: the learner, until its updates are {needed:,.1f} times as fast as here; then {second}"]


def draw_estimate(
    path: Path,
    costs: Costs,
    assumed: Assumptions,
    speed_ups: tuple[float, float] = (SPEED_UPS[0], SPEED_UPS[-1]),
    replay_ratios: Sequence[float] = REPLAY_RATIOS,
) -> None:
    """Where each part saturates over the number of actors, and what the whole comes to over the learner's speed-up.

    Args:
        path: PNG to write.
        costs: measured.
        assumed: the rest; its speed-up is not used.
        speed_ups: least and most of the learner, the range that is drawn since none was measured.
        replay_ratios: a curve each on the right.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    counts = np.unique(np.geomspace(1, 8 * assumed.actors, 100).round().astype(int)).tolist()
    low, high = (
        [saturation(costs, dataclasses.replace(assumed, actors=count, speed_up=speed_up)) for count in counts]
        for speed_up in speed_ups
    )
    for part in PARTS[:-1]:
        left.plot(counts, [found[part] for found in low], color=COLOURS[part], label=part)
    band = [[found["learner"] for found in end] for end in (low, high)]
    label = f"learner, {speed_ups[0]:g} to {speed_ups[1]:g} times as fast as here (assumed)"
    left.fill_between(counts, *band, color=COLOURS["learner"], alpha=0.3, label=label)
    left.axvline(assumed.actors, color="black", linestyle=":", linewidth=1)
    left.set_xlabel("actors")
    left.set_ylabel("interactions/s at which it saturates")
    left.set_title(f"replay ratio {assumed.replay_ratio:g}")

    speeds = np.geomspace(*speed_ups, 100).tolist()
    for ratio, style in zip(replay_ratios, ("--", "-", "-.", ":") * len(replay_ratios), strict=False):
        chosen = dataclasses.replace(assumed, replay_ratio=ratio)
        whole = [first_to_saturate(costs, dataclasses.replace(chosen, speed_up=speed))[1] for speed in speeds]
        right.plot(speeds, whole, color=COLOURS["learner"], linestyle=style, label=f"replay ratio {ratio:g}")
    all_play = assumed.actors * costs.actor_per_s
    right.axhline(all_play, color=COLOURS["actors"], label=f"{assumed.actors} actors that never wait")
    right.set_xlabel("updates so many times as fast as here (assumed)")
    right.set_ylabel("interactions/s of the whole")
    right.set_title(f"{assumed.actors} actors")
    for panel in (left, right):
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    replace_file(path, lambda beside: figure.savefig(beside, format="png", dpi=100))
