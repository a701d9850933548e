"""A Basketball-like set: five players and a ball as coloured dots, seen from above (after Struct-VRNN section 5.1).

The paper's videos are drawn from tracked trajectories of real games, which are licensed and not ours to ship. These are
simulated. The same: half a court from above at 64×64 (the paper's Figure 2), the five offensive players and the ball as dots
of six colours, the defenders not drawn, true coordinates for evaluation only, players that react to the ball, to each other
and to opponents that the video does not show. Different: the plays are rules and chance, not people; possession never
changes sides; 50 frames a sequence and as many sequences as one likes, where the paper has 107,146 for training and 13,845
for tests; the colours.

Players run with momentum to spots around the court, cut to the basket, set screens and keep their distance; a player who
is covered looks for open space. Five defenders stand between their player and the basket, late. The holder dribbles, passes
to whoever is open, or shoots; a rebound goes to one of those near the basket. To whom a pass goes, when, and where a player
runs next is chance, so one past has many futures.

Measured over 2,000 sequences of 50 frames with the defaults, in units of half the court's width: after 8 frames a player is
0.31 away from where he was in the mean (0.07 and 0.49 at the 10th and 90th percentile), the ball 0.52 (0.15 and 0.98); the
ball goes from one player to the next 5 times in a sequence. Simulating 10,000 sequences takes 14 s on one busy core, drawing
a frame 0.04 ms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kpagent.collect.sequence_making import FrameSequence, Provenance
from kpagent.errors import UsageError

NAMES = ("player_1", "player_2", "player_3", "player_4", "player_5", "ball")
"""The order of all positions here."""

COURT_COLOR = (38, 44, 56)
COLORS = ((235, 64, 52), (70, 200, 90), (80, 130, 255), (250, 200, 40), (215, 90, 220), (255, 255, 255))
"""RGB of each of `NAMES`."""

_PLAYERS = 5
_HOOP = np.array([0.0, -0.8])
_UNDER_THE_HOOP = np.array([0.0, 0.12])
# Places that players of a half-court offence go to: corners, wings, top, elbows, blocks, and further out.
_SPOTS = np.array(
    [
        (-0.85, -0.75), (0.85, -0.75), (-0.7, -0.1), (0.7, -0.1), (0.0, 0.25), (-0.3, -0.3), (0.3, -0.3), (-0.25, -0.65),
        (0.25, -0.65), (-0.45, 0.35), (0.45, 0.35), (0.0, 0.65), (-0.8, 0.45), (0.8, 0.45),
    ]
)  # fmt: skip
_CUT, _SCREEN = len(_SPOTS), len(_SPOTS) + 1
_WARM_UP = 30
_EDGE = 0.9
# Sequences that are simulated side by side; more would not fit into a processor's cache.
_BLOCK = 1024

_HELD, _PASSED, _SHOT = 0, 1, 2
# Uniform random numbers of one frame: for each player when to run elsewhere, where to, and two of unsteadiness; then
# when the ball leaves, whether as a shot, and to whom it goes.
_DRAWS = 4 * _PLAYERS + 3


@dataclass(frozen=True)
class BasketballConfig:
    """The game and the picture. One unit of length is half the court's width."""

    frames: int = 50
    """Of each sequence."""
    image_size: int = 64
    """Height and width of the frames."""
    player_radius: float = 0.075
    """Of a player's dot."""
    ball_radius: float = 0.05
    """Of the ball's."""
    pace: float = 0.065
    """Speed of a player who runs freely, in units a frame."""
    ball_speed: float = 0.16
    """Of passes and shots, in units a frame."""
    pass_rate: float = 0.12
    """Probability that a holder who is not pressed lets go of the ball in a frame; twice that where he is."""
    shot_share: float = 0.15
    """Share of those that are shots, near the basket."""

    def __post_init__(self) -> None:
        checks = {
            "frames": ("from 1 to 10,000", isinstance(self.frames, int) and 1 <= self.frames <= 10_000),
            "image_size": ("from 16 to 512", isinstance(self.image_size, int) and 16 <= self.image_size <= 512),
            "player_radius": ("above 0 and at most 0.5", 0 < self.player_radius <= 0.5),
            "ball_radius": ("above 0 and at most 0.5", 0 < self.ball_radius <= 0.5),
            "pace": ("above 0 and at most 0.2", 0 < self.pace <= 0.2),
            "ball_speed": ("from pace to 1", self.pace <= self.ball_speed <= 1),
            "pass_rate": ("from 0 to 0.5", 0 <= self.pass_rate <= 0.5),
            "shot_share": ("from 0 to 1", 0 <= self.shot_share <= 1),
        }
        for name, (wanted, holds) in checks.items():
            if not holds:
                raise UsageError(f"{name} must be {wanted}; got {getattr(self, name)!r}")


