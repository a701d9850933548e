"""Gymnasium's vector environments as Stable-Baselines3 wants them, with the statistics of whole games."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn

from kpagent.errors import UsageError

LARGEST_SEED = 2**31 - 1
"""The largest seed of a single environment that every vector environment takes; Atari's are 32 bits with a sign."""


class GymnasiumVecEnv(VecEnv):
    """A vector environment of Gymnasium as one of Stable-Baselines3.

    What `Monitor` does is done here: where a game ends, `info["episode"]` holds its sum of rewards `r`, its number of
    interactions `l` and the seconds since this object was made `t`, and `env_is_wrapped(Monitor)` says so, by which
    `evaluate_policy` counts whole games.

    With `life_loss`, the loss of a life ends a trajectory (`dones`, `terminal_observation`) and the game goes on: the
    first observation of the next trajectory is the last of this one, no frame is skipped and no reward is lost. Only the
    end of a game has `info["episode"]`. Lives are read from `info["lives"]`, as Atari gives it; an environment without is
    not touched. `AtariVectorEnv`'s own settings are of no use here: its `episodic_life` begins a new game after each life,
    and under its `life_loss_info` the last observation of a life is black.

    Where a game ends, `infos` are those of its last step as far as the vector environment gives them (`final_info`), and
    `reset_infos` those of the new game. Observations are handed on without a copy.

    Args:
        env: any vector environment that resets in the step in which an episode ends.
        life_loss: whether the loss of a life ends a trajectory.

    Attributes:
        env: the vector environment.

    Raises:
        UsageError: a vector environment of another autoreset mode.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], *, life_loss: bool = False) -> None:
        # The metadata of Atari's belong to the class: each one that is made changes them for all.
        mode = getattr(env.unwrapped, "autoreset_mode", env.metadata.get("autoreset_mode"))
        if mode != AutoresetMode.SAME_STEP:
            found = mode.name if isinstance(mode, AutoresetMode) else mode
            raise UsageError(f"the vector environment must have autoreset mode SAME_STEP, not {found}")
        self.env = env
        self.life_loss = life_loss
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        # Gymnasium's own may be told to write every observation into the same memory.
        self._reuses_memory = getattr(env.unwrapped, "copy", True) is False
        self._start = time.perf_counter()
        self._actions = np.zeros(0)
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)
        self._lives = np.zeros(self.num_envs)

    def reset(self) -> VecEnvObs:
        """Begin a new game in every environment, with the seeds and options that were set since the last time."""
        options = self._options[0] or None
        observations, info = self.env.reset(seed=self._seeds[0], options=options)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = _unbatch(info, self.num_envs)
        self._returns[:] = 0
        self._lengths[:] = 0
        self._lives = _lives(info, np.zeros(self.num_envs))
        return self._own(observations)

    def begin_anew(self, mask: np.ndarray) -> VecEnvObs:
        """Begin a new game in some environments, whatever has become of the old one; in the others it goes on.

        Args:
            mask: (N,) bool, at least one.

        Returns:
            The observations of all.
        """
        observations, info = self.env.reset(options={"reset_mask": mask})
        infos = _unbatch(info, self.num_envs)
        for index in np.flatnonzero(mask).tolist():
            self.reset_infos[index] = infos[index]
        self._returns[mask] = 0
        self._lengths[mask] = 0
        self._lives = np.where(mask, _lives(info, np.zeros(self.num_envs)), self._lives)
        return self._own(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Take note of the actions, (N, ...); `step_wait` plays them."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """One interaction in every environment: observations, rewards (N,) float32, dones (N,) and N infos."""
        observations, rewards, terminated, truncated, info = self.env.step(self._actions)
        observations = self._own(observations)
        self._returns += rewards
        self._lengths += 1
        over = terminated | truncated
        infos = _unbatch(info, self.num_envs)
        for each in infos:
            each["TimeLimit.truncated"] = False
        if over.any():
            final_infos = _unbatch(info.get("final_info", {}), self.num_envs)
            for index in np.flatnonzero(over).tolist():
                self.reset_infos[index] = infos[index]
                self.reset_infos[index].pop("TimeLimit.truncated")
                infos[index] = final_infos[index] | {
                    "TimeLimit.truncated": bool(truncated[index] and not terminated[index]),
                    "terminal_observation": _row(info["final_obs"], index),
                    "episode": self._statistics(index),
                }
            self._returns[over] = 0
            self._lengths[over] = 0
        return observations, rewards.astype(np.float32), self._end_lives(observations, over, info, infos), infos

    def close(self) -> None:
        """Close the vector environment."""
        self.env.close()

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Set the seeds of the next `reset`: `seed`, and one more for each environment; without, a drawn one."""
        if seed is None:
            seed = int(np.random.randint(LARGEST_SEED - self.num_envs))  # noqa: NPY002 (Stable-Baselines3 seeds this one)
        return super().seed(seed)

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Set the options of the next `reset`.

        Raises:
            UsageError: a list of different ones; a vector environment has the same for all.
        """
        if isinstance(options, list) and any(each != options[0] for each in options):
            raise UsageError("a vector environment of Gymnasium takes one dict of options for all its environments")
        super().set_options(options)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each environment; where they step in threads, of the vector environment."""
        inner = self.env.unwrapped
        values: Sequence[Any]
        if (envs := self._envs()) is not None:
            return [envs[index].get_wrapper_attr(attr_name) for index in self._get_indices(indices)]
        values = inner.get_attr(attr_name) if hasattr(inner, "get_attr") else [getattr(inner, attr_name)] * self.num_envs
        return [values[index] for index in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of each environment.

        Raises:
            UsageError: they step in threads or processes of their own.
        """
        for env in self._require_envs(indices):
            env.set_wrapper_attr(attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each environment.

        Raises:
            UsageError: they step in threads or processes of their own.
        """
        return [env.get_wrapper_attr(method_name)(*method_args, **method_kwargs) for env in self._require_envs(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Whether each environment is wrapped in a class; in `Monitor` all are, since its work is done here."""
        envs = self._envs()
        return [
            wrapper_class is Monitor or (envs is not None and is_wrapped(envs[index], wrapper_class))
            for index in self._get_indices(indices)
        ]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """What each environment renders now; None where they do not."""
        images: Any = self.env.render() if self.render_mode is not None else None
        return list(images) if images is not None else [None] * self.num_envs

    def _statistics(self, index: int) -> dict[str, Any]:
        return {
            "r": round(float(self._returns[index]), 6),
            "l": int(self._lengths[index]),
            "t": round(time.perf_counter() - self._start, 6),
        }

    def _end_lives(
        self, observations: Any, over: np.ndarray, info: Mapping[str, Any], infos: list[dict[str, Any]]
    ) -> np.ndarray:
        """Where a trajectory ends, (N,) bool: the games that are over, and those in which a life was lost."""
        if not self.life_loss or "lives" not in info:
            return over
        lives = _lives(info, self._lives)
        # As the field has it: at 0 a game is over, or (Qbert) will be in a few frames, and is not to end twice.
        lost = (lives > 0) & (lives < self._lives) & ~over
        self._lives = lives
        for index in np.flatnonzero(lost).tolist():
            infos[index]["terminal_observation"] = _copy(_row(observations, index))
        return over | lost

    def _own(self, observations: Any) -> Any:
        return _copy(observations) if self._reuses_memory else observations

    def _envs(self) -> list[gym.Env[Any, Any]] | None:
        """The environments, where they live in this process as objects."""
        return getattr(self.env.unwrapped, "envs", None)

    def _require_envs(self, indices: VecEnvIndices) -> list[gym.Env[Any, Any]]:
        envs = self._envs()
        if envs is None:
            name = type(self.env.unwrapped).__name__
            raise UsageError(f"the environments of {name} cannot be reached one by one; take those of SyncVectorEnv")
        return [envs[index] for index in self._get_indices(indices)]


def _unbatch(info: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """What a vector environment says of all its environments, as one dict for each; final observations are left out."""
    infos: list[dict[str, Any]] = [{} for _ in range(count)]
    for name, values in info.items():
        if name in ("final_obs", "final_info") or (name[:1] == "_" and name[1:] in info):
            continue
        if isinstance(values, Mapping):
            parts: Sequence[Any] = _unbatch(values, count)
        elif isinstance(values, np.ndarray) and len(values) == count:
            parts = values.tolist() if values.ndim == 1 else list(values)
        else:
            parts = [values] * count
        mask = info.get(f"_{name}")
        for index, part in enumerate(parts):
            if mask is None or mask[index]:
                infos[index][name] = part
    return infos


def _lives(info: Mapping[str, Any], otherwise: np.ndarray) -> np.ndarray:
    """Lives left, (N,); `otherwise` where an environment does not say."""
    if "lives" not in info:
        return otherwise
    return np.where(info.get("_lives", True), info["lives"], otherwise)


def _row(batch: Any, index: int) -> Any:
    """One environment's part of a batch of observations."""
    if isinstance(batch, Mapping):
        return {name: values[index] for name, values in batch.items()}
    return tuple(values[index] for values in batch) if isinstance(batch, tuple) else batch[index]


def _copy(observation: Any) -> Any:
    if isinstance(observation, Mapping):
        return {name: _copy(value) for name, value in observation.items()}
    return tuple(map(_copy, observation)) if isinstance(observation, tuple) else np.copy(observation)
