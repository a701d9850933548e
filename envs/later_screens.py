"""Screens that random play hardly ever reaches: games that begin where a scripted player has brought them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from kpagent.envs.atari import FRAME_SKIP, register_atari
from kpagent.errors import UsageError

if TYPE_CHECKING:
    from ale_py import ALEInterface, ALEState

HALF_WALL_ID = "kpagent/BreakoutHalfWall-v0"
SECOND_ROOM_ID = "kpagent/MontezumaSecondRoom-v0"

_MOST_FRAMES = 20_000
"""Frames after which a scripted player that has not arrived never will."""

_ROOM = 3
"""The RAM cell with the number of Montezuma's room; an episode starts in room 1, and room 0 lies to its left."""

_WAY_TO_SECOND_ROOM = (
    "..DUUUUULR...........RRllllDDDDDDDDDDRRrrFrrrrrUr...rrrrrrrrrrLLFFLLLLLDrrrrUFFF..LLLFFFFRRR......FFFDDDl...F."
    "..........DDDDDDl........lllllFFFFFFFDDDDDDUUUUUUUUUlLLLLLLLLLLLLLDDDUUU...llllllLLLrDDDlllllrrrrrrllllUUDDDDD"
    "lll....lrrrllllDDDLLUUlUUUUUUUlllRRRRRRFFL..DDDDDDDDDDrRRRRRRRRRRRrrrrrRrFFrrrrrrrrUUUUUUUUULlrrrDlUUUUUUUUUUU"
    "UUUUUULLlUUUUULLLLLLLLLLLLL"
)
"""Interactions that fetch the key and leave the first room by its left door, found by a random search over places."""

_LETTERS = {
    ".": "NOOP",
    "F": "FIRE",
    "U": "UP",
    "R": "RIGHT",
    "L": "LEFT",
    "D": "DOWN",
    "r": "RIGHTFIRE",
    "l": "LEFTFIRE",
}


@dataclass(frozen=True)
class _Screen:
    game: str
    """Gymnasium id of the game."""
    play: Callable[[ALEInterface, np.random.Generator], None]
    """Plays from the start of an episode until the screen is there; its choices are drawn from the generator."""


def register_later_screens() -> None:
    """Make `kpagent/BreakoutHalfWall-v0` and `kpagent/MontezumaSecondRoom-v0` known to Gymnasium, without the emulator."""
    for env_id, screen in ((HALF_WALL_ID, "breakout half wall"), (SECOND_ROOM_ID, "montezuma second room")):
        if env_id not in gym.registry:
            gym.register(env_id, entry_point="kpagent.envs.later_screens:make_later_screens", kwargs={"screen": screen})


def make_later_screens(
    *, screen: str, states: int = 4, first_state: int = 0, render_mode: str | None = None
) -> gym.Env[Any, Any]:
    """A game that begins on a later screen: raw 210x160 RGB frames, one action in four of them, no sticky actions.

    Args:
        screen: a name in `SCREENS`.
        states: as for `LaterScreens`.
        first_state: as for `LaterScreens`.
        render_mode: "rgb_array" or None.

    Raises:
        UsageError: another render mode, or as `LaterScreens`.
    """
    if render_mode not in ("rgb_array", None):
        raise UsageError(f"later screens render as 'rgb_array' only, not as {render_mode!r}")
    game = _find_screen(screen).game
    register_atari()
    env = gym.make(game, frameskip=FRAME_SKIP, repeat_action_probability=0.0, render_mode=render_mode)
    return LaterScreens(env.unwrapped, screen, states=states, first_state=first_state)