class Basketball:
    """Sequences of the game, for `sequence_making.write_sequences`: frames, and the truth of players and ball.

    Args:
        count: sequences. A test set has another seed.
        seed: with the number of a sequence, it decides everything.
        config: the game and the picture.

    Raises:
        UsageError: a count below 1 or a seed below 0.
    """

    def __init__(self, count: int, seed: int = 0, config: BasketballConfig | None = None) -> None:
        if count < 1 or seed < 0:
            raise UsageError(f"count must be at least 1 and seed at least 0; got {count} and {seed}")
        self.count, self.seed, self.config = count, seed, config or BasketballConfig()

    @property
    def provenance(self) -> Provenance:
        """Where the sequences come from."""
        return Provenance("basketball", "basketball", dataclasses.asdict(self.config), seed=self.seed, truth_names=NAMES)

    def make(self, start: int, stop: int) -> Iterator[FrameSequence]:
        """Sequences `start` to `stop`."""
        positions = simulate(self.config, self.seed, stop - start, start=start)
        for sequence in positions:
            yield FrameSequence(draw(sequence, self.config), truth=sequence)


def simulate(config: BasketballConfig, seed: int, count: int, *, start: int = 0) -> np.ndarray:
    """Positions of players and ball; a sequence depends on the seed and its own number alone.

    Args:
        config: the game.
        seed: at least 0.
        count: N sequences.
        start: number of the first.

    Returns:
        (N, T, 6, 2) float32 in [-1, 1], in the order of `NAMES`.
    """
    positions = np.empty((count, config.frames, len(NAMES), 2), np.float32)
    for first in range(0, count, _BLOCK):
        last = min(first + _BLOCK, count)
        numbers = range(start + first, start + last)
        steps = _WARM_UP + config.frames
        draws = np.stack([np.random.default_rng((seed, number)).random((steps + 1, _DRAWS)) for number in numbers])
        game = _Game(config, draws[:, 0])
        for step in range(steps):
            game.advance(draws[:, step + 1])
            if step >= _WARM_UP:
                positions[first:last, step - _WARM_UP, :_PLAYERS] = game.place
                positions[first:last, step - _WARM_UP, _PLAYERS] = game.ball
    return positions


