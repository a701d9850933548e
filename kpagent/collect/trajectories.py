"""Random trajectories to frame pairs: one frame from each half, from any vector env (Transporter Appendix B)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from kpagent.errors import UsageError
from kpagent.frames import FrameLayout, resize


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Frame pairs on their way into a buffer.

    Attributes:
        source: (n, S, S, 3) uint8, from the first half of each trajectory.
        target: (n, S, S, 3) uint8, from the second half.
        episode: (n,) int64, equal where two pairs come from one episode.
    """

    source: np.ndarray
    target: np.ndarray
    episode: np.ndarray

    def __len__(self) -> int:
        return len(self.episode)

    def __getitem__(self, index: Any) -> PairBatch:
        """The pairs at `index`, a slice or an array."""
        return PairBatch(self.source[index], self.target[index], self.episode[index])


class PairSampler:
    """Plays a vector env with uniformly random actions and draws one frame pair from every trajectory.

    A trajectory is up to `trajectory_length` interactions long and shorter only where its episode ends. Its L frames are
    those that were acted on, so the frame that ends an episode is in none; frame ⌊L/2⌋ begins the second half. The next
    trajectory goes on in the same episode, or begins with the next one. Rewards are never read.

    Until a trajectory has ended, its halves are unknown. Which frame each possible L would take is therefore drawn before
    the trajectory starts, and a frame is copied (or rendered) only if some L still possible takes it: about 17 of 100
    frames, and about 7 of them held at a time, instead of all 100.

    Args:
        env: any `gymnasium.vector.VectorEnv`, autoreset NEXT_STEP or SAME_STEP, whose observations are images or which
            renders images (`render_mode="rgb_array"`). A mode that `metadata` does not name counts as NEXT_STEP.
        image_size: S; only the two chosen frames are resized.
        trajectory_length: interactions at most.
        seed: of the actions, the resets and the choice of frames.
        first_episode: number of the first episode; the next ones count up.

    Raises:
        UsageError: `env` is none of these.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        *,
        image_size: int,
        trajectory_length: int = 100,
        seed: int | Sequence[int] = 0,
        first_episode: int = 0,
    ) -> None:
        if not isinstance(env, VectorEnv):
            raise UsageError(f"frame pairs need a vector env, such as gymnasium.make_vec makes, not {type(env).__name__}")
        mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        if mode == AutoresetMode.DISABLED:
            raise UsageError(
                "the vector env resets no episode (autoreset mode DISABLED): make it with NEXT_STEP or SAME_STEP"
            )
        self._layout = _layout(env)
        self._env = env
        self._resets_next_step = mode == AutoresetMode.NEXT_STEP
        self._image_size = image_size
        self._trajectory_length = trajectory_length
        of_frames, *others = np.random.SeedSequence(seed).spawn(3)
        self._generator = np.random.default_rng(of_frames)
        # Emulators take seeds of 31 bits, and a vector env counts up from the one it is given.
        of_actions, of_resets = (int(other.generate_state(1)[0]) >> 2 for other in others)
        env.action_space.seed(of_actions)
        self._observation, _ = env.reset(seed=of_resets)
        if self._layout is not None and len(self._observation) != env.num_envs:
            raise UsageError(
                f"the vector env returns {len(self._observation)} of its {env.num_envs} envs a step: set batch_size=0"
            )
        self._trajectories = [self._start() for _ in range(env.num_envs)]
        self._episode = first_episode + np.arange(env.num_envs, dtype=np.int64)
        self._next_episode = first_episode + env.num_envs
        self._over = np.zeros(env.num_envs, bool)
        self._pairs: deque[tuple[np.ndarray, np.ndarray, int]] = deque()

    def sample(self, pairs: int, interactions: int) -> tuple[PairBatch, int]:
        """Play until `pairs` pairs are there or `interactions` interactions are spent, whichever comes first.

        Returns:
            At most `pairs` pairs, and the interactions spent: up to `num_envs - 1` too many, since all envs step at once.
        """
        spent = 0
        while len(self._pairs) < pairs and spent < interactions:
            spent += self._step()
        taken = [self._pairs.popleft() for _ in range(min(pairs, len(self._pairs)))]
        shape = (len(taken), self._image_size, self._image_size, 3)
        source = np.array([pair[0] for pair in taken], np.uint8).reshape(shape)
        target = np.array([pair[1] for pair in taken], np.uint8).reshape(shape)
        return PairBatch(source, target, np.array([pair[2] for pair in taken], np.int64)), spent

    def _step(self) -> int:
        acted = np.flatnonzero(~self._over)
        self._keep([int(index) for index in acted if self._trajectories[index].wants_frame()])
        self._observation, _, terminated, truncated, _ = self._env.step(self._env.action_space.sample())
        ended = np.asarray(terminated, bool) | np.asarray(truncated, bool)
        for index in acted:
            trajectory = self._trajectories[index]
            trajectory.advance()
            if ended[index] or trajectory.length == self._trajectory_length:
                self._finish(int(index))
            if ended[index]:
                self._episode[index] = self._next_episode
                self._next_episode += 1
        # Under NEXT_STEP an action after the end of an episode does nothing but reset, so it is no interaction.
        self._over = ended & ~self._over if self._resets_next_step else self._over
        return len(acted)

    def _keep(self, indices: list[int]) -> None:
        if not indices:
            return
        rendered = self._env.render() if self._layout is None else None
        for index in indices:
            if self._layout is not None:
                frame = self._layout.to_rgb(self._observation[index])
            else:
                frame = _rendered_frame(rendered, index)
            # A copy: envs may write the next observation into the same memory.
            self._trajectories[index].frames[self._trajectories[index].length] = np.array(frame, order="C")

    def _finish(self, index: int) -> None:
        trajectory = self._trajectories[index]
        if trajectory.length >= 2:
            source, target = (resize(frame, self._image_size) for frame in trajectory.chosen())
            self._pairs.append((source, target, int(self._episode[index])))
        self._trajectories[index] = self._start()

    def _start(self) -> _Trajectory:
        return _Trajectory(*draw_choices(self._trajectory_length, self._generator))


class _Trajectory:
    """The frames of one unfinished trajectory that may yet be chosen."""

    def __init__(self, first: np.ndarray, second: np.ndarray) -> None:
        self.length = 0
        self.frames: dict[int, np.ndarray] = {}
        self._first = first
        self._second = second
        self._last_use = np.zeros(len(first), np.int64)
        lengths = np.arange(2, len(first))
        np.maximum.at(self._last_use, first[2:], lengths)
        np.maximum.at(self._last_use, second[2:], lengths)

    def wants_frame(self) -> bool:
        return bool(self._last_use[self.length])

    def advance(self) -> None:
        self.length += 1
        for index in [index for index in self.frames if self._last_use[index] < self.length]:
            del self.frames[index]

    def chosen(self) -> tuple[np.ndarray, np.ndarray]:
        return self.frames[int(self._first[self.length])], self.frames[int(self._second[self.length])]


def draw_choices(trajectory_length: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """For every length L that a trajectory may turn out to have, one frame of each half, uniform in it.

    Each half takes the frame of the highest random rank in it, so the choices of neighbouring lengths mostly agree, and
    the two halves are independent since each has ranks of its own.

    Returns:
        Two int64 arrays (trajectory_length + 1,), read at L: one in [0, ⌊L/2⌋) and one in [⌊L/2⌋, L). Below L = 2 they
        mean nothing.
    """
    first_rank, second_rank = generator.permutation(trajectory_length), generator.permutation(trajectory_length)
    first = np.zeros(trajectory_length + 1, np.int64)
    second = np.zeros(trajectory_length + 1, np.int64)
    for length in range(2, trajectory_length + 1):
        half = length // 2
        first[length] = first_rank[:half].argmax()
        second[length] = half + second_rank[half:length].argmax()
    return first, second


def _layout(env: VectorEnv[Any, Any, Any]) -> FrameLayout | None:
    try:
        return FrameLayout.of(env.single_observation_space)
    except UsageError as error:
        if env.render_mode == "rgb_array":
            return None
        raise UsageError(f'{error}; the env could render its frames instead, made with render_mode="rgb_array"') from None


def _rendered_frame(rendered: Any, index: int) -> np.ndarray:
    frame = rendered[index] if isinstance(rendered, tuple | list | np.ndarray) and len(rendered) > index else None
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
        found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise UsageError(f"render() must return one uint8 (H, W, 3) frame of each env; for env {index} it returned {found}")
    return frame
