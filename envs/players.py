"""The environments in which agents are trained and evaluated, each made the way that the protocol has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from kpagent.envs.atari import make_atari_vector
from kpagent.envs.keypoint_observation import (
    KeypointObservation,
    KeypointVectorObservation,
    PerceptionModel,
    find_perception,
)
from kpagent.envs.making import make_env, require_registered
from kpagent.envs.objects import ATARI_VARIANTS
from kpagent.envs.objects_observation import ObjectObservation
from kpagent.envs.vec_env import LARGEST_SEED, GymnasiumVecEnv
from kpagent.errors import UsageError
from kpagent.perception import zoo

OBJECTS = "objects"
"""In place of weights: the true positions of objects."""

IDLE_FRAMES = 30
"""An episode of Atari begins with fewer than so many frames without an action, as `AtariVectorEnv` counts them."""

LONGEST_GAME = 108_000
"""Frames after which a game of Atari is cut off: half an hour of play."""


def make_players(
    env_id: str,
    num_envs: int,
    see: str | Path | PerceptionModel,
    *,
    life_loss: bool = True,
    features: bool = True,
    seed: int | None = None,
    device: str = "auto",
    any_weights: bool = False,
) -> GymnasiumVecEnv:
    """Many copies of a game, seen through keypoints, for an agent of Stable-Baselines3.

    Atari ("ALE/...") is played as the field plays it: one action in four frames, no sticky actions, the minimal set of
    actions, up to 30 idle frames drawn from the seed, cut off after 108,000 frames, nothing pressed for the player. Rewards
    are the game's own. All copies are seen in one pass of the model. Any other environment is made by `make_env` and seen
    one copy at a time.

    Args:
        env_id: as for `make_env`.
        num_envs: number of copies.
        see: the name of shipped weights, the path of a weights file, a perception model, or `OBJECTS` for the true
            positions of objects where they are known.
        life_loss: whether the loss of a life ends a trajectory, as in training; the statistics of episodes count whole
            games in any case.
        features: as for `KeypointObservation`.
        seed: of the first `reset`, from which all that follows is determined; copy i has `seed + i`. Drawn without.
        device: as for `KeypointObservation`.
        any_weights: whether weights that were made for another environment may be used.

    Returns:
        Observations are those of `KeypointObservation`, a Dict, or those of `ObjectObservation`.

    Raises:
        UsageError: no such environment or weights, weights for another environment, no ground truth for `OBJECTS`, actions
            that are not discrete, fewer than one copy, or a seed out of range.
    """
    require_registered(env_id)
    if num_envs < 1:
        raise UsageError(f"the number of environments must be at least 1, not {num_envs}")
    if seed is not None and not 0 <= seed <= LARGEST_SEED - num_envs:
        raise UsageError(f"the seed must be from 0 to {LARGEST_SEED - num_envs}, not {seed}")
    env = (
        _see_objects(env_id, num_envs)
        if see == OBJECTS
        else _see_keypoints(env_id, num_envs, see, features, device, any_weights)
    )
    _require_discrete(env_id, env, env.single_action_space)
    players = GymnasiumVecEnv(env, life_loss=life_loss)
    if seed is not None:
        players.seed(seed)
        players.action_space.seed(seed)
    return players


def make_player(
    env_id: str,
    see: str | Path | PerceptionModel,
    *,
    features: bool = True,
    device: str = "auto",
    any_weights: bool = False,
) -> gym.Env[Any, Any]:
    """One game as those of `make_players`, its frames in full: to show how an agent plays.

    Args:
        env_id: as for `make_players`.
        see: as for `make_players`.
        features: as for `make_players`.
        device: as for `make_players`.
        any_weights: as for `make_players`.

    Returns:
        A `KeypointObservation` or an `ObjectObservation`. A lost life does not end anything here, and the seed is that of
        the first `reset`; it draws other numbers of idle frames than the same seed of `make_players`.

    Raises:
        UsageError: as for `make_players`.
    """
    require_registered(env_id)
    env: gym.Env[Any, Any]
    if see == OBJECTS:
        env = _objects_alone(env_id)
    else:
        model = find_perception(see, device)
        if not any_weights:
            _require_weights_of(env_id, see, model)
        env = _seen_alone(env_id, model, features)
    _require_discrete(env_id, env, env.action_space)
    _require_rendering(env_id, env)
    return env


def newest_frame(player: gym.Env[Any, Any]) -> np.ndarray:
    """The frame behind the newest observation of what `make_player` made, (H, W, 3) uint8; not to be written to.

    Raises:
        UsageError: before the first `reset`, or where nothing can be drawn.
    """
    frame: Any = player.get_wrapper_attr("frame") if player.has_wrapper_attr("frame") else player.render()
    if frame is None:
        raise UsageError("this player sees no frames, and cannot draw them")
    return np.asarray(frame, np.uint8)


def newest_frames(players: GymnasiumVecEnv) -> np.ndarray:
    """The frames behind the newest observations of what `make_players` made, (N, H, W, 3) uint8; not to be written to.

    Those of Atari come at the size that the perception model sees, and no copy is made of them; under `OBJECTS` they are
    drawn now, in full.

    Raises:
        UsageError: before the first `reset`, or where nothing can be drawn.
    """
    if isinstance(players.env, KeypointVectorObservation):
        return players.env.frames
    frames: Sequence[Any] = players.get_attr("frame") if players.has_attr("frame") else players.get_images()
    if any(frame is None for frame in frames):
        raise UsageError("these players see no frames, and cannot draw them")
    return np.stack(frames)


class IdleStart(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Atari whose episodes begin with idle frames, as many as `AtariVectorEnv` may play: 0 to 29.

    Stable-Baselines3's `NoopResetEnv` idles for whole actions, which would be up to 120 frames here.

    Args:
        env: a game of `ale_py` with `obs_type` "ram" or "rgb".
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a game, and idle for a number of frames that is drawn from the seed."""
        from ale_py import Action

        _, info = self.env.reset(seed=seed, options=options)
        ale = self.env.unwrapped.ale  # type: ignore[attr-defined]
        for _ in range(self.np_random.integers(IDLE_FRAMES)):
            ale.act(Action.NOOP)
        counts = {"frame_number": ale.getFrameNumber(), "episode_frame_number": ale.getEpisodeFrameNumber()}
        sees_ram = len(self.observation_space.shape or ()) == 1
        return (ale.getRAM() if sees_ram else ale.getScreenRGB()), info | counts


