"""An actor of keypoint options: it plays copies of an environment, and hands over what it experienced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kpagent.agents.option_clock import OptionClock, draw_epsilons, option_actions
from kpagent.agents.option_network import OptionNetwork
from kpagent.collect.frame_replay import FrameReplay, compress_frames
from kpagent.envs.vec_env import GymnasiumVecEnv


@dataclass(frozen=True)
class Experience:
    """T interactions of each of N copies, as it travels from an actor to the replay. All arrays are plain NumPy.

    Attributes:
        frames: T lists of N compressed frames, acted on.
        state: (T, N, ...) recurrent state before each.
        option: (T, N, 2) that was followed.
        action: (T, N).
        ended: (T, N) bool, the trajectory ended there, with a life or the game.
        returns: extrinsic score of each game that ended meanwhile; nothing learns from it.
    """

    frames: list[list[bytes]]
    state: dict[str, np.ndarray]
    option: np.ndarray
    action: np.ndarray
    ended: np.ndarray
    returns: list[float] = field(default_factory=list)

    @property
    def interactions(self) -> int:
        """T × N."""
        return int(self.action.size)

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
        network: its Q-functions; it has a copy for itself.
        commitment: interactions for which an option is kept.
        seed: of options, ε and random actions.
    """

    def __init__(self, players: GymnasiumVecEnv, network: OptionNetwork, commitment: int, seed: Any) -> None:
        self.players, self.network = players, network.eval()
        self._generator = np.random.default_rng(seed)
        count = players.num_envs
        self.epsilon = draw_epsilons(count, self._generator)
        self._clock = OptionClock(count, network.num_keypoints, commitment, self._generator)
        self._state = network.initial_state(count)
        self._first = np.ones(count, bool)
        self._frames: np.ndarray | None = None

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Play with newer weights of the network from now on."""
        self.network.load_state_dict(dict(weights))

    @torch.no_grad()
    def play(self, interactions: int, *, random: bool = False) -> Experience:
        """So many interactions of each copy, at random while nothing is learned yet."""
        if self._frames is None:
            self._frames = self._own(self.players.reset())
        frames, states, options, actions, ends = [], [], [], [], []
        returns: list[float] = []
        for _ in range(interactions):
            seen = torch.as_tensor(self._frames).unsqueeze(1)
            keep = torch.as_tensor(~self._first).float().unsqueeze(1)
            before = {name: part * keep for name, part in self._state.items()}
            values, self._state = self.network(seen, torch.as_tensor(self._first).unsqueeze(1), before)
            self._clock.tick(self._first)
            action = option_actions(values[:, 0], self._clock.option)
            explore = self._generator.random(len(action)) < (1.0 if random else self.epsilon)
            action = np.where(explore, self._generator.integers(self.network.num_actions, size=len(action)), action)
            frames.append(compress_frames(self._frames))
            states.append({name: part.numpy().astype(np.float16) for name, part in before.items()})
            options.append(self._clock.option.copy())
            actions.append(action)
            observations, _, dones, infos = self.players.step(action)
            ends.append(dones.astype(bool))
            returns.extend(float(info["episode"]["r"]) for info in infos if "episode" in info)
            self._frames, self._first = self._own(observations), dones.astype(bool)
        state = {name: np.stack([each[name] for each in states]) for name in self.network.state_shapes}
        return Experience(frames, state, np.stack(options), np.stack(actions), np.stack(ends), returns)

    def _own(self, observations: Any) -> np.ndarray:
        frames = np.asarray(observations)
        return frames[:, 0] if frames.ndim == 5 else frames