def draw(positions: np.ndarray, config: BasketballConfig | None = None) -> np.ndarray:
    """Frames of dots with soft edges, placed to fractions of a pixel; the ball lies on top.

    Args:
        positions: (..., 6, 2) in [-1, 1].
        config: the picture.

    Returns:
        (..., S, S, 3) uint8.

    Raises:
        ValueError: another shape.
    """
    config = config or BasketballConfig()
    if positions.shape[-2:] != (len(NAMES), 2):
        raise ValueError(f"positions must be (..., {len(NAMES)}, 2), not {positions.shape}")
    size = config.image_size
    # In pixels, whole numbers being the centres of pixels.
    places = (positions.reshape(-1, len(NAMES), 2).astype(np.float32) + 1) * (size / 2) - 0.5
    border = int(np.ceil(max(config.player_radius, config.ball_radius) * size / 2)) + 2
    wide = size + 2 * border
    canvas = np.empty((len(places) * wide * wide, 3), np.uint8)
    canvas[:] = COURT_COLOR
    corner = np.arange(len(places))[:, None, None] * wide * wide
    for index, color in enumerate(COLORS):
        radius = (config.ball_radius if index == _PLAYERS else config.player_radius) * size / 2
        reach = int(np.ceil(radius + 0.5))
        # What lies far outside would be drawn on another frame.
        place = np.clip(places[:, index], reach - border, size - 1 + border - reach)
        nearest = np.rint(place).astype(np.int64)
        steps = np.arange(-reach, reach + 1)
        columns, rows = (nearest[:, axis, None] + steps for axis in (0, 1))
        x, y = columns - place[:, :1], rows - place[:, 1:]
        covered = np.clip(radius + 0.5 - np.sqrt((x * x)[:, None, :] + (y * y)[:, :, None]), 0, 1).astype(np.float32)
        seen = covered > 0
        cells = (corner + (rows[:, :, None] + border) * wide + columns[:, None, :] + border)[seen]
        below = canvas[cells].astype(np.float32)
        canvas[cells] = np.rint(below + covered[seen][:, None] * (np.array(color, np.float32) - below)).astype(np.uint8)
    frames = canvas.reshape(-1, wide, wide, 3)[:, border:-border, border:-border]
    return np.ascontiguousarray(frames).reshape(*positions.shape[:-2], size, size, 3)


