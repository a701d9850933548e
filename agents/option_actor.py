"""An actor of keypoint options: it plays copies of an environment, and hands over what it experienced."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from kpagent.agents.intrinsic import most_controllable
from kpagent.agents.option_clock import OptionClock, draw_epsilons, option_actions
from kpagent.agents.option_network import OptionNetwork
from kpagent.collect.frame_replay import FrameReplay, compress_frames
from kpagent.envs.vec_env import GymnasiumVecEnv
from kpagent.perception.detector import KeypointDetector

Weights = dict[str, dict[str, np.ndarray]]
"""The `state_dict`s of the `network` and of the `perception`, as plain arrays, to travel."""


@dataclass(frozen=True)
class Experience:
    """T interactions of each of N copies, as it travels from an actor to the replay. All arrays are plain NumPy.

    Attributes:
        frames: T lists of N compressed frames, acted on.
        state: (T, N, ...) recurrent state before each.
        option: (T, N, 2) that was followed.
        action: (T, N).
        ended: (T, N) bool, the trajectory ended there, with a life or the game.
        controlled: (M,) the most controllable keypoint (Eq. 2) at each of M looks.
        places: (M, 2) where it was, in [-1, 1].
        returns: extrinsic score of each game that ended meanwhile; nothing learns from it.
    """

    frames: list[list[bytes]]
    state: dict[str, np.ndarray]
    option: np.ndarray
    action: np.ndarray
    ended: np.ndarray
    controlled: np.ndarray
    places: np.ndarray
    returns: list[float] = field(default_factory=list)

    @property
    def interactions(self) -> int:
        """T × N."""
        return int(self.action.size)

    def summary(self) -> Experience:
        """The same without the frames and states, once they are stored."""
        return dataclasses.replace(self, frames=[], state={})

    def store(self, replay: FrameReplay) -> None:
        """Put every row into a replay of N copies."""
        nothing = np.zeros(self.action.shape[1], np.float32)
        never = np.zeros(self.action.shape[1], bool)
        for row, frames in enumerate(self.frames):
            state = {name: part[row] for name, part in self.state.items()}
            observation = {"option": self.option[row]}
            replay.add(frames, state, self.action[row], nothing, self.ended[row], never, observation)


class OptionActor:
    """Plays options drawn at random, almost greedily, with ε of its own in each copy.

    Args:
        players: copies of the environment, whose observations are frames of the network's size, (1, S, S, 3) or (S, S, 3).
        network: its Q-functions; it has them for itself.
        commitment: interactions for which an option is kept.
        seed: of options, ε and random actions.
        perception: finds the keypoints where `watch_every` asks for them; it has this for itself, too.
        watch_every: interactions between two looks at where the most controllable keypoint is.
    """

    def __init__(
        self,
        players: GymnasiumVecEnv,
        network: OptionNetwork,
        commitment: int,
        seed: Any,
        perception: KeypointDetector | None = None,
        watch_every: int = 4,
    ) -> None:
        self.players, self.network = players, network.eval()
        self.perception, self.watch_every = perception, watch_every
        self._generator = np.random.default_rng(seed)
        count = players.num_envs
        self.epsilon = draw_epsilons(count, self._generator)
        self._clock = OptionClock(count, network.num_keypoints, commitment, self._generator)
        self._state = network.initial_state(count)
        self._first = np.ones(count, bool)
        self._frames: np.ndarray | None = None

    def take(self, weights: Weights) -> None:
        """Play and see with newer weights from now on."""
        _load(self.network, weights["network"])
        if self.perception is not None:
            _load(self.perception, weights["perception"])

    @torch.no_grad()
    def play(self, interactions: int, *, random: bool = False) -> Experience:
        """So many interactions of each copy, at random while nothing is learned yet."""
        if self._frames is None:
            self._frames = self._own(self.players.reset())
        frames, states, options, actions, ends = [], [], [], [], []
        returns: list[float] = []
        controlled, places = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.float32)]
        for interaction in range(interactions):
            seen = torch.as_tensor(self._frames).unsqueeze(1)
            keep = torch.as_tensor(~self._first).float().unsqueeze(1)
            before = {name: part * keep for name, part in self._state.items()}
            values, self._state = self.network(seen, torch.as_tensor(self._first).unsqueeze(1), before)
            self._clock.tick(self._first)
            action = option_actions(values[:, 0], self._clock.option)
            explore = self._generator.random(len(action)) < (1.0 if random else self.epsilon)
            action = np.where(explore, self._generator.integers(self.network.num_actions, size=len(action)), action)
            if self.perception is not None and interaction % self.watch_every == 0:
                keypoint = most_controllable(values[:, 0]).numpy()
                controlled.append(keypoint)
                xy = self.perception.encode(self._frames, features=False).xy.numpy()
                places.append(xy[np.arange(len(xy)), keypoint])
            frames.append(compress_frames(self._frames))
            states.append({name: part.numpy().astype(np.float16) for name, part in before.items()})
            options.append(self._clock.option.copy())
            actions.append(action)
            observations, _, dones, infos = self.players.step(action)
            ends.append(dones.astype(bool))
            returns.extend(float(info["episode"]["r"]) for info in infos if "episode" in info)
            self._frames, self._first = self._own(observations), dones.astype(bool)
        state = {name: np.stack([each[name] for each in states]) for name in self.network.state_shapes}
        rows = (np.stack(options), np.stack(actions), np.stack(ends))
        return Experience(frames, state, *rows, np.concatenate(controlled), np.concatenate(places), returns)

    def _own(self, observations: Any) -> np.ndarray:
        frames = np.asarray(observations)
        return frames[:, 0] if frames.ndim == 5 else frames


def _load(module: nn.Module, arrays: dict[str, np.ndarray]) -> None:
    # Arrays that travelled may be read-only; they are only copied from.
    module.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
