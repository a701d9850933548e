from __future__ import annotations

from functools import partial

import ale_py
import gymnasium as gym
import numpy as np
import pytest
from counting_env import SIZE, CountingEnv, episode_length
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from scipy.stats import chisquare

from kpagent.collect.trajectories import PairSampler, draw_choices
from kpagent.errors import UsageError

MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]
LENGTH = 20


def vector_env(mode: AutoresetMode = AutoresetMode.NEXT_STEP, *, image: bool = True, num_envs: int = 3) -> SyncVectorEnv:
    return SyncVectorEnv([partial(CountingEnv, number, image) for number in range(num_envs)], autoreset_mode=mode)


def sampler_of(env: gym.vector.VectorEnv, **changes: int) -> PairSampler:
    return PairSampler(env, **{"image_size": SIZE, "trajectory_length": LENGTH, "seed": 0, **changes})


def trajectories(env: int, interactions: int) -> list[tuple[int, int, int]]:
    """(episode, first step, length) of each trajectory that ends within so many interactions, by plain counting."""
    found: list[tuple[int, int, int]] = []
    spent = episode = 0
    while True:
        for start in range(0, episode_length(env, episode), LENGTH):
            length = min(LENGTH, episode_length(env, episode) - start)
            spent += length
            if spent > interactions:
                return found
            found.append((episode, start, length))
        episode += 1


@pytest.mark.parametrize("image", [True, False], ids=["image", "rendered"])
@pytest.mark.parametrize("mode", MODES)
def test_each_trajectory_gives_one_pair_from_its_halves_and_none_straddles_a_reset(mode: AutoresetMode, image: bool) -> None:
    batch, spent = sampler_of(vector_env(mode, image=image)).sample(10_000, 3_000)
    assert 3_000 <= spent <= 3_002
    drawn: dict[int, list[tuple[int, int, int]]] = {0: [], 1: [], 2: []}
    for source, target in zip(batch.source[:, 0, 0].astype(int), batch.target[:, 0, 0].astype(int), strict=True):
        assert (source[:2] == target[:2]).all()
        drawn[source[0]].append((source[1], source[2], target[2]))
    for env, pairs in drawn.items():
        # Under NEXT_STEP envs lose a step a reset, so that each has spent its own share of the interactions.
        wanted = [one for one in trajectories(env, 3_000) if one[2] >= 2][: len(pairs)]
        assert 30 < len(pairs) == len(wanted)
        for (episode, source, target), (wanted_episode, start, length) in zip(pairs, wanted, strict=True):
            assert episode == wanted_episode
            assert start <= source < start + length // 2 <= target < start + length


@pytest.mark.parametrize("mode", MODES)
def test_interactions_count_actions_that_were_acted_on(mode: AutoresetMode) -> None:
    env = vector_env(mode, num_envs=1)
    _, spent = sampler_of(env).sample(10_000, 2_000)
    inner = env.envs[0].unwrapped
    assert isinstance(inner, CountingEnv)
    assert spent == 2_000 == inner.steps + sum(episode_length(0, episode) for episode in range(inner.episode))


def test_pairs_carry_their_episode() -> None:
    batch, _ = sampler_of(vector_env(), first_episode=1000).sample(10_000, 3_000)
    names = [tuple(frame) for frame in batch.source[:, 0, 0, :2]]
    assert len(set(zip(names, batch.episode, strict=True))) == len(set(names)) == len(set(batch.episode))
    assert batch.episode.min() >= 1000


def test_what_was_played_does_not_depend_on_how_it_is_asked_for() -> None:
    whole, _ = sampler_of(vector_env()).sample(60, 100_000)
    piecewise = sampler_of(vector_env())
    parts = [piecewise.sample(7, 50)[0] for _ in range(80)]
    joined = np.concatenate([part.target for part in parts])[:60]
    assert np.array_equal(joined, whole.target)


def test_seed_decides() -> None:
    one, again, other = (sampler_of(vector_env(), seed=seed).sample(50, 100_000)[0] for seed in (1, 1, 2))
    assert np.array_equal(one.source, again.source)
    assert not np.array_equal(one.source, other.source)


def test_frames_are_rendered_only_where_one_may_be_chosen() -> None:
    env = vector_env(image=False, num_envs=1)
    PairSampler(env, image_size=SIZE, trajectory_length=50, seed=0).sample(10_000, 2_000)
    inner = env.envs[0].unwrapped
    assert isinstance(inner, CountingEnv)
    assert inner.renders < 0.6 * 2_000


def test_frames_are_resized_and_in_rgb() -> None:
    spaces = (gym.spaces.Box(0, 255, (*batch, SIZE, SIZE), np.uint8) for batch in ((3,), ()))
    grey = gym.wrappers.vector.TransformObservation(vector_env(), lambda frames: frames[..., 2].copy(), *spaces)
    batch, _ = PairSampler(grey, image_size=32, trajectory_length=LENGTH, seed=0).sample(5, 10_000)
    assert batch.source.shape == batch.target.shape == (5, 32, 32, 3)
    assert (batch.source == batch.source[..., :1]).all()


def test_a_vector_env_in_other_processes() -> None:
    env = AsyncVectorEnv([partial(CountingEnv, number) for number in range(3)])
    batch, _ = sampler_of(env).sample(20, 10_000)
    env.close()
    assert np.array_equal(batch.source, sampler_of(vector_env()).sample(20, 10_000)[0].source)


@pytest.mark.parametrize("length", [2, 7, 12])
def test_choices_are_uniform_in_each_half_and_independent(length: int) -> None:
    generator = np.random.default_rng(0)
    half = length // 2
    counts = np.zeros((half, length - half))
    for _ in range(4_000):
        first, second = draw_choices(12, generator)
        counts[first[length], second[length] - half] += 1
    assert counts.sum() == 4_000
    assert counts.size == 1 or chisquare(counts.ravel()).pvalue > 1e-3


def test_few_frames_are_held() -> None:
    sampler = PairSampler(vector_env(num_envs=1), image_size=SIZE, trajectory_length=100, seed=0)
    held = []
    for _ in range(3_000):
        sampler.sample(10_000, 1)
        held.append(len(sampler._trajectories[0].frames))
    assert max(held) <= 25


def test_refused_envs() -> None:
    with pytest.raises(UsageError, match="vector env"):
        sampler_of(CountingEnv(0))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="DISABLED"):
        sampler_of(vector_env(AutoresetMode.DISABLED))
    with pytest.raises(UsageError, match='render_mode="rgb_array"'):
        sampler_of(gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"))


def test_refused_renderings() -> None:
    class Text(CountingEnv):
        def render(self) -> str:  # type: ignore[override]
            return "no frame"

    with pytest.raises(UsageError, match="returned str"):
        sampler_of(SyncVectorEnv([partial(Text, 0, False)])).sample(1, 100)


def test_env_that_returns_a_part_of_its_envs() -> None:
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    env = ale_py.AtariVectorEnv("pong", 4, batch_size=2)
    with pytest.raises(UsageError, match="batch_size"):
        sampler_of(env)
    env.close()
