"""Replay of encoded observations, in segments for a recurrent learner.

Each copy of the environment has a ring of rows of its own. A row is an observation, the recurrent state that the agent
had before it, and the transition that followed: action, reward, whether the episode terminated there. An episode that is
truncated ends with one more row, its final observation, which no transition follows: its value can be bootstrapped from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kpagent.errors import UsageError

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Segments:
    """B windows of T consecutive rows, the first `burn_in` of which only warm the recurrent state.

    Attributes:
        observation: (B, T, ...) for each part of the observation.
        action: (B, T) int64.
        reward: (B, T) float32.
        terminated: (B, T) bool, the episode ended with this row's transition and has no value after it.
        first: (B, T) bool, the row begins an episode: the recurrent state before it is zero.
        valid: (B, T) bool; from row `burn_in` on, the row belongs to the episode of row `burn_in`; before, the row exists.
        acted: (B, T) bool, a transition follows the row's observation.
        state: (B, ...) for each part of the recurrent state before the first row, as it was when the agent acted.
        burn_in: rows that are not learned from.
    """

    observation: Arrays
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    first: np.ndarray
    valid: np.ndarray
    acted: np.ndarray
    state: Arrays
    burn_in: int

    def usable(self) -> np.ndarray:
        """(B, T) bool: the row's transition, and the observation after it unless it terminated, lie in the window."""
        follows = np.zeros_like(self.valid)
        follows[:, :-1] = self.valid[:, 1:]
        return self.valid & self.acted & (self.terminated | follows)


