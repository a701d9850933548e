"""How well an agent plays: the scores of whole games."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from kpagent.agents.keyqn import KeyQN


def play_games(
    agent: KeyQN, players: VecEnv, episodes: int, epsilon: float = 0.01, on_game: Callable[[int], None] | None = None
) -> np.ndarray:
    """Scores of whole games, unclipped, played almost greedily.

    Every environment plays its share and no more: counting whichever games end first would favour short ones.

    Args:
        agent: plays with its network as it is; its own games are not touched.
        players: environments that report `info["episode"]`, as those of `kpagent.envs.players.make_players` do.
        episodes: games altogether.
        epsilon: share of random actions.
        on_game: is told how many games have ended.

    Returns:
        (episodes,) float64.
    """
    count = players.num_envs
    left = np.array([(episodes + index) // count for index in range(count)])
    scores: list[float] = []
    generator = np.random.default_rng(0 if agent.seed is None else agent.seed)
    observation = players.reset()
    state, first = None, np.ones(count, bool)
    while (left > 0).any():
        values, state = agent.policy.q_values(observation, state, first)  # type: ignore[arg-type]
        greedy = values.argmax(dim=1).cpu().numpy()
        random = generator.integers(agent.q_net.num_actions, size=count)
        actions = np.where(generator.random(count) < epsilon, random, greedy)
        observation, _, first, infos = players.step(actions)
        for index in np.flatnonzero(first):
            game = infos[index].get("episode")
            if game is not None and left[index] > 0:
                left[index] -= 1
                scores.append(float(game["r"]))
                if on_game:
                    on_game(len(scores))
    return np.array(scores)
