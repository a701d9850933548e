"""Where the avatar has been while whole games were played, and what is counted of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kpagent.agents.exploration import CELLS
from kpagent.agents.option_evaluation import Step
from kpagent.perception.detector import KeypointDetector

KEY_REWARD = 100
"""What the first key of Montezuma's Revenge gives; nothing else in its first room gives as much."""


@dataclass(frozen=True)
class Visits:
    """M interactions, in the order of play, all copies of a moment before those of the next."""

    episode: np.ndarray
    """(M,) int64, as in `Step`."""
    avatar: np.ndarray
    """(M, 2) in [-1, 1], true place in the frame that was acted on; NaN where the avatar was not on the screen."""
    room: np.ndarray
    """(M,) int64, which room that frame showed."""
    reward: np.ndarray
    """(M,), what the action brought."""
    keypoint: np.ndarray | None = None
    """(M, 2) place of the most controllable keypoint in the same frame; None of random actions."""

    def __len__(self) -> int:
        return len(self.episode)

    @property
    def first_room(self) -> int:
        """The room that play began in."""
        return int(self.room[0])

    def first(self, count: int) -> Visits:
        """The first so many interactions."""
        keypoint = None if self.keypoint is None else self.keypoint[:count]
        return Visits(self.episode[:count], self.avatar[:count], self.room[:count], self.reward[:count], keypoint)

    def cells(self) -> np.ndarray:
        """(C, 3) distinct (room, row, column) that the avatar was in; `CELLS` to a room."""
        seen = ~np.isnan(self.avatar[:, 0])
        return np.unique(np.column_stack([self.room[seen], to_cells(self.avatar[seen])]), axis=0)

    def places(self) -> np.ndarray:
        """`CELLS` int64, in how many interactions the avatar was in each cell of the first room."""
        counts = np.zeros(CELLS, np.int64)
        seen = ~np.isnan(self.avatar[:, 0]) & (self.room == self.first_room)
        np.add.at(counts, tuple(to_cells(self.avatar[seen]).T), 1)
        return counts

    def keys(self, episodes: int) -> np.ndarray:
        """(E,) bool, in which of so many episodes Montezuma's first key was taken."""
        taken = np.zeros(episodes, bool)
        taken[self.episode[(self.reward == KEY_REWARD) & (self.room == self.first_room)]] = True
        return taken

    def share_on_avatar(self, tolerance: float) -> float | None:
        """Share of frames with the avatar on the screen in which the most controllable keypoint is at most that far from it.

        Args:
            tolerance: in coordinate units; the screen is 2 wide and 2 high.

        Returns:
            None where there is no such frame.

        Raises:
            ValueError: of random actions.
        """
        if self.keypoint is None:
            raise ValueError("random actions have no most controllable keypoint")
        distance = np.linalg.norm(self.keypoint - self.avatar, axis=1)
        distance = distance[~np.isnan(distance)]
        return float((distance <= tolerance).mean()) if len(distance) else None


class VisitRecorder:
    """Listens to `play_options` or `play_random` with copies that `make_avatar_players` made.

    Args:
        perception: finds the most controllable keypoint; not needed for random actions.
    """

    def __init__(self, perception: KeypointDetector | None = None) -> None:
        self.perception = perception
        self._rows: list[tuple[np.ndarray, ...]] = []

    def note(self, step: Step) -> None:
        """Take down one interaction of the copies that play."""
        playing = np.flatnonzero(step.episode >= 0)
        infos = [step.infos[index] for index in playing.tolist()]
        row = [
            step.episode[playing],
            np.array([info["avatar"] for info in infos]),
            np.array([info["room"] for info in infos]),
            step.rewards[playing],
        ]
        if self.perception is not None and step.controllable is not None:
            xy = self.perception.encode(step.frames[playing], features=False).xy.cpu().numpy()
            row.append(xy[np.arange(len(playing)), step.controllable[playing]])
        self._rows.append(tuple(row))

    def visits(self) -> Visits:
        """All that was noted, at least one interaction."""
        return Visits(*(np.concatenate(column) for column in zip(*self._rows, strict=True)))


def to_cells(xy: np.ndarray) -> np.ndarray:
    """(N, 2) int64 row and column of the cell that each of (N, 2) coordinates in [-1, 1] lies in."""
    cells = np.floor((xy[:, ::-1] + 1) / 2 * CELLS).astype(np.int64)
    return np.clip(cells, 0, np.array(CELLS) - 1)
