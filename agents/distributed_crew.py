"""A crew in many processes: actors play, shards of the replay keep what they bring, the learner draws from all shards.

What an actor brings travels from its process to its shard's; the learner's process sees a summary of it, and the samples
that it learns from. An actor is at most `ROUNDS_AHEAD` rounds ahead of what its shard has taken and the learner has heard
of: a slow learner holds up the actors, and nothing piles up.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch

from kpagent.agents.exploration import ExplorationConfig
from kpagent.agents.option_actor import Experience, OptionActor, Weights
from kpagent.agents.solo_crew import new_replay
from kpagent.collect.distributed import AnswerLost, Call, WorkerDied, Workers, cluster, put, ready, require_workers, wait
from kpagent.collect.frame_replay import FrameReplay
from kpagent.collect.replay import Segments
from kpagent.errors import UsageError

MakeActor = Callable[[Sequence[int]], OptionActor]
"""`make_actor(seed)`: an actor with environments of its own."""

ROUNDS_AHEAD = 2
"""Rounds of an actor that are being played, on their way to its shard, or not yet noticed by the learner."""
FAILURES = 10
"""Times in a row that an actor's environments may raise within a round and be made anew."""
REFUSALS = 100
"""Times in a row that shards may have too little to draw from, with new rows in between, before the run ends."""


class Rows(NamedTuple):
    """A round's experience on its way from an actor to a shard."""

    actor: int
    """Number of the actor."""
    chapter: tuple[int, int]
    """The actor's life and the environments of that life: episodes go on within one, not from one to the next."""
    number: int
    """Of the round in its chapter."""
    experience: Experience


class Played(NamedTuple):
    """What the learner's process hears of a round."""

    summary: Experience
    failures: int
    """Times that the environments raised and were made anew, so far in this life of the actor."""
    seconds: float
    """That playing it took."""


class Player:
    """What lives in an actor's process.

    Args:
        make_actor: makes its actor, and makes it anew when the environment raises.
        config: how long rounds are.
        number: of the actor.
        life: how often its process was started again.
    """

    def __init__(self, make_actor: MakeActor, config: ExplorationConfig, number: int, life: int) -> None:
        torch.set_num_threads(1)
        self._make_actor, self._config = make_actor, config
        self._number, self._life = number, life
        self._failures = self._rounds = 0
        self._actor: OptionActor | None = None
        self._version = -1

    def play(self, version: int, weights: Weights, random: bool) -> tuple[Played, Rows]:
        """One round with the weights of a version.

        Raises:
            UsageError: the environment cannot be made, or failed too often.
        """
        started = perf_counter()
        experience = self._round(version, weights, random)
        rows = Rows(self._number, (self._life, self._failures), self._rounds, experience)
        self._rounds += 1
        return Played(experience.summary(), self._failures, perf_counter() - started), rows

    def _round(self, version: int, weights: Weights, random: bool) -> Experience:
        for attempt in range(1, FAILURES + 2):
            if self._actor is None:
                seed = (self._config.seed, self._number, self._life, self._failures)
                self._actor, self._version, self._rounds = self._make_actor(seed), -1, 0
            if self._version != version:
                self._actor.take(weights)
                self._version = version
            try:
                return self._actor.play(self._config.round_length, random=random)
            except UsageError:
                raise
            except Exception as error:
                if attempt > FAILURES:
                    reason = " ".join(f"{type(error).__name__}: {error}".split())
                    raise UsageError(
                        f"the environment failed {attempt} times in a row within one round: {reason}"
                    ) from error
                self._failures += 1
                with contextlib.suppress(Exception):
                    self._actor.players.close()
                self._actor = None
        raise AssertionError("every way out of the loop is above")


class Refusal(NamedTuple):
    """A shard has too little to draw from."""

    reason: str


class Shard:
    """What lives in a shard's process: a replay for each actor that sends its rows there.

    Args:
        config: of the replays.
        capacity: interactions that are kept of each actor.
        number: of the shard.
        life: how often its process was started again, empty.
    """

    def __init__(self, config: ExplorationConfig, capacity: int, number: int, life: int) -> None:
        self._config, self._capacity = config, capacity
        self._replays: dict[int, FrameReplay] = {}
        self._next: dict[int, tuple[tuple[int, int], int]] = {}

    def store(self, rows: Rows) -> int:
        """Keep a round's rows; returns how many rows there are to draw from."""
        experience = rows.experience
        if rows.actor not in self._replays:
            shapes = {name: part.shape[2:] for name, part in experience.state.items()}
            self._replays[rows.actor] = new_replay(self._config, shapes, self._capacity)
        replay = self._replays[rows.actor]
        if self._next.get(rows.actor) != (rows.chapter, rows.number):
            # A round is missing, or the actor has begun anew.
            replay.rows.interrupt()
        experience.store(replay)
        self._next[rows.actor] = (rows.chapter, rows.number + 1)
        return sum(map(len, self._drawable()))

    def sample(self, count: int, length: int, seed: int) -> Segments | Refusal:
        """Segments, from each actor in proportion to its rows."""
        return self._draw(count, seed, lambda replay, n, generator: replay.sample(n, length, 0, generator), join_segments)

    def pairs(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray] | Refusal:
        """Frame pairs, from each actor in proportion to its rows."""
        offset = self._config.offset
        return self._draw(count, seed, lambda replay, n, generator: replay.pairs(n, offset, generator), join_pairs)

    def _draw(
        self,
        count: int,
        seed: int,
        draw: Callable[[FrameReplay, int, np.random.Generator], Any],
        join: Callable[[list[Any]], Any],
    ) -> Any:
        generator = np.random.default_rng(seed)
        replays = self._drawable()
        if not replays:
            return Refusal(f"no environment has more than {self._config.offset[0] + 1} rows yet")
        shares = _shares(count, list(map(len, replays)), generator)
        try:
            return join([draw(replay, n, generator) for replay, n in zip(replays, shares, strict=True) if n])
        except UsageError as error:
            return Refusal(str(error))

    def _drawable(self) -> list[FrameReplay]:
        return [replay for replay in self._replays.values() if replay.can_sample(self._config.offset[0])]


