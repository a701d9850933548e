"""Pong over a sliding texture: against the bare game, and against rolls of the texture."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

from kpagent.envs.making import make_env, make_vector_env
from kpagent.envs.objects import locate_objects
from kpagent.envs.sliding_background import PONG_SLIDING_ID, SlidingBackground, sliding_texture
from kpagent.errors import UsageError

BROWN = (144, 72, 17)
SPRITES = ((92, 186, 92), (213, 130, 74), (236, 236, 236))


def play(env: Any, seed: int, steps: int) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
    rng = np.random.default_rng(seed)
    frames, objects = [env.reset(seed=seed)[0]], [locate_objects(env)]
    for _ in range(steps):
        frames.append(env.step(int(rng.integers(6)))[0])
        objects.append(locate_objects(env))
    return np.array(frames), objects


def test_gymnasium_finds_nothing_wrong_and_the_spec_makes_it_again() -> None:
    env: Any = make_env(PONG_SLIDING_ID, speed=(1.0, -2.5), texture_seed=3, render_mode="rgb_array")
    assert env.unwrapped.ale.getFloat("repeat_action_probability") == 0
    with warnings.catch_warnings():
        # It warns of any wrapper.
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")
        check_env(env, skip_render_check=True)
    again: Any = gym.make(env.spec)
    np.testing.assert_array_equal(play(again, 5, 20)[0], play(env, 5, 20)[0])
    stepped = env.step(0)[0]
    np.testing.assert_array_equal(stepped, env.render())
    assert stepped.shape == (210, 160, 3)
    assert stepped.dtype == np.uint8


def test_the_seed_fixes_where_the_background_starts_and_slides() -> None:
    env: Any = make_env(PONG_SLIDING_ID)

    def start(seed: int | None) -> tuple[float, ...]:
        env.reset(seed=seed)
        return (*env.get_wrapper_attr("offset"), *env.get_wrapper_attr("velocity"))

    first = [start(seed) for seed in (0, *[None] * 15)]
    assert len({place[:2] for place in first}) == 16
    assert {place[2:] for place in first} == {(x, y) for x in (-3, 3) for y in (-2, 2)}
    assert start(1) not in first
    assert [start(seed) for seed in (0, *[None] * 15)] == first


def test_what_is_no_background_is_the_bare_game_and_the_rest_a_roll_of_the_texture() -> None:
    env: Any = make_env(PONG_SLIDING_ID)
    texture = env.get_wrapper_attr("texture")
    for seed in (0, 1):
        frames, objects = play(env, seed, 150)
        bare, bare_objects = play(make_env("ALE/Pong-v5"), seed, 150)
        offset, velocity = env.get_wrapper_attr("offset"), env.get_wrapper_attr("velocity")
        for step in range(1, 151):
            background = (bare[step] == BROWN).all(-1)
            assert background.mean() > 0.8
            np.testing.assert_array_equal(frames[step][~background], bare[step][~background])
            x, y = (offset - (150 - step) * velocity).astype(int)
            np.testing.assert_array_equal(frames[step][background], np.roll(texture, (y, x), (0, 1))[background])
            for name, xy in objects[step].items():
                np.testing.assert_array_equal(xy, bare_objects[step][name])
        assert np.isfinite([list(located.values()) for located in objects[-60:]]).any()


def test_the_first_frame_of_other_colours_slides_too() -> None:
    frame = make_env(PONG_SLIDING_ID).reset(seed=0)[0]
    bare = make_env("ALE/Pong-v5").reset(seed=0)[0]
    assert not (bare == BROWN).all(-1).any()
    assert (frame != bare).any(-1).mean() > 0.8


def test_it_wraps_round_and_fractions_add_up() -> None:
    env: Any = make_env(PONG_SLIDING_ID, speed=(20.0, 10.5), background=BROWN)
    env.reset(seed=0)
    shown, offsets = [], []
    for _ in range(57):
        shown.append(env.step(0)[0])
        offsets.append(env.get_wrapper_attr("offset"))
    # 8 steps of 20 columns are the width, 20 of 10.5 rows the height.
    np.testing.assert_array_equal(offsets[40], offsets[0])
    still = (shown[40] != shown[0]).any(-1)
    assert still.mean() < 0.02
    steps = np.diff(offsets, axis=0) % (160, 210)
    assert set(steps[:, 0]) in ({20}, {140})
    assert set(steps[:, 1]) in ({10, 11}, {199, 200})


def test_the_texture_is_smooth_periodic_and_unlike_any_sprite() -> None:
    texture = sliding_texture(210, 160, 0, 40.0)
    np.testing.assert_array_equal(texture, sliding_texture(210, 160, 0, 40.0))
    assert (texture != sliding_texture(210, 160, 1, 40.0)).mean() > 0.9
    wide = texture.astype(int)
    assert wide.std((0, 1)).min() > 30
    for axis in (0, 1):
        steps = np.abs(np.diff(wide, axis=axis, append=wide.take([0], axis)))
        seam = steps.take(-1, axis).mean()
        assert steps.mean() / 1.5 < seam < steps.mean() * 1.5
        assert steps.mean() < 8
    for colour in SPRITES:
        assert np.abs(wide - colour).max(-1).min() >= 36


def test_the_background_varies_far_more_than_the_paddles() -> None:
    env: Any = make_env(PONG_SLIDING_ID)
    sliding, bare = (play(one, 0, 120)[0][20:].astype(float) for one in (env, make_env("ALE/Pong-v5")))
    assert sliding.var(0).mean() > 20 * bare.var(0).mean()


def test_many_copies() -> None:
    env = make_vector_env(PONG_SLIDING_ID, 2)
    assert type(env) is SyncVectorEnv
    frames, _ = env.reset(seed=3)
    assert frames.shape == (2, 210, 160, 3)
    frames, *_ = env.step(np.array([0, 2]))
    for index in range(2):
        single = make_env(PONG_SLIDING_ID)
        single.reset(seed=3 + index)
        np.testing.assert_array_equal(frames[index], single.step([0, 2][index])[0])
    env.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speed": (1.0,)}, "speed must be two numbers"),
        ({"speed": (float("nan"), 0.0)}, "speed must be two numbers"),
        ({"contrast": -1.0}, "contrast must be at least 0"),
        ({"background": (0, 0, 256)}, "three levels"),
        ({"render_mode": "human"}, "'rgb_array' only"),
    ],
)
def test_mistakes_get_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make_env(PONG_SLIDING_ID, **settings)
    assert "\n" not in str(caught.value)


def test_only_frames_have_a_background() -> None:
    with pytest.raises(UsageError, match="needs RGB frames"):
        SlidingBackground(gym.make("ALE/Pong-v5", obs_type="grayscale"))


def test_any_game_can_be_wrapped() -> None:
    env = SlidingBackground(make_env("ALE/Breakout-v5"), speed=(1.0, 0.0))
    bare: Any = make_env("ALE/Breakout-v5")
    env.reset(seed=0), bare.reset(seed=0)
    frame, black = env.step(1)[0], (bare_frame := bare.step(1)[0]).any(-1) == 0
    np.testing.assert_array_equal(frame[~black], bare_frame[~black])
    assert (frame[black] != 0).any(-1).mean() > 0.9
    assert set(locate_objects(env)) == {"paddle", "ball"}