class _Game:
    """N games side by side; `advance` takes the random numbers of one frame.

    Attributes:
        place: (N, 5, 2) of the players.
        ball: (N, 2).
    """

    def __init__(self, config: BasketballConfig, draws: np.ndarray) -> None:
        self.config = config
        count = len(draws)
        self._every = np.arange(count)
        # Five different spots, in random order: the five with the smallest numbers.
        spots = np.argsort(draws[:, : len(_SPOTS)], axis=1)[:, :_PLAYERS]
        self.place = _SPOTS[spots] * 0.95
        self._speed = np.zeros_like(self.place)
        self._goal = self.place.copy()
        self._defender = self._between(self.place, 0.8)
        self._holder = np.minimum((draws[:, -1] * _PLAYERS).astype(np.int64), _PLAYERS - 1)
        self._heading = np.tile(np.array([0.0, -1.0]), (count, 1))
        self._state = np.full(count, _HELD)
        self._held_for = np.zeros(count, np.int64)
        self._origin = np.zeros((count, 2))
        self._flown = np.zeros(count, np.int64)
        self._flight = np.ones(count, np.int64)
        self._dribble = draws[:, -2] * 2 * np.pi
        self.ball = self._at_hand()

    def advance(self, draws: np.ndarray) -> None:
        """One frame on; draws (N, 23) uniform in [0, 1)."""
        when, where, *unsteady = np.split(draws[:, : 4 * _PLAYERS].reshape(-1, 4, _PLAYERS), 4, axis=1)
        self._choose_goals(when[:, 0], where[:, 0])
        self._run(np.concatenate(unsteady, axis=1).swapaxes(1, 2))
        self._defend()
        self._play_ball(*draws[:, 4 * _PLAYERS :].T)

    def _choose_goals(self, when: np.ndarray, where: np.ndarray) -> None:
        arrived = _length(self._goal - self.place) < 0.1
        covered = _length(self._defender - self.place) < 0.16
        chance = np.where(arrived, np.where(covered, 0.3, 0.15), np.where(covered, 0.04, 0.02))
        # He to whom the ball flies comes to meet it.
        chance[self._every, self._holder] *= np.where(self._state == _HELD, 0.7, 0.0)
        game, player = np.nonzero(when < chance)
        goals = np.empty((len(game), len(_SPOTS) + 2, 2))
        goals[:, : len(_SPOTS)] = _SPOTS
        goals[:, _CUT] = _HOOP + _UNDER_THE_HOOP
        holder = self._holder[game]
        guard = self._defender[game, holder]
        goals[:, _SCREEN] = guard + 0.12 * _unit(guard - _HOOP)

        here = self.place[game, player]
        distance = _length(goals - here[:, None])
        taken = np.exp(-((_length(goals[:, None] - self._goal[game][:, :, None]) / 0.3) ** 2))
        taken[np.arange(len(game)), player] = 0.0
        guarded = np.exp(-((_length(goals[:, None] - self._defender[game][:, :, None]) / 0.25) ** 2))
        appeal = -3.0 * taken.sum(axis=1) - 1.5 * guarded.sum(axis=1) - 1.2 * np.abs(distance - 0.55)
        # Where one stands already is nowhere to go.
        appeal -= 4.0 * (distance < 0.15)
        appeal[:, _CUT] += 1.6
        appeal[:, _SCREEN] += 1.2 - 1.5 * _length(self.place[game, holder] - here)
        appeal[player == holder, _SCREEN] = -20.0
        chosen = _choose(appeal, where[game, player])
        self._goal[game, player] = goals[np.arange(len(game)), chosen]

    def _run(self, unsteady: np.ndarray) -> None:
        pace = np.full(self.place.shape[:2], self.config.pace)
        pace[self._every, self._holder] *= np.where(self._state == _HELD, 0.7, 0.35)
        way = self._goal - self.place
        distance = _length(way)
        wanted = _unit(way) * (pace * np.minimum(1.0, distance / 0.25))[..., None]
        wanted += 0.45 * self.config.pace * self._pushed(self.place, 0.28)
        wanted += 0.25 * self.config.pace * self._pushed(self._defender, 0.22)
        wanted += 0.5 * self.config.pace * (unsteady - 0.5)
        self._speed += 0.3 * (wanted - self._speed)
        self._speed -= 0.3 * (self.place - np.clip(self.place, -_EDGE, _EDGE))
        self.place = np.clip(self.place + self._speed, -0.97, 0.97)

    def _pushed(self, others: np.ndarray, reach: float) -> np.ndarray:
        """Away from each of `others` that is nearer than `reach`, (N, 5, 2); nobody pushes himself."""
        apart = self.place[:, :, None] - others[:, None]
        distance = _length(apart)
        strength = np.clip(1 - distance / reach, 0, None) * (distance > 1e-9)
        return (apart / np.maximum(distance, 1e-9)[..., None] * strength[..., None]).sum(axis=2)

    def _defend(self) -> None:
        pressed = np.full(self.place.shape[:2], 0.72)
        pressed[self._every, self._holder] = 0.86
        wanted = 0.9 * self._between(self.place, pressed[..., None]) + 0.1 * self.ball[:, None]
        step = 0.3 * (wanted - self._defender)
        limit = 0.9 * self.config.pace / np.maximum(_length(step), 1e-9)
        self._defender = self._defender + step * np.minimum(1.0, limit)[..., None]

    def _play_ball(self, when: np.ndarray, shot: np.ndarray, whom: np.ndarray) -> None:
        holder = self.place[self._every, self._holder]
        guard = _length(self._defender[self._every, self._holder] - holder)
        held = self._state == _HELD
        self._held_for += held
        rate = self.config.pass_rate * np.where(guard < 0.16, 2.0, 1.0) * (self._held_for > 3)
        leaves = held & (when < rate)
        shoots = leaves & (shot < self.config.shot_share) & (_length(holder - _HOOP) < 0.75)
        passes = leaves & ~shoots
        self._flown += ~held
        lands = ~held & (self._flown >= self._flight)
        rebounds = lands & (self._state == _SHOT)
        caught = lands & (self._state == _PASSED)

        self._held_for[caught] = 0
        self._state[caught] = _HELD
        self._holder[rebounds] = self._rebounder(rebounds, whom)
        self._holder[passes] = self._receiver(passes, whom)
        self._state[shoots] = _SHOT
        self._state[passes | rebounds] = _PASSED
        self._begin_flight(shoots | passes | rebounds, shoots, rebounds)

        self._turn()
        share = np.minimum(self._flown / self._flight, 1.0)[:, None]
        hand = self._at_hand()
        aim = np.where((self._state == _SHOT)[:, None], _HOOP, hand)
        flying = self._origin + share * (aim - self._origin)
        self.ball = np.clip(np.where((self._state == _HELD)[:, None], hand, flying), -0.98, 0.98)

    def _receiver(self, games: np.ndarray, whom: np.ndarray) -> np.ndarray:
        """To whom the holders of some games pass: open, not too far, nobody in the way."""
        place, guards, holder = self.place[games], self._defender[games], self._holder[games]
        own = place[np.arange(len(place)), holder]
        way = place - own[:, None]
        distance = _length(way)
        openness = _length(place[:, :, None] - guards[:, None]).min(axis=2)
        near_hoop = np.exp(-((_length(place - _HOOP) / 0.4) ** 2))
        # Where on the line to each player, from 0 to 1, each defender is nearest to it.
        out = (guards - own[:, None])[:, None]
        share = _dot(out, way[:, :, None]) / np.maximum(_dot(way, way), 1e-9)[..., None]
        nearest = np.clip(share, 0.15, 0.85)[..., None] * way[:, :, None]
        lane = _length(out - nearest).min(axis=2)
        appeal = 6.0 * np.minimum(openness, 0.3) + 6.0 * np.minimum(lane, 0.2) - 1.2 * np.abs(distance - 0.5) + near_hoop
        appeal[np.arange(len(place)), holder] = -20.0
        return _choose(appeal, whom[games])

    def _rebounder(self, games: np.ndarray, whom: np.ndarray) -> np.ndarray:
        return _choose(-5.0 * _length(self.place[games] - _HOOP), whom[games])

    def _begin_flight(self, starts: np.ndarray, shoots: np.ndarray, rebounds: np.ndarray) -> None:
        aim = np.where(shoots[:, None], _HOOP, self.place[self._every, self._holder])
        speed = self.config.ball_speed * np.where(rebounds, 0.7, 1.0)
        frames = np.maximum(np.ceil(_length(aim - self.ball) / speed), 2).astype(np.int64)
        self._flight = np.where(starts, frames, self._flight)
        self._flown = np.where(starts, 1, self._flown)
        self._origin = np.where(starts[:, None], self.ball, self._origin)

    def _turn(self) -> None:
        """The hand with the ball follows where its player runs, and turns to the basket where he stands."""
        speed = self._speed[self._every, self._holder] / self.config.pace
        hoop = _unit(_HOOP - self.place[self._every, self._holder])
        self._heading = _unit(self._heading + 0.2 * (speed + 0.3 * hoop))
        self._dribble += 0.9

    def _at_hand(self) -> np.ndarray:
        reach = 0.105 + 0.02 * np.sin(self._dribble)
        return self.place[self._every, self._holder] + reach[:, None] * self._heading

    def _between(self, place: np.ndarray, share: np.ndarray | float) -> np.ndarray:
        """Places between the basket (share 0) and players (share 1)."""
        return _HOOP + share * (place - _HOOP)


def _length(vector: np.ndarray) -> np.ndarray:
    return np.sqrt(vector[..., 0] ** 2 + vector[..., 1] ** 2)


def _dot(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return one[..., 0] * other[..., 0] + one[..., 1] * other[..., 1]


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.maximum(_length(vector), 1e-9)[..., None]


def _choose(appeal: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Of each row of `appeal` (..., M), one index, with the probabilities of its softmax; `uniform` (...) decides which."""
    weight = np.exp(appeal - appeal.max(axis=-1, keepdims=True))
    total = np.cumsum(weight, axis=-1)
    return np.minimum((total <= uniform[..., None] * total[..., -1:]).sum(axis=-1), appeal.shape[-1] - 1)