def _see_keypoints(
    env_id: str, num_envs: int, see: str | Path | PerceptionModel, features: bool, device: str, any_weights: bool
) -> VectorEnv[Any, Any, Any]:
    model = find_perception(see, device)
    if not any_weights:
        _require_weights_of(env_id, see, model)
    if not env_id.startswith("ALE/"):
        turns = _take_turns(partial(_seen_alone, env_id, model, features), num_envs)
        _require_rendering(env_id, turns.envs[0])
        return turns
    # The emulator's threads shrink frames as the model would, sooner.
    size = getattr(model, "image_size", None)
    settings = {"img_height": size, "img_width": size} if size else {}
    games = make_atari_vector(
        env_id, num_envs, autoreset_mode=AutoresetMode.SAME_STEP, max_num_frames_per_episode=LONGEST_GAME, **settings
    )
    return KeypointVectorObservation(games, model, features=features)


def _see_objects(env_id: str, num_envs: int) -> VectorEnv[Any, Any, Any]:
    return _take_turns(partial(_objects_alone, env_id), num_envs)


def _take_turns(make: Callable[[], gym.Env[Any, Any]], num_envs: int) -> SyncVectorEnv:
    # What it copies is copied on by GymnasiumVecEnv, in less time than by deepcopy.
    return SyncVectorEnv([make] * num_envs, copy=False, autoreset_mode=AutoresetMode.SAME_STEP)


def _seen_alone(env_id: str, model: PerceptionModel, features: bool) -> gym.Env[Any, Any]:
    if not env_id.startswith("ALE/"):
        return KeypointObservation(make_env(env_id), model, features=features)
    env = IdleStart(make_env(env_id, max_num_frames_per_episode=LONGEST_GAME))
    return KeypointObservation(env, model, features=features)


def _objects_alone(env_id: str) -> gym.Env[Any, Any]:
    if not env_id.startswith("ALE/"):
        return ObjectObservation(make_env(env_id))
    settings = {"obs_type": "ram", "render_mode": "rgb_array", "max_num_frames_per_episode": LONGEST_GAME}
    return ObjectObservation(IdleStart(make_env(env_id, disable_env_checker=True, **settings)))


def _require_discrete(env_id: str, env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any], space: gym.Space[Any]) -> None:
    if not isinstance(space, gym.spaces.Discrete):
        env.close()
        raise UsageError(f"KeyQN needs a Discrete action space, and that of {env_id} is a {type(space).__name__}")


def _require_rendering(env_id: str, env: gym.Env[Any, Any]) -> None:
    try:
        env.reset()
    except gym.error.DependencyNotInstalled as error:
        raise UsageError(f"{env_id} cannot render: {error}") from error


def _require_weights_of(env_id: str, see: Any, model: PerceptionModel) -> None:
    made_for = getattr(model, "provenance", {}).get("env")
    if made_for is None or _game(made_for) == _game(env_id):
        return
    name = repr(str(see)) if isinstance(see, (str, Path)) else type(model).__name__
    right = [name for name, header in zoo.shipped().items() if _game(header["provenance"]["env"]) == _game(env_id)]
    cure = f"take {' or '.join(map(repr, right))}" if right else "pretrain some for it"
    raise UsageError(f"the weights {name} are for {made_for}, not for {env_id}: {cure}, or pass any_weights=True")


def _game(env_id: str) -> str:
    """The game behind an id, the same for all its variants."""
    name = env_id.rpartition(":")[2]
    return ATARI_VARIANTS.get(name, name)
