"""Servoing (KeyIn Algorithm 4): model-predictive control towards one subgoal after the other, the goal last.

Before each action the cross-entropy method looks for the actions after which a model of the world sees what is least far
from the subgoal; the first of them is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kpagent.errors import UsageError
from kpagent.planning.cem import CEMConfig, minimise

Dynamics = Callable[[Any, Tensor], Any]
"""(state, actions (N, T, A)) to what is seen after each action, (N, T, ...), or after the last alone, (N, 1, ...)."""
Distance = Callable[[Any, Any], Any]
"""(what is seen (..., *seen), a goal) to distances (...), an array or a tensor; `kpagent.planning.costs` has some."""


@dataclass(frozen=True)
class ServoingConfig:
    """How a goal is pursued. The numbers are those of KeyIn Table 3."""

    steps: int = 60
    """T max, actions in all."""
    subgoal_steps: int = 10
    """Ts max, actions for one subgoal, after which the next one has its turn. The goal itself has all that are left."""
    reached: float = 5 * 2 / 64
    """A goal that is nearer than this is reached, in units of the distance: 5 pixels of 64, where it is of coordinates."""
    horizon: int = 8
    """l, actions that are planned ahead."""
    path_weight: float = 0.0
    """Weight of the mean distance on the way, beside that of the distance at the end, which is 1. The paper has 0."""
    warm_start: bool = True
    """Begin a search with the mean of the last one, a step on, and with zeros for a new subgoal; False for zeros always, as
    the paper's text has it. The standard deviation begins anew in both."""
    cem: CEMConfig = field(default_factory=lambda: CEMConfig(bounds=(-1.0, 1.0)))
    """The search; its bounds are those of the actions."""

    def __post_init__(self) -> None:
        for name in ("steps", "subgoal_steps", "horizon"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise UsageError(f"{name} must be a whole number, at least 1; got {getattr(self, name)!r}")
        for name in ("reached", "path_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{name} must be at least 0; got {getattr(self, name)!r}")


class Servo:
    """Goes to one goal after the other; of one episode.

    Examples:
        >>> from kpagent.planning.costs import EmbeddingDistance
        >>> servo = Servo(lambda x, actions: x + actions.cumsum(1), EmbeddingDistance(), [torch.ones(1)], 1)
        >>> x = torch.zeros(1)
        >>> while (action := servo.act(x, x)) is not None:
        ...     x = x + action
        >>> servo.arrived
        True

    Args:
        dynamics: what would be seen after actions.
        distance: of what is seen from a goal. A distance that is NaN or +inf is the worst.
        goals: subgoals in order, the goal last; of the kind that `distance` takes.
        action_size: A, numbers of an action.
        config: how they are pursued.
        seed: of the search.
        device: where candidates of actions are wanted.

    Attributes:
        current: number of the goal that is pursued.
        taken: actions so far.
        arrived: whether the last goal, the true one, is reached.
        expected: the cost that the last search expects of its actions; +inf where it has found none with a cost.

    Raises:
        UsageError: there is no goal, or no action.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        distance: Distance,
        goals: Sequence[Any],
        action_size: int,
        config: ServoingConfig | None = None,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if len(goals) < 1 or action_size < 1:
            raise UsageError(f"servoing needs a goal and actions of a number or more; got {len(goals)} and {action_size}")
        self.config = config or ServoingConfig()
        self.goals, self.current, self.taken = list(goals), 0, 0
        self.arrived, self.expected = False, float("inf")
        self._dynamics, self._distance = dynamics, distance
        self._generator = torch.Generator().manual_seed(seed)
        self._rest = torch.zeros(1, self.config.horizon, action_size, device=device)
        self._mean, self._spent = self._rest, 0

    @property
    def last(self) -> bool:
        """Whether the goal that is pursued is the last."""
        return self.current == len(self.goals) - 1

    @torch.no_grad()
    def act(self, state: Any, seen: Any) -> Tensor | None:
        """Choose the next action, which is then to be taken.

        Args:
            state: what the dynamics begin with.
            seen: what is seen now, of the kind that `distance` takes, without leading axes.

        Returns:
            (A,); or None where it is over: the last goal is reached, or the actions are spent.
        """
        near = self._near(seen)
        while not self.last and (near or self._spent >= self.config.subgoal_steps):
            self.current += 1
            self._mean, self._spent = self._rest, 0
            near = self._near(seen)
        self.arrived = near and self.last
        if self.arrived or self.taken >= self.config.steps:
            return None
        found = minimise(
            lambda candidates: self._costs(state, candidates[0]).unsqueeze(0),
            self._mean,
            self.config.cem,
            generator=self._generator,
        )
        self.expected = float(found.cost[0])
        if self.config.warm_start:
            self._mean = torch.cat([found.mean[:, 1:], self._rest[:, :1]], dim=1)
        self.taken += 1
        self._spent += 1
        return found.best[0, 0]

    def _near(self, seen: Any) -> bool:
        return float(self._distance(seen, self.goals[self.current])) < self.config.reached

    def _costs(self, state: Any, actions: Tensor) -> Tensor:
        """Costs (N,) of actions (N, T, A)."""
        distances = torch.as_tensor(self._distance(self._dynamics(state, actions), self.goals[self.current]))
        if distances.ndim != 2 or len(distances) != len(actions):
            raise ValueError(f"distances must be ({len(actions)}, T) for the dynamics' answer, not {tuple(distances.shape)}")
        costs = distances[:, -1]
        if self.config.path_weight:
            costs = costs + self.config.path_weight * distances.mean(dim=1)
        return costs
