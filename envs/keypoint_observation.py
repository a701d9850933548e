"""Keypoints in place of pixels, for any Gymnasium environment or vector environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from kpagent.envs.worker_threads import limit_worker_threads
from kpagent.errors import UsageError
from kpagent.frames import FrameLayout
from kpagent.keypoints import Keypoints
from kpagent.perception import zoo
from kpagent.training import pick_device

Observation = dict[str, np.ndarray] | np.ndarray
"""A Dict or, flattened, a Box."""


class PerceptionModel(Protocol):
    """What finds keypoints: `Transporter`, or any model that keeps to this."""

    @property
    def num_keypoints(self) -> int:
        """K."""

    @property
    def feature_dim(self) -> int:
        """D."""

    def encode(self, frames: np.ndarray, *, features: bool = True) -> Keypoints:
        """Keypoints of (N, H, W, 3) uint8 frames of any size; D = 0 without `features`."""


class KeypointObservation(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """An environment seen through keypoints.

    The frame is the observation where that is an image (`FrameLayout` says what is understood; of a stack, the newest
    frame), and what `env.render()` gives where it is not. The observation becomes a Dict of float32:

    - `xy`: (K, 2) in [-1, 1], x to the right, y down, -1 and +1 at the outer edges of the frame;
    - `presence`: (K,) in [0, 1];
    - `features`: (K, D), any real numbers; absent where D = 0, since many libraries refuse an empty Box;

    or, with `flatten`, one Box (K * (3 + D),): for each keypoint x, y, presence, features.

    Args:
        env: any environment whose observation is an image, or made with `render_mode="rgb_array"`.
        keypoints: the name of shipped weights, the path of a weights file, or a perception model.
        flatten: one Box, for an MlpPolicy, in place of the Dict.
        features: whether to have features; without, about twice as fast.
        device: where the model runs. "auto" is, for a name or a path, CUDA where there is one, else the CPU, and always
            the CPU in the worker processes of a vector env; a model that is handed over stays where it is.

    Raises:
        UsageError: no such weights or device, or an environment with neither image nor rendering.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        keypoints: str | Path | PerceptionModel,
        *,
        flatten: bool = False,
        features: bool = True,
        device: str = "auto",
    ) -> None:
        # The first to record wins, so before the base class; a model is kept as it is, not copied.
        RecordConstructorArgs.__init__(
            self, keypoints=_portable(keypoints), flatten=flatten, features=features, device=device, _disable_deepcopy=True
        )
        super().__init__(env)
        self._layout = _layout(env.observation_space, env.render_mode)
        self._see = _Eye(keypoints, flatten, features, device)
        self._frame: np.ndarray | None = None
        self.observation_space = self._see.space

    @property
    def perception(self) -> PerceptionModel:
        """The model that finds the keypoints."""
        return self._see.model

    @property
    def frame(self) -> np.ndarray:
        """The frame behind the newest observation, (H, W, 3) uint8; not a copy, and not to be written to.

        Raises:
            UsageError: before the first `reset`.
        """
        return _seen(self._frame)

    def observation(self, observation: Any) -> Observation:
        """The keypoints of one observation of the wrapped environment, or of what it renders now."""
        frame = _rendered(self.env.render()) if self._layout is None else self._layout.to_rgb(observation)
        self._frame = frame
        seen = self._see(frame[None])
        return {name: value[0] for name, value in seen.items()} if isinstance(seen, dict) else seen[0]