class LaterScreens(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """A game each episode of which begins in one of a few states that a scripted player has reached.

    Which of them is drawn at each `reset`, from the seed where one is given. Each is reached the first time it is drawn in a
    process, in about half a second, always the same way, and kept for all environments of that process. One idle
    interaction follows, since the emulator draws no picture of a state that it takes up. Score, lives and the count of
    frames go on from where the player left them; the rewards of an episode are those after its beginning.

    Args:
        env: an Atari game (`ale_py`'s) in its default mode and difficulty.
        screen: a name in `SCREENS`, of a screen of that game.
        states: how many different states there are.
        first_state: number of the first of them; states of other numbers are others, such as for pretraining and testing
            on different ones.

    Raises:
        UsageError: no such screen, another game, or fewer than one state.
    """

    def __init__(self, env: gym.Env[Any, Any], screen: str, *, states: int = 4, first_state: int = 0) -> None:
        RecordConstructorArgs.__init__(self, screen=screen, states=states, first_state=first_state)
        super().__init__(env)
        game = _find_screen(screen).game
        found = env.unwrapped.spec.id if env.unwrapped.spec is not None else type(env.unwrapped).__name__
        if found != game:
            raise UsageError(f"the screen {screen!r} is one of {game}, not of {found}")
        if states < 1 or first_state < 0:
            raise UsageError(f"there must be at least one state, from number 0 or more, not {states} from {first_state}")
        self._screen = screen
        self._numbers = range(first_state, first_state + states)
        self._rng = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode on the later screen."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        _, info = self.env.reset(seed=seed, options=options)
        state = reach(self._screen, int(self._rng.choice(self._numbers)))
        inner: Any = self.env.unwrapped
        inner.ale.restoreState(state)
        observation, _, _, _, after = self.env.step(0)
        return observation, info | after


@functools.lru_cache(maxsize=256)
def reach(screen: str, number: int) -> ALEState:
    """The state of the emulator that a scripted player reaches, the same for the same arguments.

    Args:
        screen: a name in `SCREENS`.
        number: which of the states.

    Raises:
        UsageError: no such screen.
        RuntimeError: the player did not arrive.
    """
    found = _find_screen(screen)
    register_atari()
    env: Any = gym.make(found.game, frameskip=1, repeat_action_probability=0.0).unwrapped
    env.reset(seed=0)
    found.play(env.ale, np.random.default_rng(number))
    return env.ale.cloneState()


def count_bricks(screen: np.ndarray) -> int:
    """Bricks of Breakout's wall that are seen in a frame, by the colour at the middle of each of the 6 x 18.

    Args:
        screen: (210, 160, 3) uint8. A ball that flies through a gap may count as one.
    """
    return int(screen[60:93:6, 12:152:8].any(axis=-1).sum())


def _break_half_of_the_wall(ale: ALEInterface, rng: np.random.Generator) -> None:
    """Keeps the paddle where the ball will come down, a little to one side of its middle, so that no two games agree."""
    from ale_py import Action

    last_x = last_y = None
    side = 0.0
    for frame in range(_MOST_FRAMES):
        if ale.game_over():
            ale.reset_game()
        # Only now and then: a picture costs as much as several frames of play.
        if frame % 20 == 0 and count_bricks(ale.getScreenRGB()) <= 54:
            return
        ram = ale.getRAM().astype(int)
        x, y, paddle = ram[99] - 48, ram[101] + 9, ram[72] - 39
        if ram[101] == 0:
            ale.act(Action.FIRE)
            last_x = last_y = None
            continue
        lands = float(x)
        if last_x is not None and last_y is not None and y > last_y:
            lands = x + (x - last_x) * max(189 - y, 0) / (y - last_y)
            # The side walls, at columns 8 and 152, throw it back.
            lands = 8 + 144 - abs((lands - 8) % 288 - 144)
        elif last_y is not None and y < last_y:
            side = rng.uniform(-3, 3)
        last_x, last_y = x, y
        to_the_right = lands + side - paddle
        ale.act(Action.RIGHT if to_the_right > 2 else Action.LEFT if to_the_right < -2 else Action.NOOP)
    raise RuntimeError(f"half of the wall still stood after {_MOST_FRAMES} frames")


def _walk_to_second_room(ale: ALEInterface, rng: np.random.Generator) -> None:
    """Takes the one way that is known; the generator chooses how long to stand still behind the door, up to a second."""
    from ale_py import Action

    for letter in _WAY_TO_SECOND_ROOM + "." * int(rng.integers(16)):
        for _ in range(FRAME_SKIP):
            ale.act(getattr(Action, _LETTERS[letter]))
    if ale.getRAM()[_ROOM] != 0:
        raise RuntimeError("the way through the left door ended elsewhere")


SCREENS: Mapping[str, _Screen] = {
    "breakout half wall": _Screen("ALE/Breakout-v5", _break_half_of_the_wall),
    "montezuma second room": _Screen("ALE/MontezumaRevenge-v5", _walk_to_second_room),
}
"""The later screens that are known, by name.

"breakout half wall": at most 54 of the 108 bricks stand. "montezuma second room": the room to the left of the first one.
"""


def _find_screen(name: str) -> _Screen:
    if name not in SCREENS:
        raise UsageError(f"no later screen called {name!r}; there are {', '.join(map(repr, SCREENS))}")
    return SCREENS[name]
