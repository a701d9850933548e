"""The stacker, and where its objects are: each geom's own pixels against its place through the camera."""

from __future__ import annotations

import importlib.util
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from kpagent.envs.making import make_env, make_vector_env
from kpagent.envs.objects import locate_objects
from kpagent.envs.objects.stacker import GEOMS, stacker_objects
from kpagent.envs.stacker import STACKER_ID, make_stacker
from kpagent.errors import UsageError

pytest.importorskip("dm_control")


@pytest.fixture(scope="module")
def stacker() -> Any:
    env = make_env(STACKER_ID)
    yield env
    env.close()


def act(env: Any, steps: int, seed: int) -> None:
    env.reset(seed=seed)
    env.action_space.seed(seed)
    for _ in range(steps):
        env.step(env.action_space.sample())


def pixels_of(physics: Any, geom: str, height: int, width: int) -> np.ndarray:
    """(height, width) bool: the pixels of a geom when nothing is in front of it."""
    index = physics.model.name2id(geom, "geom")
    groups = physics.model.geom_group.copy()
    physics.model.geom_group[:] = 5
    physics.model.geom_group[index] = 0
    image = physics.render(height, width, camera_id=0, segmentation=True)
    physics.model.geom_group[:] = groups
    return image[..., 0] == index


@pytest.mark.parametrize(("height", "width"), [(84, 84), (240, 320)])
def test_objects_are_at_the_centre_of_their_pixels(height: int, width: int) -> None:
    env: Any = make_env(STACKER_ID, height=height, width=width)
    size = np.array([width, height])
    for seed in range(4):
        act(env, 25 * seed, seed)
        for name, xy in stacker_objects(env).items():
            rows, columns = np.nonzero(pixels_of(env.unwrapped.physics, GEOMS[name], height, width))
            if np.isnan(xy).any():
                # Of what is centred outside, at most a part that touches the edge is seen.
                touches = {0, width - 1} & set(columns.tolist()) or {0, height - 1} & set(rows.tolist())
                assert not len(rows) or touches
                continue
            inside = columns.min() > 0 and columns.max() < width - 1 and rows.min() > 0 and rows.max() < height - 1
            box = np.array([columns.min() + columns.max() + 1, rows.min() + rows.max() + 1])
            if inside:
                assert np.abs((box / size - 1 - xy) * size / 2).max() <= 1
    env.close()


def test_what_is_outside_of_the_picture_is_absent(stacker: Any) -> None:
    act(stacker, 0, 0)
    physics = stacker.unwrapped.physics
    with physics.reset_context():
        physics.named.data.qpos["box2_x"] = 0.6
        physics.named.data.qpos["box1_x"] = 0.2
    objects = stacker_objects(stacker)
    assert np.isnan(objects["box_2"]).all()
    assert objects["box_1"][0] == pytest.approx((0.2 - 0.05) / 0.4, abs=1e-6)


def test_frames_episodes_and_seeds(stacker: Any) -> None:
    first, _ = stacker.reset(seed=3)
    frame = stacker.render()
    assert (frame.shape, frame.dtype) == ((84, 84, 3), np.uint8)
    again, _ = stacker.reset(seed=3)
    following, _ = stacker.reset()
    for key, value in first.items():
        np.testing.assert_array_equal(again[key], value)
    assert not np.array_equal(following["box_pos"], first["box_pos"])
    action, length, ended = np.zeros(5), 0, False
    while not ended:
        _, reward, terminated, truncated, _ = stacker.step(action)
        assert 0 <= reward <= 4
        ended, length = terminated or truncated, length + 1
    assert (length, terminated, truncated) == (250, False, True)


def test_boxes_are_seen_large_enough(stacker: Any) -> None:
    act(stacker, 10, 0)
    columns = np.flatnonzero(pixels_of(stacker.unwrapped.physics, "box0", 84, 84).any(0))
    assert columns.max() - columns.min() + 1 >= 4


def test_it_keeps_to_gymnasium(stacker: Any) -> None:
    with warnings.catch_warnings():
        # Unbounded observations are DeepMind Control's.
        warnings.filterwarnings("ignore", ".*A Box observation space (min|max)imum value is.*")
        check_env(make_env(STACKER_ID).unwrapped)
    copy = gym.make(stacker.spec)
    assert copy.spec is not None
    assert copy.spec.id == STACKER_ID
    copy.close()
    env = make_vector_env(STACKER_ID, 2)
    env.reset(seed=0)
    frames: Any = env.render()
    assert [frame.shape for frame in frames] == [(84, 84, 3)] * 2
    assert (frames[0] != frames[1]).any()
    env.close()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"render_mode": "human"}, "rgb_array"), ({"height": 0}, "at least one row"), ({"width": -1}, "one column")],
)
def test_wrong_settings_get_one_line(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        make_stacker(**wrong)
    assert "\n" not in str(caught.value)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "dm_control" else find(name))
    with pytest.raises(UsageError, match=r"needs dm_control: pip install 'kpagent\[control\]'"):
        make_env(STACKER_ID)


def test_an_id_close_to_it_is_answered_with_it() -> None:
    with pytest.raises(UsageError, match=STACKER_ID):
        make_env("kpagent/Stacker3-v0")


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "ALE/Seaquest-v5", "ALE/MontezumaRevenge-v5", STACKER_ID])
def test_objects_of_any_environment_are_located(env_id: str) -> None:
    env = make_env(env_id)
    env.reset(seed=0)
    names = None
    for _ in range(3):
        env.step(env.action_space.sample())
        objects = locate_objects(env)
        assert all(xy.shape == (2,) and not (np.abs(xy) > 1).any() for xy in objects.values())
        assert names in (None, list(objects))
        names = list(objects)
    assert any(np.isfinite(xy).all() for xy in objects.values())
    env.close()


def test_an_environment_without_ground_truth_is_told_those_that_have_it() -> None:
    with pytest.raises(UsageError, match=r"no ground truth for CartPole-v1; .*ALE/Pong-v5.*Stacker4-v0") as caught:
        locate_objects(gym.make("CartPole-v1"))
    assert "\n" not in str(caught.value)
