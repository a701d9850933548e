"""Keypoint options in place of primitive actions, for any Gymnasium environment whose frames can be had."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from torch import Tensor

from kpagent.agents.intrinsic import DIRECTIONS, most_controllable
from kpagent.agents.option_agent import OptionAgent
from kpagent.agents.recurrence import State
from kpagent.envs.keypoint_observation import KeypointObservation
from kpagent.envs.making import is_image
from kpagent.envs.worker_threads import limit_worker_threads
from kpagent.errors import UsageError
from kpagent.frames import FrameLayout
from kpagent.training import pick_device


class KeypointOptions(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """An environment whose actions are (keypoint, direction), the option space of Transporter section 3.2.2.

    One step plays the greedy actions of that option's Q-function for the agent's T interactions, or fewer where the episode
    terminates, is truncated, or (as in training) a life is lost. Its reward is their sum; observation and info are those of
    the last of them. Info has two more entries, that of `reset` the second of them:

    - `interactions`: how many primitive actions were played;
    - `controllable`: the most controllable keypoint (Eq. 2) in the newest frame.

    The agent sees the frame that `KeypointObservation` would see, or does see where there is one inside: the observation
    where that is an image, else what `env.render()` gives. Whatever wraps the options afterwards changes nothing for the
    agent. Its recurrent state goes on from step to step, and is cleared by `reset` and by the loss of a life.

    Args:
        env: of numbered actions, and with an image observation or made with `render_mode="rgb_array"`.
        agent: an `OptionAgent`, or the path of its file.
        flat: actions are numbers, 4 × keypoint + direction, a `Discrete(4 * K)`; without, pairs, a `MultiDiscrete([K, 4])`.
            Directions are those of `DIRECTIONS`: right, left, down, up.
        device: where the agent runs. "auto" is, for a path, CUDA where there is one, else the CPU, and always the CPU in the
            worker processes of a vector env; an agent that is handed over stays where it is.

    Raises:
        UsageError: no such agent or device, an environment without frames or numbered actions, or of another number of
            actions than the agent's.
    """

    def __init__(
        self, env: gym.Env[Any, Any], agent: OptionAgent | str | Path, *, flat: bool = False, device: str = "auto"
    ) -> None:
        # The first to record wins, so before the base class; an agent is kept as it is, not copied.
        kept = os.path.abspath(agent) if isinstance(agent, (str, Path)) else agent
        RecordConstructorArgs.__init__(self, agent=kept, flat=flat, device=device, _disable_deepcopy=True)
        super().__init__(env)
        self.agent = _find_agent(agent, device)
        self.flat = flat
        self._start = _require_fit(env, self.agent)
        self._eye = _keypoints_within(env)
        self._layout = _layout(env) if self._eye is None else None
        count = self.agent.num_keypoints
        options = gym.spaces.MultiDiscrete([count, len(DIRECTIONS)])
        self.action_space = gym.spaces.Discrete(count * len(DIRECTIONS)) if flat else options
        self._state: State | None = None
        self._values: Tensor | None = None
        self._lives = 0

    def controllable(self) -> int:
        """The most controllable keypoint now, π_Qgap (Eq. 2): with a random direction, the paper's way to explore.

        Raises:
            UsageError: before the first `reset`.
        """
        return int(most_controllable(self._q_values()))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As of the wrapped environment; the agent forgets what it saw."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._lives = info.get("lives", 0)
        self._look(observation, first=True)
        return observation, info | {"controllable": self.controllable()}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Play an option.

        Raises:
            UsageError: no such option, or before the first `reset`.
        """
        if action not in self.action_space:
            raise UsageError(f"an option must be in {self.action_space}, not {action}")
        keypoint, direction = divmod(int(action), len(DIRECTIONS)) if self.flat else map(int, action)
        total, played, over = 0.0, 0, False
        while not over:
            greedy = int(self._q_values()[keypoint, direction].argmax())
            observation, reward, terminated, truncated, info = self.env.step(self._start + greedy)
            total += float(reward)
            played += 1
            # As GymnasiumVecEnv ends trajectories in training.
            before, self._lives = self._lives, info.get("lives", self._lives)
            lost = 0 < self._lives < before
            self._look(observation, first=lost)
            over = terminated or truncated or lost or played == self.agent.commitment
        more = {"interactions": played, "controllable": self.controllable()}
        return observation, total, bool(terminated), bool(truncated), info | more

    def _look(self, observation: Any, *, first: bool) -> None:
        """See the newest frame, which begins a trajectory or goes on with one."""
        if self._eye is not None:
            frame = self._eye.frame
        elif self._layout is not None:
            frame = self._layout.to_rgb(np.asarray(observation))
        else:
            frame = np.asarray(self.env.render())
        state = None if first else self._state
        values, self._state = self.agent.values(frame[None], np.array([first]), state)
        self._values = values[0]

    def _q_values(self) -> Tensor:
        if self._values is None:
            raise UsageError("there is no frame before the first reset")
        return self._values


def _find_agent(agent: OptionAgent | str | Path, device: str) -> OptionAgent:
    in_worker = limit_worker_threads()
    if isinstance(agent, (str, Path)):
        return OptionAgent.load(agent, "cpu" if in_worker and device == "auto" else device)
    if not isinstance(agent, OptionAgent):
        raise UsageError(f"the agent must be an OptionAgent or the path of its file, not {type(agent).__name__}")
    if device != "auto":
        agent.network.to(pick_device(device))
    return agent


def _require_fit(env: gym.Env[Any, Any], agent: OptionAgent) -> int:
    """The number of the first action."""
    space = env.action_space
    if not isinstance(space, gym.spaces.Discrete):
        raise UsageError(f"options choose among numbered actions, and {_name(env)} has {space}")
    if space.n != agent.network.num_actions:
        learned = f"; it learned {agent.provenance['env']}" if "env" in agent.provenance else ""
        raise UsageError(
            f"the agent's options choose among {agent.network.num_actions} actions, and {_name(env)} has {space.n}{learned}"
        )
    return int(space.start)


def _keypoints_within(env: gym.Env[Any, Any]) -> KeypointObservation | None:
    """Where keypoints have taken the place of pixels already, what did so: it still has the frame."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, KeypointObservation):
            return env
        env = env.env
    return None


def _layout(env: gym.Env[Any, Any]) -> FrameLayout | None:
    """The layout of image observations; None where frames must be rendered."""
    if is_image(env.observation_space):
        return FrameLayout.of(env.observation_space)
    if env.render_mode != "rgb_array":
        cure = 'make it with render_mode="rgb_array"'
        raise UsageError(f"{_name(env)} shows no frames: its observation is no image, and nothing renders; {cure}")
    return None


def _name(env: gym.Env[Any, Any]) -> str:
    return env.unwrapped.spec.id if env.unwrapped.spec else type(env.unwrapped).__name__