@dataclass(frozen=True, eq=False)
class _Round:
    """On its way: played by an actor, then stored by a shard."""

    played: Call
    stored: Call


class RayCrew:
    """Actors and shards of the replay in processes of their own, on this machine or on a cluster.

    An actor that dies is started again and plays on with other seeds; a shard that dies is started again, empty, and the
    learner draws from the others while it fills. If too little is left, `sample` and `pairs` wait until there are as many
    interactions as a warm-up has. Lost are the round that an actor was playing and the rows that a shard held.

    Args:
        make_actor: makes an actor in its process; it must be picklable.
        config: how they play. Each actor has an equal share of `capacity`.
        actors: processes that play, of one CPU each.
        shards: processes that keep, each for its share of the actors.
        address: as of `cluster`.

    Attributes:
        playing_s: seconds that all actors together spent playing the rounds that were gathered.

    Raises:
        UsageError: more shards than actors, too little capacity for so many actors, or Ray cannot do it.
    """

    def __init__(
        self,
        make_actor: MakeActor,
        config: ExplorationConfig,
        actors: int,
        shards: int = 1,
        address: str | None = None,
    ) -> None:
        require_workers(actors, address, "actors")
        if not 1 <= shards <= actors:
            raise UsageError(f"shards must be from 1 to the number of actors, {actors}; got {shards!r}")
        share = config.capacity // actors
        if share // config.envs <= config.offset[1]:
            least = actors * config.envs * (config.offset[1] + 1)
            raise UsageError(f"{actors} actors with {config.envs} copies each need a capacity of {least} or more")
        self.playing_s = 0.0
        self._warm_up, self._room = config.warm_up, share // config.envs * config.envs
        self._weights: Any = None
        self._version = -1
        self._random = True
        self._rounds: list[_Round] = []
        self._arrived: list[Experience] = []
        self._env_failures: dict[tuple[int, int], int] = {}
        self._rows: dict[tuple[int, int], int] = {}
        self._ordered: dict[tuple[Any, ...], list[Call]] = {}
        self._asked: dict[str, tuple[int, ...]] = {}
        self._shard_count = shards
        with contextlib.ExitStack() as exits:
            exits.enter_context(cluster(actors, address, bytes_in_flight(config, actors), "actors"))
            self._actors = Workers(partial(Player, make_actor, config), actors, name="actor", made_by="make_actor")
            exits.callback(self._actors.close)
            # A shard needs little of a CPU; and a round that is still being played must not hold up what the learner asks.
            self._shards = Workers(partial(Shard, config, share), shards, name="shard", cpus=0, in_order=False)
            exits.callback(self._shards.close)
            self._exits = exits.pop_all()

    @property
    def faults(self) -> dict[str, int]:
        """How often `actors` and `shards` died, and `envs` raised, so far."""
        return {"actors": self._actors.deaths, "shards": self._shards.deaths, "envs": sum(self._env_failures.values())}

    def publish(self, weights: Weights) -> None:
        """Let everybody play and see with these weights, from the next round that begins."""
        self._weights = put(weights)
        self._version += 1

    def gather(self, *, random: bool) -> list[Experience]:
        """What the next actors to finish a round have experienced, once its rows are in a shard.

        Raises:
            UsageError: nobody is left to play or to keep, or the environment failed too often.
        """
        self._random = random
        while not self._arrived:
            self._advance()
        arrived, self._arrived = self._arrived, []
        return arrived

    def sample(self, batch_size: int, length: int, generator: np.random.Generator) -> Segments:
        """Segments of everybody's experience, from each shard in proportion to its rows.

        Raises:
            UsageError: as `gather`, or there are none to be had.
        """
        return join_segments(self._draw("sample", batch_size, (length,), generator))

    def pairs(self, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Frame pairs of everybody's experience, from each shard in proportion to its rows.

        Raises:
            UsageError: as `gather`, or there are none to be had.
        """
        return join_pairs(self._draw("pairs", count, (), generator))

    def close(self) -> None:
        """End all processes, and Ray if it was started for them."""
        self._exits.close()

    def _advance(self) -> None:
        """Take note of rounds that are over, of one at least, and let others begin."""
        self._keep_busy()
        rounds = {each.stored: each for each in self._rounds}
        for stored in wait(list(rounds)):
            one = rounds[stored]
            self._rounds.remove(one)
            try:
                # A shard may die long before the rows are there that it was to take.
                played: Played | None = self._actors.result(one.played) if ready(one.played) else None
            except (WorkerDied, AnswerLost):
                self._shards.forget(stored)
                continue
            try:
                self._rows[stored.worker, stored.life] = self._shards.result(stored)
            except WorkerDied:
                self._rounds.append(_Round(one.played, self._store(one.played)))
            except AnswerLost:
                # The rows have gone down with the machine that they lay on.
                continue
            else:
                assert played is not None, "what is stored was played"
                self._arrived.append(played.summary)
                self.playing_s += played.seconds
                self._env_failures[one.played.worker, one.played.life] = played.failures
        self._keep_busy()

    def _keep_busy(self) -> None:
        begun = Counter(each.played.worker for each in self._rounds)
        for number in self._actors.numbers:
            for _ in range(ROUNDS_AHEAD - begun[number]):
                played = self._actors.send(number, "play", self._version, self._weights, self._random, answers=2)
                self._rounds.append(_Round(played, self._store(played)))

    def _store(self, played: Call) -> Call:
        shards = self._shards.numbers
        home = played.worker % self._shard_count
        return self._shards.send(home if home in shards else shards[home % len(shards)], "store", played.answers[1])

    def _draw(self, method: str, count: int, rest: tuple[int, ...], generator: np.random.Generator) -> list[Any]:
        asked = (count, *rest)
        for _ in range(REFUSALS):
            calls = self._ordered.pop((method, *asked), None) or self._order(method, count, rest, generator)
            answers = [self._answer(call) for call in calls]
            reasons = [answer.reason for answer in answers if isinstance(answer, Refusal)]
            if not reasons:
                break
        else:
            raise UsageError(reasons[0])
        # What was asked for twice running will be asked for again; the shards see to it while the learner learns.
        if self._asked.get(method) == asked and self._holds_enough():
            self._ordered[method, *asked] = self._order(method, count, rest, generator)
        self._asked[method] = asked
        return answers

    def _order(self, method: str, count: int, rest: tuple[int, ...], generator: np.random.Generator) -> list[Call]:
        while not self._holds_enough():
            self._advance()
        numbers = self._shards.numbers
        shares = _shares(count, [self._held(number) for number in numbers], generator)
        return [
            self._shards.send(number, method, share, *rest, int(generator.integers(2**63)))
            for number, share in zip(numbers, shares, strict=True)
            if share
        ]

    def _answer(self, call: Call) -> Any:
        try:
            answer = self._shards.result(call)
        except (WorkerDied, AnswerLost):
            return Refusal("the shards of the replay died again and again")
        if isinstance(answer, Refusal):
            # Until it says otherwise, with the next rows that it takes.
            self._rows[call.worker, call.life] = 0
        return answer

    def _held(self, number: int) -> int:
        return self._rows.get((number, self._shards.life(number)), 0)

    def _holds_enough(self) -> bool:
        least = min(self._warm_up, self._room * len(self._actors.numbers))
        return sum(map(self._held, self._shards.numbers)) >= least


def join_segments(parts: list[Segments]) -> Segments:
    """Segments of several replays as one batch, in memory of their own."""

    def join(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        if isinstance(values[0], dict):
            return {key: np.concatenate([value[key] for value in values]) for key in values[0]}
        return np.concatenate(values) if isinstance(values[0], np.ndarray) else values[0]

    return Segments(**{each.name: join(each.name) for each in fields(Segments)})


def join_pairs(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Frame pairs of several replays as one batch, in memory of their own."""
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _shares(count: int, sizes: Sequence[int], generator: np.random.Generator) -> list[int]:
    """How many of `count` draws fall to each of several parts of a whole."""
    shares: list[int] = generator.multinomial(count, np.array(sizes) / sum(sizes)).tolist()
    return shares


def bytes_in_flight(config: ExplorationConfig, actors: int) -> int:
    """Most bytes that lie in the store at a time, were every frame noise."""
    frame, state = 3 * config.network.image_size**2, 4 * config.network.hidden
    rounds = actors * ROUNDS_AHEAD * config.round_length * config.envs * (frame + state)
    drawn = config.learning.batch_size * config.learning.sequence_length * frame + 1000 * frame
    weights = 4 * (config.network.embedding * (frame + 8 * config.network.hidden) + 2_000_000)
    return rounds + 2 * drawn + weights * (ROUNDS_AHEAD + 1)
