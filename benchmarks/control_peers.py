"""What else a user might take on control tasks: SAC of Stable-Baselines3, on frames and on keypoints.

Both play what the agent that plans plays, with each action as often repeated, and see three observations at once, since one
has no velocities. Settings are the library's (learning rate 3e-4, τ 0.005, γ 0.99, entropy tuned, an update for each
interaction), but for the random play at the beginning and the size of a batch on frames: 64 in place of 256, since nearly
all of a run on CPUs goes into these. A run that is killed begins anew.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from kpagent.agents.control_learning import ControlTraining, learn_code
from kpagent.agents.control_model import ControlModel
from kpagent.agents.control_play import RandomPolicy, gather, play
from kpagent.collect.episodes import EpisodeReplay
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.envs.control_play import make_control_env
from kpagent.envs.keypoint_observation import KeypointObservation
from kpagent.keypoints import Keypoints
from kpagent.spending import Meter

PEERS = ("sac_pixels", "sac_keypoints")
STACK = 3
"""Observations that SAC sees at once."""
STARTS = 1_000
"""Random interactions before SAC learns."""


class CodeKeypoints:
    """The keypoints of a Struct-VRNN as a perception model of `KeypointObservation`.

    Args:
        model: with keypoints.
    """

    def __init__(self, model: StructVRNN) -> None:
        self.model = model
        self.image_size, self.num_keypoints, self.feature_dim = model.image_size, model.num_keypoints, 0

    def encode(self, frames: Any, *, features: bool = True) -> Keypoints:
        """Keypoints (N, K) of frames (N, H, W, 3) uint8; they have no features."""
        return self.model.encode(frames)


def train_sac(
    method: str,
    env_id: str,
    repeat: int,
    seed: int,
    folder: str,
    *,
    interactions: int,
    random: int,
    episodes: int,
    longest: int,
    model: Mapping[str, Any],
    training: ControlTraining,
    device: str = "auto",
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train SAC on one task and evaluate it.

    Args:
        method: one of `PEERS`.
        env_id: as of `make_control_env`.
        repeat: likewise.
        seed: of networks, actions and episodes; those of evaluation have others.
        folder: for what learning the keypoints keeps.
        interactions: to learn from; of `sac_keypoints`, those of random play that its keypoints learned from are among them.
        random: of these, how many, as those of the agent that plans.
        episodes: of evaluation, without noise.
        longest: interactions of an episode, at most.
        model: `StructVRNNConfig` of the keypoints, as plain values.
        training: how they are learned.
        device: auto, cpu or cuda.
        changes: arguments of SAC in place of those above.

    Returns:
        As of `control_runs.run_control`.
    """
    meter = Meter()
    with contextlib.closing(make_control_env(env_id, repeat=repeat)) as bare:
        env: gym.Env[Any, Any] = gym.wrappers.TimeLimit(bare, longest)
        spent = 0
        settings: dict[str, Any] = {"policy": "CnnPolicy", "batch_size": 64}
        if method == "sac_keypoints":
            keypoints = _learn_keypoints(bare, seed, Path(folder), random, longest, model, training, device)
            env, spent = KeypointObservation(env, keypoints, flatten=True), random
            settings = {"policy": "MlpPolicy", "device": "cpu"}
        settings = {"device": device, "buffer_size": interactions, "learning_starts": STARTS, **settings, **(changes or {})}
        stacked = VecFrameStack(DummyVecEnv([lambda: Monitor(env)]), STACK)
        agent = SAC(env=stacked, seed=seed, **settings)
        callback = _Episodes(spent, meter)
        agent.learn(interactions - spent, callback)
        cost = meter.read()
        # Other seeds than those of any training.
        stacked.seed(10_000 * (seed + 1))
        timed = TimedPolicy(agent)
        returns, _ = evaluate_policy(
            cast(Any, timed), stacked, n_eval_episodes=episodes, deterministic=True, return_episode_rewards=True, warn=False
        )
    return {
        "returns": [float(value) for value in cast("list[float]", returns)],
        "interactions": spent + agent.num_timesteps,
        "curve": callback.curve,
        "decisions_per_s": timed.rate,
        **cost,
    }


class TimedPolicy:
    """A policy and how long its decisions take.

    Args:
        policy: with `predict`.
    """

    def __init__(self, policy: Any) -> None:
        self.policy, self.decisions, self.seconds = policy, 0, 0.0

    @property
    def rate(self) -> float:
        """Decisions a second, on the clock."""
        return self.decisions / max(self.seconds, 1e-9)

    def predict(self, *arguments: Any, **named: Any) -> tuple[np.ndarray, Any]:
        """As of the policy."""
        begun = time.perf_counter()
        answer: tuple[np.ndarray, Any] = self.policy.predict(*arguments, **named)
        self.seconds += time.perf_counter() - begun
        self.decisions += 1
        return answer


class _Episodes(BaseCallback):
    """Takes note of each episode that ends in training."""

    def __init__(self, before: int, meter: Meter) -> None:
        super().__init__()
        self.curve: list[list[float]] = []
        self._before, self._meter = before, meter

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                at = self._before + self.num_timesteps
                self.curve.append([at, float(info["episode"]["r"]), self._meter.read()["wall_s"]])
        return True


def _learn_keypoints(
    env: gym.Env[Any, Any],
    seed: int,
    folder: Path,
    random: int,
    longest: int,
    model: Mapping[str, Any],
    training: ControlTraining,
    device: str,
) -> CodeKeypoints:
    """Keypoints from random play, as the agent that plans learns its first."""
    import torch

    from kpagent.dynamics.configuration import StructVRNNConfig
    from kpagent.training import pick_device

    torch.manual_seed(seed)
    learner = ControlModel(StructVRNNConfig.from_dict(dict(model))).to(pick_device(device)).eval()
    replay = EpisodeReplay(random)
    assert isinstance(env.action_space, gym.spaces.Box)
    policy, number = RandomPolicy(env.action_space, seed), 0
    while len(replay) < random:
        left = min(longest, random - len(replay))
        replay.add(gather(play(policy, env, 1_000 * seed + number, longest=left)))
        number += 1
    checkpoint = folder / "checkpoint-code-0.safetensors"
    for _ in learn_code(learner, replay, training, stage=0, seed=seed, checkpoint=checkpoint):
        pass
    return CodeKeypoints(learner.world.eval())
