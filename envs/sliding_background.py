"""A background that moves: a texture that slides under all that a game draws on its plain field."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from kpagent.envs.atari import FRAME_SKIP, register_atari
from kpagent.errors import UsageError

PONG_SLIDING_ID = "kpagent/PongSliding-v0"
BRIGHTEST = 150
"""No channel of the texture lies above this, and each of Pong's moving parts has one that does, by 36 levels or more."""

_FINEST = 8.0
"""Wavelength in pixels below which the texture fades out, so that a frame of 84x84 still shows all of it."""

_LOOKED_AT = 4
"""Only every fourth row and column are counted to find the background's colour."""


def register_sliding_background() -> None:
    """Make `kpagent/PongSliding-v0` known to Gymnasium; no emulator is imported before it is made."""
    if PONG_SLIDING_ID not in gym.registry:
        gym.register(PONG_SLIDING_ID, entry_point="kpagent.envs.sliding_background:make_pong_sliding")


def make_pong_sliding(*, render_mode: str | None = None, **settings: Any) -> gym.Env[Any, Any]:
    """Pong whose field is a sliding texture: raw 210x160 RGB frames, one action in four of them, no sticky actions.

    Args:
        render_mode: "rgb_array" or None.
        settings: arguments of `SlidingBackground`.

    Raises:
        UsageError: another render mode, or as `SlidingBackground`.
    """
    if render_mode not in ("rgb_array", None):
        raise UsageError(f"{PONG_SLIDING_ID} renders as 'rgb_array' only, not as {render_mode!r}")
    register_atari()
    pong = gym.make("ALE/Pong-v5", frameskip=FRAME_SKIP, repeat_action_probability=0.0, render_mode=render_mode)
    return SlidingBackground(pong.unwrapped, **settings)


class SlidingBackground(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """A game whose plain background is replaced by a texture that slides by a constant step each interaction.

    All pixels of the background's colour show the texture, all others stay as they are. The texture has the size of the
    frame and wraps round at its edges, so each frame's background is the last one's, rolled. Where it starts, and towards
    which of the four diagonals it slides, are drawn at each `reset`, from the seed where one is given: neither a place nor
    a direction can be learned by heart. The game itself is not touched; its random numbers are its own.

    Args:
        env: its observation is an RGB frame (H, W, 3) uint8.
        speed: pixels along x and along y that the texture moves in one interaction. Fractions add up over the episode; what
            is shown lies on whole pixels.
        texture_seed: of the texture, the same in every episode.
        contrast: standard deviation of each of the texture's channels, in levels, before they are clipped to [0, 150].
        background: colour (R, G, B) of the background; without one, the most frequent colour of each frame. Pong changes its
            colours after the first frame, so one colour for all would miss.

    Raises:
        UsageError: another observation, a negative contrast, or a colour that is none.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        speed: tuple[float, float] = (3.0, 2.0),
        texture_seed: int = 0,
        contrast: float = 40.0,
        background: tuple[int, int, int] | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(
            self, speed=speed, texture_seed=texture_seed, contrast=contrast, background=background
        )
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8 or space.shape[2:] != (3,):
            raise UsageError(f"a sliding background needs RGB frames, (H, W, 3) uint8, not {space}")
        if len(speed) != 2 or not np.isfinite(speed).all():
            raise UsageError(f"speed must be two numbers of pixels, along x and y, not {speed}")
        if not contrast >= 0:
            raise UsageError(f"contrast must be at least 0, not {contrast}")
        if background is not None and (len(background) != 3 or not all(0 <= level <= 255 for level in background)):
            raise UsageError(f"background must be three levels from 0 to 255, not {background}")
        self._background = background
        self._speed = np.array(speed, np.float64)
        height, width, _ = space.shape
        self._texture = sliding_texture(height, width, texture_seed, contrast)
        # Twice as high and wide, any roll of it is a slice.
        self._tiled = np.tile(self._texture, (2, 2, 1))
        self._rng = np.random.default_rng()
        self._start = np.zeros(2)
        self._velocity = np.zeros(2)
        self._interactions = 0

    @property
    def texture(self) -> np.ndarray:
        """(H, W, 3) uint8: what slides."""
        return self._texture

    @property
    def velocity(self) -> np.ndarray:
        """(2,) float64: pixels along x (to the right) and y (down) that the background moves in one interaction."""
        return self._velocity.copy()

    @property
    def offset(self) -> np.ndarray:
        """(2,) int64: columns (to the right) and rows (down) by which the texture is rolled in the frame shown now."""
        height, width, _ = self._texture.shape
        return np.floor(self._start + self._interactions * self._velocity).astype(np.int64) % (width, height)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode of the game, and draw where its background starts and where it slides."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        height, width, _ = self._texture.shape
        self._start = self._rng.integers((width, height)).astype(np.float64)
        self._velocity = self._speed * self._rng.choice([-1.0, 1.0], size=2)
        self._interactions = 0
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One interaction: the game's, and one step of the background."""
        self._interactions += 1
        return super().step(action)

    def render(self) -> Any:
        """The game's picture, on the sliding background."""
        picture = self.env.render()
        return self.observation(picture) if isinstance(picture, np.ndarray) else picture

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """A frame of the game on the background as it lies now: (H, W, 3) uint8."""
        background = self._background if self._background is not None else _most_frequent(observation)
        # Channel by channel, and repeated in place of broadcast: three times as fast.
        red, green, blue = (observation[..., channel] == background[channel] for channel in range(3))
        shown = np.repeat((red & green & blue).ravel(), 3).reshape(observation.shape)
        height, width, _ = self._texture.shape
        x, y = -self.offset % (width, height)
        frame = observation.copy()
        np.copyto(frame, self._tiled[y : y + height, x : x + width], where=shown)
        return frame


def sliding_texture(height: int, width: int, seed: int, contrast: float) -> np.ndarray:
    """Smooth noise in colour that wraps round at its edges.

    Every octave of wavelengths, from the whole picture down to 8 pixels, has the same share of the variance. Channels are
    independent of each other, dark (mean 75) and clipped to [0, 150].

    Args:
        height: rows.
        width: columns.
        seed: of the noise.
        contrast: standard deviation of each channel in levels, before clipping.

    Returns:
        (height, width, 3) uint8.
    """
    noise = np.random.default_rng(seed).standard_normal((height, width, 3))
    cycles = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    cycles[0, 0] = np.inf
    # In two dimensions an octave holds frequencies in proportion to its frequency squared.
    amplitude = np.exp(-((cycles * _FINEST) ** 2) / 2) / cycles
    smooth = np.fft.irfft2(np.fft.rfft2(noise, axes=(0, 1)) * amplitude[..., None], s=(height, width), axes=(0, 1))
    levels = BRIGHTEST / 2 + contrast * smooth / smooth.std(axis=(0, 1))
    return np.clip(levels.round(), 0, BRIGHTEST).astype(np.uint8)


def _most_frequent(frame: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = frame[::_LOOKED_AT, ::_LOOKED_AT].reshape(-1, 3).T.astype(np.int32)
    codes, counts = np.unique(red << 16 | green << 8 | blue, return_counts=True)
    code = int(codes[counts.argmax()])
    return code >> 16, code >> 8 & 255, code & 255
