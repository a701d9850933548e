"""What else a user might take, measured as KeyQN is: DQN and PPO of Stable-Baselines3 on pixels, PPO on keypoints.

All play 100,000 interactions of Atari: four frames an action, no sticky actions, the minimal set of actions, the loss of a
life ends a trajectory, rewards are clipped to their sign in training. Evaluation counts the real score of whole games.

Pixels come as Stable-Baselines3 makes them (`make_atari_env`, `VecFrameStack`): 84 × 84 grey, the maximum of the last two
frames, four of these stacked, 1 to 30 idle frames at the beginning, FIRE pressed after each reset and each lost life. These
idle frames and presses are not counted as interactions. Keypoints come from `make_players`, four stacked likewise, since one
frame has no velocities.

Settings are those of Stable-Baselines3's RL Zoo for Atari, which are made for 10 million interactions. PPO's are unchanged
(8 games at a time, 128 steps each between updates, 4 epochs of batches of 256, learning rate from 2.5e-4 and clipping from
0.1 linearly to 0, value weight 0.5, entropy weight 0.01), on keypoints too. DQN's are unchanged (learning rate 1e-4,
batches of 32, an update every 4 interactions, a new target network every 1,000, ε from 1 to 0.01 over the first tenth),
but for

- `learning_starts`: 1,600 interactions in place of 100,000, as in van Hasselt et al. 2019;
- `buffer_size`: the last 35,000 interactions in place of 100,000, with `optimize_memory_usage`, which keeps each stack of
  frames once: 0.99 GB in place of 5.6 GB.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
import numpy as np
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecFrameStack
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from kpagent.envs.making import require_registered
from kpagent.envs.players import make_players
from kpagent.errors import UsageError
from kpagent.spending import Meter

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.type_aliases import PolicyPredictor

METHODS = ("dqn_pixels", "ppo_pixels", "ppo_keypoints", "random")
STACK = 4
"""Observations that an agent sees at once."""
COPIES = 8
"""Games at a time: of PPO in training, of all in evaluation."""
EPSILON = 0.01
"""Of DQN in evaluation, the ε that its training ends with."""

# AtariWrapper skips frames itself.
_EVERY_FRAME: Mapping[str, Any] = {"frameskip": 1, "repeat_action_probability": 0.0}
_DQN: Mapping[str, Any] = {
    "learning_rate": 1e-4,
    "batch_size": 32,
    "buffer_size": 35_000,
    "optimize_memory_usage": True,
    # Stable-Baselines3 can tell time limits from ends only without the above; games here are cut after 108,000 frames.
    "replay_buffer_kwargs": {"handle_timeout_termination": False},
    "learning_starts": 1_600,
    "target_update_interval": 1_000,
    "train_freq": 4,
    "gradient_steps": 1,
    "exploration_fraction": 0.1,
    "exploration_final_eps": EPSILON,
}
_PPO: Mapping[str, Any] = {
    "n_steps": 128,
    "n_epochs": 4,
    "batch_size": 256,
    "learning_rate": LinearSchedule(2.5e-4, 0.0, 1.0),
    "clip_range": LinearSchedule(0.1, 0.0, 1.0),
    "vf_coef": 0.5,
    "ent_coef": 0.01,
}


def train_peer(
    method: str,
    env_id: str,
    seed: int,
    *,
    interactions: int = 100_000,
    episodes: int = 100,
    weights: str | None = None,
    features: bool = True,
    device: str = "auto",
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train one method on one game and evaluate it; to be called in a process of its own, as `runs.run_all` does.

    Args:
        method: one of `METHODS`; `random` learns nothing, sees pixels and acts at random.
        env_id: a game of Atari, such as "ALE/Pong-v5".
        seed: of networks, actions and training games; evaluation games have others.
        interactions: to learn from. PPO stops at the last of its updates before, one every 1,024; DQN plays a multiple
            of 4. What was played is in the result.
        episodes: whole games of evaluation. DQN plays them greedily with ε of 0.01, PPO samples its actions, as the zoo
            does for Atari.
        weights: of `ppo_keypoints`: as `make_players` takes them.
        features: of `ppo_keypoints`: whether it sees features besides coordinates and presence.
        device: auto, cpu or cuda; the policy of `ppo_keypoints` is always on the CPU, where such small ones are faster.
        changes: arguments of the algorithm in place of those above.

    Returns:
        For JSON: `scores` of the evaluation games; `interactions` learned from; `games`, [interactions so far, score] of
        each whole game that ended in training; what training took (`wall_s`, `cpu_s`, `peak_memory_mb`), with emulation
        and without imports; `evaluation_wall_s`.

    Raises:
        UsageError: no such method or game, too few interactions or episodes, or weights that are missing or not wanted.
    """
    _check(method, env_id, seed, episodes, weights)

    def make_games(copies: int, seed: int) -> VecEnv:
        if method == "ppo_keypoints":
            env: VecEnv = make_players(env_id, copies, cast(str, weights), features=features, seed=seed, device=device)
        else:
            env = make_atari_env(env_id, copies, seed, env_kwargs=dict(_EVERY_FRAME))
        return VecFrameStack(env, STACK)

    meter = Meter()
    with contextlib.closing(make_games(COPIES if method.startswith("ppo") else 1, seed)) as env:
        player, played, games = _train(method, env, seed, interactions, device, changes or {})
    spent = meter.read()
    meter = Meter()
    # Other seeds than those of any training.
    with contextlib.closing(make_games(min(COPIES, episodes), 10_000 * (seed + 1))) as env:
        scores, _ = evaluate_policy(
            player, env, n_eval_episodes=episodes, deterministic=False, return_episode_rewards=True, warn=False
        )
    return {
        "scores": [float(score) for score in cast("list[float]", scores)],
        "interactions": played,
        "games": games,
        **spent,
        "evaluation_wall_s": meter.read()["wall_s"],
    }


