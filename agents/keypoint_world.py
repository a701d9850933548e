"""A world in which a planner sees keypoints, and expects what learned dynamics of them say: no simulator's state."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.dynamics.vrnn import Belief
from kpagent.errors import UsageError
from kpagent.keypoints import Keypoints
from kpagent.planning.costs import KeypointDistance
from kpagent.planning.servoing import Distance

STILL = 0.1
"""A keypoint that the goal has nearer than this to where it is at the start need not be moved; the image is 2 wide."""


class KeypointWorld:
    """The world of `SubgoalPlanner` by Struct-VRNN with actions.

    What is seen are the coordinates (x, y) of its keypoints, K after K; what follows from actions is imagined.

    Args:
        model: with keypoints, learned with the actions of `env`.
        env: which it is of; nothing is done in it.
        seed: of what is imagined.

    Raises:
        UsageError: a model without keypoints, without actions, or with actions of another size.
    """

    def __init__(self, model: StructVRNN, env: gym.Env[Any, Any], *, seed: int = 0) -> None:
        shape = env.action_space.shape
        if not model.config.code.has_keypoints:
            raise UsageError("the dynamics code frames by vectors without structure: a planner needs keypoints")
        if not model.config.dynamics.actions:
            raise UsageError("the dynamics know no actions; learn them with kpagent dynamics train --actions")
        if shape != (model.config.dynamics.actions,):
            raise UsageError(
                f"the dynamics have actions of {model.config.dynamics.actions} numbers, the environment {shape}"
            )
        self.model, self._seed = model, seed
        self._codes: list[Tensor] = []
        self._actions: list[np.ndarray] = []

    def see(self, frame: np.ndarray) -> Tensor:
        """(2 K,) coordinates of the keypoints in a frame (H, W, 3) uint8."""
        return self._encode(frame)[1]

    def observe(self, frame: np.ndarray, action: np.ndarray | None) -> Belief:
        """The belief after a frame, of as many frames as were observed in training, or all since the first of an episode."""
        if action is None:
            self._codes.clear()
            self._actions.clear()
        else:
            self._actions.append(action)
        self._codes.append(self._encode(frame)[0])
        length = self.model.config.dynamics.observed
        del self._codes[:-length]
        del self._actions[: len(self._actions) - len(self._codes) + 1]
        size = self.model.config.dynamics.actions
        actions = torch.from_numpy(np.array(self._actions, np.float32).reshape(1, -1, size))
        return self.model.observe(torch.stack(self._codes)[None], actions)[0]

    def foretell(self, state: Belief, actions: np.ndarray) -> Tensor:
        """What would be seen after each of the actions (N, T, A): (N, T, 2 K)."""
        samples, steps = actions.shape[:2]
        imagined = self.model.imagine(state, steps, samples=samples, actions=actions[None], seed=self._seed)
        return _places(imagined[0])

    @torch.no_grad()
    def _encode(self, frame: np.ndarray) -> tuple[Tensor, Tensor]:
        code = self.model.encode_sequence(frame[None, None])[0, 0]
        return code, _places(code)


def changed_keypoints(start: Tensor, goal: Tensor) -> Distance:
    """The distance of an episode in keypoint space, by those keypoints alone that the goal has elsewhere than the start.

    So nothing has to be said of what the goal is about: the hand that the goal image shows at rest does not count where it
    rests at the start too.

    Args:
        start: (2 K,) coordinates seen at the start.
        goal: (2 K,) those seen in the goal image.

    Returns:
        Of (..., 2 K) from (2 K,): the mean of the keypoints' distances, each weighted by how far the goal has it from the
        start; those nearer than `STILL` have no weight, unless all are.
    """
    apart = (_points(goal).xy - _points(start).xy).norm(dim=-1)
    weights = torch.where(apart > STILL, apart, 0)
    measure = KeypointDistance(weights=tuple(weights.tolist()) if bool(weights.any()) else None)
    return lambda seen, wanted: measure(_points(seen), _points(wanted))


def _points(places: Tensor) -> Keypoints:
    xy = places.unflatten(-1, (-1, 2))
    return Keypoints(xy, torch.ones_like(xy[..., 0]), xy[..., :0])


def _places(codes: Tensor) -> Tensor:
    """(..., 3 K) triplets (x, y, μ) to (..., 2 K)."""
    return codes.unflatten(-1, (-1, 3))[..., :2].flatten(-2)