class SegmentReplay:
    """The newest rows of each copy of an environment.

    Args:
        capacity: rows altogether; each copy has an equal share.
        num_envs: copies.
        observation: shape and dtype of each part of one observation.
        state: shape of each part of one recurrent state; kept in float16, which halves them.

    Raises:
        ValueError: less than two rows a copy.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        observation: Mapping[str, tuple[tuple[int, ...], Any]],
        state: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.rows = capacity // num_envs
        if self.rows < 2:
            raise ValueError(f"a replay of {capacity} rows is too small for {num_envs} copies of an environment")
        lead = (num_envs, self.rows)
        self.num_envs = num_envs
        self.observation = {name: np.zeros(lead + shape, dtype) for name, (shape, dtype) in observation.items()}
        self.state = {name: np.zeros(lead + shape, np.float16) for name, shape in state.items()}
        self.action = np.zeros(lead, np.int64)
        self.reward = np.zeros(lead, np.float32)
        self.terminated = np.zeros(lead, bool)
        self.first = np.zeros(lead, bool)
        self.acted = np.zeros(lead, bool)
        self.written = np.zeros(num_envs, np.int64)
        """Rows ever written to each ring."""
        self._begins = np.ones(num_envs, bool)

    def __len__(self) -> int:
        """Rows that are kept."""
        return int(self.sizes.sum())

    @property
    def sizes(self) -> np.ndarray:
        """(N,) rows that are kept of each copy."""
        return np.minimum(self.written, self.rows)

    @property
    def nbytes(self) -> int:
        """Memory of all rows, in bytes."""
        return sum(array.nbytes for array in self._arrays().values())

    def add(
        self,
        observation: Mapping[str, np.ndarray],
        state: Mapping[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        final: Sequence[Mapping[str, np.ndarray] | None],
        final_state: Mapping[str, np.ndarray],
    ) -> None:
        """One transition of every copy.

        Args:
            observation: (N, ...) that was acted on.
            state: (N, ...) recurrent state before it.
            action: (N,).
            reward: (N,).
            terminated: (N,) bool, the episode ended and there is nothing after it.
            truncated: (N,) bool, the episode was cut off; where it terminated too, that counts.
            final: the last observation of each episode that was truncated; None elsewhere.
            final_state: (N, ...) recurrent state after `observation`.
        """
        self._write(np.arange(self.num_envs), observation, state)
        place = (np.arange(self.num_envs), (self.written - 1) % self.rows)
        self.action[place], self.reward[place], self.terminated[place] = action, reward, terminated
        self.acted[place] = True
        self._begins = np.asarray(terminated | truncated, bool)
        for index in np.flatnonzero(truncated & ~terminated).tolist():
            seen = final[index]
            assert seen is not None, "a truncated episode has a final observation"
            one = np.array([index])
            self._begins[index] = False
            self._write(
                one, {name: value[None] for name, value in seen.items()}, {k: v[one] for k, v in final_state.items()}
            )
            self._begins[index] = True

    def interrupt(self) -> None:
        """What comes next does not follow on what came last: every copy begins an episode, as after a new start."""
        kept = np.flatnonzero((self.written > 0) & ~self._begins)
        # What the newest transition led to is not known; its row stays, to be bootstrapped from.
        self.acted[kept, (self.written[kept] - 1) % self.rows] = False
        self._begins[:] = True

    def can_sample(self, burn_in: int) -> bool:
        """Whether any copy has enough rows for a window."""
        return bool((self.sizes > burn_in + 1).any())

    def sample(self, batch_size: int, length: int, burn_in: int, generator: np.random.Generator) -> Segments:
        """Windows whose first learned row is drawn uniformly.

        Args:
            batch_size: B.
            length: rows to learn from; T is `burn_in + length`.
            burn_in: rows before them.
            generator: draws.

        Raises:
            UsageError: no copy has more than `burn_in + 1` rows.
        """
        starts = np.maximum(self.sizes - burn_in - 1, 0)
        ends = np.cumsum(starts)
        if ends[-1] == 0:
            raise UsageError(f"nothing to sample yet: no environment has more than {burn_in + 1} rows")
        drawn = generator.integers(ends[-1], size=batch_size)
        env = np.searchsorted(ends, drawn, side="right")
        age = drawn - (ends[env] - starts[env])
        return self.window(env, age, length, burn_in)

    def window(self, env: np.ndarray, age: np.ndarray, length: int, burn_in: int) -> Segments:
        """The windows of given copies that begin at given rows, counted from the oldest that is kept."""
        steps = np.arange(burn_in + length)
        ages = age[:, None] + steps
        oldest = self.written[env] - self.sizes[env]
        place = (env[:, None], (oldest[:, None] + ages) % self.rows)
        first = self.first[place]
        begun = np.cumsum(first[:, burn_in + 1 :], axis=1)
        valid = ages < self.sizes[env][:, None]
        valid[:, burn_in + 1 :] &= begun == 0
        start = (env, (oldest + age) % self.rows)
        return Segments(
            observation={name: value[place] for name, value in self.observation.items()},
            action=self.action[place],
            reward=self.reward[place],
            terminated=self.terminated[place],
            first=first,
            valid=valid,
            acted=self.acted[place],
            state={name: value[start].astype(np.float32) for name, value in self.state.items()},
            burn_in=burn_in,
        )

    def state_dict(self) -> Arrays:
        """Every row that is kept, and what is needed to go on; not to be written to."""
        rows = int(self.sizes.max())
        # A ring that never came round is mostly empty.
        arrays = self._arrays() if rows == self.rows else {name: array[:, :rows] for name, array in self._arrays().items()}
        return arrays | {"written": self.written, "begins": self._begins}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take up what `state_dict` gave.

        Raises:
            UsageError: of another number of copies, another capacity or other observations.
        """
        arrays = self._arrays()
        rows = min(int(state["written"].max(initial=0)), self.rows) if "written" in state else -1
        shapes = {name: (self.num_envs, rows, *array.shape[2:]) for name, array in arrays.items()}
        shapes |= {"written": self.written.shape, "begins": self._begins.shape}
        fits = {name: value.shape for name, value in state.items()} == shapes
        if not fits:
            kept_for = f"{self.num_envs} environments with {self.rows} rows each"
            raise UsageError(f"the replay was kept with other observations, or not for {kept_for}")
        for name, array in arrays.items():
            array[:, :rows] = state[name]
        self.written[:], self._begins[:] = state["written"], state["begins"]

    def _arrays(self) -> Arrays:
        parts = {f"observation.{name}": value for name, value in self.observation.items()}
        parts |= {f"state.{name}": value for name, value in self.state.items()}
        return parts | {
            "action": self.action,
            "reward": self.reward,
            "terminated": self.terminated,
            "first": self.first,
            "acted": self.acted,
        }

    def _write(self, envs: np.ndarray, observation: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray]) -> None:
        place = (envs, self.written[envs] % self.rows)
        for name, value in observation.items():
            self.observation[name][place] = value
        for name, value in state.items():
            self.state[name][place] = value
        self.first[place] = self._begins[envs]
        self.action[place], self.reward[place], self.terminated[place], self.acted[place] = 0, 0, False, False
        self.written[envs] += 1