class ClippedRewards(VecEnvWrapper):
    """Rewards by their sign, as `ClipRewardEnv` has them; the statistics of episodes keep the real ones."""

    def reset(self) -> VecEnvObs:
        """As of the wrapped environments."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """As of the wrapped environments, with rewards of -1, 0 and 1."""
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, np.sign(rewards), dones, infos


class EpsilonGreedy:
    """The greedy actions of an algorithm, but for a random one now and then, in each game by itself.

    `DQN.predict` tosses one coin for all games.

    Args:
        agent: the algorithm; without, every action is random.
        epsilon: share of random actions.
        actions: to draw from.
        seed: of the draws.
    """

    def __init__(self, agent: BaseAlgorithm | None, epsilon: float, actions: int, seed: int) -> None:
        self.agent, self.epsilon, self.actions = agent, epsilon, actions
        self._rng = np.random.default_rng(seed)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """Actions for a batch of observations, (N, ...) to (N,); other arguments are not looked at."""
        drawn = self._rng.integers(self.actions, size=len(observation))
        if self.agent is None:
            return drawn, None
        greedy, _ = self.agent.predict(observation, deterministic=True)
        return np.where(self._rng.random(len(observation)) < self.epsilon, drawn, greedy), None


class _WholeGames(BaseCallback):
    """Takes note of each whole game that ends in training."""

    def __init__(self) -> None:
        super().__init__()
        self.games: list[list[float]] = []

    def _on_step(self) -> bool:
        ended = (info["episode"]["r"] for info in self.locals["infos"] if "episode" in info)
        self.games += [[self.num_timesteps, float(score)] for score in ended]
        return True


def _train(
    method: str, env: VecEnv, seed: int, interactions: int, device: str, changes: Mapping[str, Any]
) -> tuple[PolicyPredictor, int, list[list[float]]]:
    actions = cast(gym.spaces.Discrete, env.action_space).n
    if method == "random":
        return EpsilonGreedy(None, 1.0, int(actions), seed), 0, []
    callback = _WholeGames()
    if method == "dqn_pixels":
        learner = DQN("CnnPolicy", env, seed=seed, device=device, **{**_DQN, **changes})
        if interactions <= learner.learning_starts:
            raise UsageError(f"DQN learns after {learner.learning_starts} interactions; give it more than {interactions}")
        learner.learn(interactions, callback)
        return EpsilonGreedy(learner, EPSILON, int(actions), seed), learner.num_timesteps, callback.games
    policy, device = ("MultiInputPolicy", "cpu") if method == "ppo_keypoints" else ("CnnPolicy", device)
    env = ClippedRewards(env) if method == "ppo_keypoints" else env
    agent = PPO(policy, env, seed=seed, device=device, **{**_PPO, **changes})
    round_ = agent.n_steps * env.num_envs
    if interactions < round_:
        raise UsageError(f"PPO plays {round_} interactions between updates; give it at least as many, not {interactions}")
    agent.learn(interactions // round_ * round_, callback)
    return agent, agent.num_timesteps, callback.games


def _check(method: str, env_id: str, seed: int, episodes: int, weights: str | None) -> None:
    if method not in METHODS:
        raise UsageError(f"no method {method!r}; there are {', '.join(METHODS)}")
    if not env_id.startswith("ALE/"):
        raise UsageError(f"peers play Atari, with ids like ALE/Pong-v5, not {env_id}")
    require_registered(env_id)
    if seed < 0:
        raise UsageError(f"the seed must be at least 0, not {seed}")
    if episodes < 1:
        raise UsageError(f"there must be at least 1 episode of evaluation, not {episodes}")
    if (weights is not None) != (method == "ppo_keypoints"):
        raise UsageError("weights are needed by ppo_keypoints, and by no other method")