class KeypointVectorObservation(VectorWrapper[Any, Any, Any, Any, Any]):
    """A vector environment seen through keypoints, all its frames in one pass of the model.

    Observations are those of `KeypointObservation`, batched. Under `AutoresetMode.SAME_STEP`, `info["final_obs"]` is what
    Gymnasium's own vector environments give, whatever the wrapped one gave: an object array (N,), each entry the last
    observation of the episode that ended or None, with the mask `info["_final_obs"]`.

    Args:
        env: any vector environment whose observations are images, or made with `render_mode="rgb_array"`.
        keypoints: as for `KeypointObservation`.
        flatten: as for `KeypointObservation`.
        features: as for `KeypointObservation`.
        device: as for `KeypointObservation`.

    Raises:
        UsageError: no such weights or device, an environment with neither image nor rendering, or one that renders and
            resets in the same step: the last frame of an episode would be lost.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        keypoints: str | Path | PerceptionModel,
        *,
        flatten: bool = False,
        features: bool = True,
        device: str = "auto",
    ) -> None:
        super().__init__(env)
        self._layout = _layout(env.single_observation_space, env.render_mode)
        if self._layout is None and env.metadata.get("autoreset_mode") == AutoresetMode.SAME_STEP:
            cure = "take autoreset mode NEXT_STEP, or wrap each environment in KeypointObservation"
            raise UsageError(f"frames that are rendered are lost when an episode ends and begins in the same step: {cure}")
        self._see = _Eye(keypoints, flatten, features, device)
        self._newest: np.ndarray | None = None
        self.single_observation_space = self._see.space
        self.observation_space = batch_space(self._see.space, self.num_envs)

    @property
    def perception(self) -> PerceptionModel:
        """The model that finds the keypoints."""
        return self._see.model

    @property
    def frames(self) -> np.ndarray:
        """The frames behind the newest observations, (N, H, W, 3) uint8; not a copy, and not to be written to.

        Raises:
            UsageError: before the first `reset`.
        """
        return _seen(self._newest)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """As of the wrapped environment, with the keypoints of its observations."""
        observations, info = self.env.reset(seed=seed, options=options)
        self._newest = self._frames(observations)
        return self._see(self._newest), info

    def step(self, actions: Any) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """As of the wrapped environment, with the keypoints of its observations and of the last ones of episodes."""
        observations, rewards, terminated, truncated, info = self.env.step(actions)
        self._newest = frames = self._frames(observations)
        if "final_obs" not in info:
            return self._see(frames), rewards, terminated, truncated, info
        ended = np.asarray(info.get("_final_obs", terminated | truncated), bool)
        finals = [self._frames(info["final_obs"][index]) for index in np.flatnonzero(ended)]
        seen = self._see(np.concatenate([frames, np.stack(finals)]) if finals else frames)
        final_obs = np.full(len(ended), None, object)
        for place, index in enumerate(np.flatnonzero(ended), start=len(frames)):
            final_obs[index] = (
                {name: value[place] for name, value in seen.items()} if isinstance(seen, dict) else seen[place]
            )
        current = (
            {name: value[: len(frames)] for name, value in seen.items()} if isinstance(seen, dict) else seen[: len(frames)]
        )
        return current, rewards, terminated, truncated, info | {"final_obs": final_obs, "_final_obs": ended}

    def _frames(self, observations: Any) -> np.ndarray:
        if self._layout is not None:
            return self._layout.to_rgb(observations)
        return np.stack([_rendered(frame) for frame in self.env.render() or ()])


class _Eye:
    """Frames to observations: what both wrappers have in common."""

    def __init__(self, keypoints: str | Path | PerceptionModel, flatten: bool, features: bool, device: str) -> None:
        self.model = find_perception(keypoints, device)
        self.flatten = flatten
        count, depth = self.model.num_keypoints, self.model.feature_dim if features else 0
        self.features = depth > 0
        self.space = keypoint_space(count, depth, flatten)

    def __call__(self, frames: np.ndarray) -> Observation:
        """(N, H, W, 3) uint8 to an observation with N in front of every array."""
        keypoints = self.model.encode(frames) if self.features else self.model.encode(frames, features=False)
        if self.flatten:
            flat = keypoints.flatten()
            # One array to fetch from a GPU, not three.
            return flat.float().cpu().numpy() if isinstance(flat, torch.Tensor) else np.asarray(flat, np.float32)
        keypoints = keypoints.numpy()
        seen = {"xy": keypoints.xy, "presence": keypoints.presence}
        return seen | {"features": keypoints.features} if self.features else seen


def keypoint_space(count: int, depth: int, flatten: bool = False) -> gym.Space[Any]:
    """The space of observations of `count` keypoints with `depth` features each, as `KeypointObservation` describes it."""
    low, high = np.full((count, 3 + depth), -np.inf, np.float32), np.full((count, 3 + depth), np.inf, np.float32)
    low[:, :3], high[:, :3] = (-1, -1, 0), 1
    if flatten:
        return gym.spaces.Box(low.reshape(-1), high.reshape(-1), dtype=np.float32)
    parts: dict[str, Any] = {"xy": slice(0, 2), "presence": 2} | ({"features": slice(3, None)} if depth else {})
    return gym.spaces.Dict(
        {name: gym.spaces.Box(low[:, part], high[:, part], dtype=np.float32) for name, part in parts.items()}
    )


def _seen(frames: np.ndarray | None) -> np.ndarray:
    if frames is None:
        raise UsageError("there is no frame before the first reset")
    return frames


def _layout(space: gym.Space[Any], render_mode: str | None) -> FrameLayout | None:
    """The layout of image observations; None where frames must be rendered."""
    try:
        return FrameLayout.of(space)
    except UsageError as reason:
        if render_mode == "rgb_array":
            return None
        raise UsageError(f'no frames to see: {reason}, and nothing renders; make it with render_mode="rgb_array"') from None


def _rendered(frame: Any) -> np.ndarray:
    if isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[-1] == 3:
        return frame
    found = f"{frame.shape} {frame.dtype}" if isinstance(frame, np.ndarray) else type(frame).__name__
    raise UsageError(f"the environment must render (H, W, 3) uint8 frames, not {found}")


def find_perception(keypoints: str | Path | PerceptionModel, device: str = "auto") -> PerceptionModel:
    """The model behind what `KeypointObservation` takes as `keypoints`, on the device that it takes as `device`.

    Raises:
        UsageError: no such weights or device, or nothing that finds keypoints.
    """
    in_worker = limit_worker_threads()
    if isinstance(keypoints, (str, Path)):
        return zoo.load(keypoints, "cpu" if in_worker and device == "auto" else device)
    if not all(hasattr(keypoints, name) for name in ("encode", "num_keypoints", "feature_dim")):
        kinds = "the name of shipped weights, the path of a weights file or a perception model"
        raise UsageError(f"keypoints must be {kinds}, not {type(keypoints).__name__}")
    if device != "auto" and isinstance(keypoints, torch.nn.Module):
        keypoints.to(pick_device(device))
    return keypoints


def _portable(keypoints: Any) -> Any:
    """A path from any folder; a name or a model as it is."""
    is_path = isinstance(keypoints, Path) or (isinstance(keypoints, str) and Path(keypoints).is_file())
    return os.path.abspath(keypoints) if is_path else keypoints
