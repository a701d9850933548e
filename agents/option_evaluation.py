"""Random options against random actions: whole games, of which nothing is learned (Transporter section 4.2.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kpagent.agents.intrinsic import most_controllable
from kpagent.agents.option_agent import OptionAgent
from kpagent.agents.option_clock import OptionClock, option_actions
from kpagent.agents.recurrence import State
from kpagent.envs.vec_env import GymnasiumVecEnv
from kpagent.errors import UsageError


@dataclass(frozen=True)
class Step:
    """One interaction of each of N copies, for whoever looks on."""

    episode: np.ndarray
    """(N,) int64, the index in `Episodes` of what each copy plays; -1 where it has played its share, and idles."""
    frames: np.ndarray
    """(N, S, S, 3) uint8, acted on."""
    actions: np.ndarray
    """(N,) int64."""
    rewards: np.ndarray
    """(N,) float32, the environment's own."""
    infos: Sequence[dict[str, Any]]
    """After the actions; where a game ended, those of its last interaction, as far as the environment gives them."""
    over: np.ndarray
    """(N,) bool, where an episode ended, with the game or cut off."""
    option: np.ndarray | None = None
    """(N, 2), keypoint and direction that were followed; None of random actions."""
    controllable: np.ndarray | None = None
    """(N,), the most controllable keypoint (Eq. 2) of `frames`; None of random actions."""


@dataclass(frozen=True)
class Episodes:
    """Whole games, those of the first copy before those of the second, each copy's in order."""

    scores: np.ndarray
    """(E,) float64, unclipped."""
    interactions: np.ndarray
    """(E,) int64."""
    cut: np.ndarray
    """(E,) bool, where an episode was cut off after as many interactions as were allowed."""


OnStep = Callable[[Step], None]


def play_options(
    agent: OptionAgent,
    players: GymnasiumVecEnv,
    episodes: int,
    *,
    longest: int | None = None,
    seed: Any = 0,
    on_step: OnStep | None = None,
) -> Episodes:
    """Play whole games with random options: the most controllable keypoint in a random direction, T interactions, greedily.

    As in training, the loss of a life, where `players` end trajectories with it, clears the agent's memory and begins a new
    option; the game goes on and counts as one. Every copy plays its share and no more: counting whichever games end first
    would favour short ones.

    Args:
        agent: of keypoint options.
        players: copies of an environment of frames, as `make_frame_players` makes them; they are reset.
        episodes: games altogether.
        longest: interactions after which a game is cut off; as long as it lasts without.
        seed: of the directions.
        on_step: is told of each interaction.

    Raises:
        UsageError: fewer than one episode, `longest` below 1, or players of another number of actions.
    """
    if players.action_space.n != agent.network.num_actions:  # type: ignore[attr-defined]
        wanted, found = agent.network.num_actions, players.action_space.n  # type: ignore[attr-defined]
        raise UsageError(f"the agent's options choose among {wanted} actions, and the environment has {found}")
    clock = OptionClock(players.num_envs, agent.num_keypoints, agent.commitment, np.random.default_rng(seed))
    state: State | None = None

    def act(frames: np.ndarray, first: np.ndarray) -> _Choice:
        nonlocal state
        values, state = agent.values(frames, first, state)
        clock.tick(first, values)
        return _Choice(option_actions(values, clock.option), clock.option.copy(), most_controllable(values).cpu().numpy())

    return _play(players, act, episodes, longest, on_step)


def play_random(
    players: GymnasiumVecEnv,
    episodes: int,
    *,
    longest: int | None = None,
    seed: Any = 0,
    on_step: OnStep | None = None,
) -> Episodes:
    """Play whole games with uniformly random primitive actions, counted as those of `play_options`.

    Args:
        players: as for `play_options`.
        episodes: as for `play_options`.
        longest: as for `play_options`.
        seed: of the actions.
        on_step: as for `play_options`.

    Raises:
        UsageError: fewer than one episode, or `longest` below 1.
    """
    generator, count = np.random.default_rng(seed), players.action_space.n  # type: ignore[attr-defined]
    return _play(players, lambda frames, _: _Choice(generator.integers(count, size=len(frames))), episodes, longest, on_step)


@dataclass(frozen=True)
class _Choice:
    actions: np.ndarray
    option: np.ndarray | None = None
    controllable: np.ndarray | None = None


def _play(
    players: GymnasiumVecEnv,
    act: Callable[[np.ndarray, np.ndarray], _Choice],
    episodes: int,
    longest: int | None,
    on_step: OnStep | None,
) -> Episodes:
    if episodes < 1:
        raise UsageError(f"the number of episodes must be at least 1, not {episodes}")
    if longest is not None and longest < 1:
        raise UsageError(f"an episode must be allowed at least 1 interaction, not {longest}")
    count = players.num_envs
    share = np.array([(episodes + index) // count for index in range(count)])
    # The next episode of each copy, up to the first of the copy after it.
    following, end = np.cumsum(share) - share, np.cumsum(share)
    played = Episodes(np.zeros(episodes), np.zeros(episodes, np.int64), np.zeros(episodes, bool))
    observations, first = players.reset(), np.ones(count, bool)
    while (following < end).any():
        frames = _frames(observations)
        choice = act(frames, first)
        observations, rewards, dones, infos = players.step(choice.actions)
        counted = np.flatnonzero(following < end)
        current = following[counted]
        played.scores[current] += rewards[counted]
        played.interactions[current] += 1
        over = np.array(["episode" in info for info in infos])
        cut = np.zeros(count, bool)
        if longest is not None:
            cut[counted] = played.interactions[current] == longest
            cut &= ~over
        played.cut[current] = cut[counted]
        if on_step is not None:
            episode = np.where(following < end, following, -1)
            step = (episode, frames, choice.actions, rewards, infos, over | cut, choice.option, choice.controllable)
            on_step(Step(*step))
        following[counted] += (over | cut)[counted]
        first = dones.astype(bool) | cut
        if cut.any():
            observations = players.begin_anew(cut)
    return played


def _frames(observations: Any) -> np.ndarray:
    frames = np.asarray(observations)
    # Atari's come in stacks of one.
    return frames[:, 0] if frames.ndim == 5 else frames
