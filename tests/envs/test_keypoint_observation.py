"""Keypoints in place of pixels: on real environments, through every way that Gymnasium and Stable-Baselines3 use them."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import ale_py
import cloudpickle  # type: ignore[import-untyped]
import cv2
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation, GrayscaleObservation, ResizeObservation

from kpagent.envs import KeypointObservation, KeypointVectorObservation
from kpagent.envs.atari import make_atari_vector
from kpagent.envs.making import make_env, make_vector_env
from kpagent.errors import UsageError
from kpagent.keypoints import Keypoints
from kpagent.perception.transporter import Transporter, TransporterConfig

K = 4


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    Transporter(TransporterConfig.fast(K)).save(path)
    return path


@pytest.fixture(scope="module")
def model(weights: Path) -> Transporter:
    return Transporter.load(weights)


def pong(weights: Any, **options: Any) -> Any:
    return KeypointObservation(make_env("ALE/Pong-v5"), weights, device="cpu", **options)


class CountingEnv(gym.Env):
    """Its frame is a column of white that stands where the count of steps says; an episode is `length` steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, length: int = 8, image: bool = True, first: int = 0, render_mode: str | None = None) -> None:
        self.length, self.image, self.first, self.render_mode = length, image, first, render_mode
        self.action_space = gym.spaces.Discrete(2)
        box = gym.spaces.Box(0, 255, (32, 64, 3), np.uint8)
        self.observation_space = box if image else gym.spaces.Box(0, 1e6, (1,), np.float32)
        self.count = first

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = self.first
        return self.observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return self.observe(), 1.0, self.count - self.first >= self.length, False, {"count": self.count}

    def observe(self) -> np.ndarray:
        return self.render() if self.image else np.array([self.count], np.float32)

    def render(self) -> np.ndarray:
        frame = np.zeros((32, 64, 3), np.uint8)
        frame[:, self.count % 64] = 255
        return frame


class ColumnReader:
    """A perception model that reads `CountingEnv`: x is the centre of the white column."""

    num_keypoints = 1
    feature_dim = 2
    calls = 0

    def encode(self, frames: np.ndarray, *, features: bool = True) -> Keypoints:
        self.calls += 1
        assert frames.dtype == np.uint8
        assert frames.shape[1:] == (32, 64, 3)
        column = frames[:, 0, :, 0].argmax(axis=1)
        xy = np.stack([(2 * column + 1) / 64 - 1, np.zeros(len(frames))], axis=-1)[:, None]
        seen = np.full((len(frames), 1, 2 if features else 0), 7.0)
        return Keypoints(xy, np.ones((len(frames), 1)), seen)


def count_seen(observation: Any) -> np.ndarray:
    return np.round(((observation["xy"][..., 0, 0] + 1) * 64 - 1) / 2).astype(int)


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("features", [False, True])
def test_the_observation_is_what_the_model_says_of_the_frame(
    model: Transporter, weights: Path, flatten: bool, features: bool
) -> None:
    bare = make_env("ALE/Pong-v5")
    env = pong(weights, flatten=flatten, features=features)
    frame, observation = bare.reset(seed=1)[0], env.reset(seed=1)[0]
    for action in (2, 3, 2, 2, 0):
        expected = model.encode(frame[None], features=features)[0].numpy()
        if flatten:
            np.testing.assert_array_equal(observation, expected.flatten())
        else:
            assert set(observation) == {"xy", "presence"} | ({"features"} if features else set())
            for name, value in observation.items():
                np.testing.assert_array_equal(value, getattr(expected, name))
        assert observation in env.observation_space
        frame, observation = bare.step(action)[0], env.step(action)[0]


def test_spaces_have_the_published_shapes_and_bounds(weights: Path) -> None:
    depth = TransporterConfig.fast(K).filters[-1]
    space = pong(weights).observation_space
    assert {name: part.shape for name, part in space.items()} == {"xy": (K, 2), "presence": (K,), "features": (K, depth)}
    assert (space["xy"].low == -1).all()
    assert (space["xy"].high == 1).all()
    assert (space["presence"].low == 0).all()
    assert (space["presence"].high == 1).all()
    flat = pong(weights, flatten=True).observation_space
    assert flat.shape == (K * (3 + depth),)
    np.testing.assert_array_equal(flat.low.reshape(K, -1)[:, :4], [[-1, -1, 0, -np.inf]] * K)
    assert pong(weights, flatten=True, features=False).observation_space.shape == (K * 3,)


def test_every_frame_arrives_at_its_own_step() -> None:
    for image in (True, False):
        env = KeypointObservation(CountingEnv(image=image, render_mode="rgb_array"), ColumnReader())
        assert count_seen(env.reset()[0]) == 0
        for step in range(1, 6):
            observation, _, _, _, info = env.step(0)
            assert count_seen(observation) == info["count"] == step
        np.testing.assert_array_equal(observation["features"], np.full((1, 2), 7, np.float32))
        assert observation["xy"].dtype == np.float32


# That it is a wrapper, that features have no bounds and that a Dict holds matrices are remarks, not faults.
@pytest.mark.filterwarnings(
    "ignore:.*different from the unwrapped version",
    "ignore:.*infinity. This is probably too",
    "ignore:.*unconventional shape",
)
@pytest.mark.parametrize("flatten", [False, True])
def test_checkers_of_gymnasium_and_stable_baselines_pass(weights: Path, flatten: bool) -> None:
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    check_env(pong(weights, flatten=flatten), skip_render_check=True)
    rendered = KeypointObservation(make_env("ALE/Pong-v5", obs_type="ram"), weights, flatten=flatten, features=False)
    check_env(rendered, skip_render_check=True)
    sb3_check_env(pong(weights, flatten=flatten))


@pytest.mark.parametrize("kind", ["path", "text", "model"])
def test_an_env_is_made_again_from_its_spec(weights: Path, model: Transporter, kind: str) -> None:
    keypoints = {"path": weights, "text": str(weights), "model": model}[kind]
    env = pong(keypoints, flatten=True, features=False)
    again = gym.make(env.spec)
    assert isinstance(again, KeypointObservation)
    assert again.observation_space == env.observation_space
    np.testing.assert_array_equal(again.reset(seed=3)[0], env.reset(seed=3)[0])
    if kind != "model":
        from_json = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
        np.testing.assert_array_equal(from_json.reset(seed=3)[0], env.reset(seed=3)[0])


def test_a_relative_path_still_leads_there_from_another_folder(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(weights.parent)
    spec = pong(weights.name).spec
    monkeypatch.chdir("/")
    assert gym.make(spec).get_wrapper_attr("perception").num_keypoints == K


def test_one_seed_gives_one_run(weights: Path) -> None:
    runs = []
    for _ in range(2):
        env = pong(weights, flatten=True)
        env.action_space.seed(5)
        seen = [env.reset(seed=5)[0]]
        seen += [env.step(env.action_space.sample())[0] for _ in range(20)]
        runs.append(np.stack(seen))
    np.testing.assert_array_equal(runs[0], runs[1])


@pytest.mark.parametrize(("context", "count"), [("fork", 2), ("spawn", 1)])
def test_it_travels_into_worker_processes(weights: Path, context: str, count: int) -> None:
    maker = partial(pong, weights)
    # OpenCV's own threads are awake in this process, and do not follow into a fork.
    threads = cv2.getNumThreads()
    for _ in range(5):
        cv2.resize(np.zeros((4000, 4000, 3), np.uint8), (1999, 1999))
    time.sleep(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of every fork beside threads
        workers = AsyncVectorEnv([maker] * count, context=context)
    here = SyncVectorEnv([maker] * count)
    try:
        seen, expected = workers.reset(seed=2)[0], here.reset(seed=2)[0]
        for _ in range(3):
            for name in ("xy", "presence", "features"):
                np.testing.assert_allclose(seen[name], expected[name], atol=1e-3)
            actions = np.arange(2, 2 + count)
            seen, expected = workers.step(actions)[0], here.step(actions)[0]
        assert cv2.getNumThreads() == threads
    finally:
        workers.close()


def test_a_fork_does_not_hang_where_the_model_ran_on_several_threads_before(weights: Path) -> None:
    code = f"""
import torch; torch.set_num_threads(2)
from functools import partial
from gymnasium.vector import AsyncVectorEnv
from kpagent.envs import KeypointObservation
from kpagent.envs.making import make_env
def make(): return KeypointObservation(make_env("ALE/Pong-v5"), {str(weights)!r}, device="cpu")
if __name__ == "__main__":
    make().reset(seed=0)
    env = AsyncVectorEnv([make] * 2, context="fork")
    env.reset(seed=0); env.step([0, 0]); env.close()
"""
    subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", code], check=True, timeout=180)


def test_a_maker_with_a_model_pickles(model: Transporter) -> None:
    maker = cloudpickle.loads(cloudpickle.dumps(partial(pong, model, flatten=True)))
    np.testing.assert_array_equal(maker().reset(seed=0)[0], pong(model, flatten=True).reset(seed=0)[0])


def vector_of_counters(kind: type, mode: AutoresetMode, image: bool = True) -> gym.vector.VectorEnv:
    makers = [partial(CountingEnv, 3 + index, image, 10 * index, "rgb_array") for index in range(3)]
    return kind(makers, autoreset_mode=mode)


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("flatten", [False, True])
def test_a_vector_env_is_the_single_env_three_times(kind: type, mode: AutoresetMode, flatten: bool) -> None:
    reader = ColumnReader()
    env = KeypointVectorObservation(vector_of_counters(kind, mode), reader, flatten=flatten)
    makers = [
        partial(
            lambda index: KeypointObservation(
                CountingEnv(3 + index, True, 10 * index, "rgb_array"), ColumnReader(), flatten=flatten
            ),
            index,
        )
        for index in range(3)
    ]
    expected = SyncVectorEnv(makers, autoreset_mode=mode)
    assert env.observation_space == expected.observation_space
    assert env.single_observation_space == expected.single_observation_space
    (seen, info), (truth, truth_info) = env.reset(seed=0), expected.reset(seed=0)
    try:
        for step in range(12):
            assert gym.utils.env_checker.data_equivalence(seen, truth, exact=True)
            assert reader.calls == step + 1
            assert ("final_obs" in info) == ("final_obs" in truth_info)
            if "final_obs" in info:
                np.testing.assert_array_equal(info["_final_obs"], truth_info["_final_obs"])
                for found, wanted in zip(info["final_obs"], truth_info["final_obs"], strict=True):
                    assert (found is None) == (wanted is None)
                    assert wanted is None or gym.utils.env_checker.data_equivalence(found, wanted, exact=True)
            actions = np.zeros(3, np.int64)
            seen, rewards, terminated, truncated, info = env.step(actions)
            truth, *others, truth_info = expected.step(actions)
            for found, wanted in zip((rewards, terminated, truncated), others, strict=True):
                np.testing.assert_array_equal(found, wanted)
    finally:
        env.close()


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_a_vector_env_renders_where_it_must(kind: type) -> None:
    env = KeypointVectorObservation(vector_of_counters(kind, AutoresetMode.NEXT_STEP, image=False), ColumnReader())
    try:
        np.testing.assert_array_equal(count_seen(env.reset()[0]), [0, 10, 20])
        np.testing.assert_array_equal(count_seen(env.step(np.zeros(3, np.int64))[0]), [1, 11, 21])
    finally:
        env.close()
    with pytest.raises(UsageError, match="NEXT_STEP"):
        KeypointVectorObservation(vector_of_counters(SyncVectorEnv, AutoresetMode.SAME_STEP, image=False), ColumnReader())


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_the_last_frames_of_atari_episodes(model: Transporter, mode: AutoresetMode) -> None:
    options: dict[str, Any] = {"autoreset_mode": mode, "max_num_frames_per_episode": 40}
    bare, inner = (make_atari_vector("ALE/Breakout-v5", 3, **options) for _ in range(2))
    env = KeypointVectorObservation(inner, model, features=False)
    frames, seen = bare.reset(seed=0)[0], env.reset(seed=0)[0]
    ends = 0
    for step in range(25):
        np.testing.assert_allclose(seen["xy"], model.encode(frames[:, 0]).xy, atol=1e-3)
        actions = np.full(3, step % 4)
        frames, _, terminated, truncated, bare_info = bare.step(actions)
        seen, *_, info = env.step(actions)
        assert seen["xy"].shape == (3, K, 2)
        if "final_obs" in info:
            ends += 1
            np.testing.assert_array_equal(info["_final_obs"], terminated | truncated)
            for index in np.flatnonzero(terminated | truncated):
                expected = model.encode(bare_info["final_obs"][index])
                np.testing.assert_allclose(info["final_obs"][index]["xy"], expected.xy[0], atol=1e-3)
    assert (ends > 0) == (mode == AutoresetMode.SAME_STEP)


def test_one_frame_has_one_set_of_keypoints_whatever_the_batch(weights: Path) -> None:
    for size in (2, 16):
        env = KeypointVectorObservation(make_atari_vector("ALE/Pong-v5", size, noop_max=0), weights, device="cpu")
        single = pong(weights)
        seen, expected = env.reset(seed=0)[0], single.reset(seed=0)[0]
        for action in (2, 3):
            for name, value in expected.items():
                np.testing.assert_allclose(seen[name], np.broadcast_to(value, seen[name].shape), atol=1e-3)
            seen, expected = env.step(np.full(size, action))[0], single.step(action)[0]


def test_frames_of_every_layout_are_seen(model: Transporter) -> None:
    def first(env: gym.Env) -> np.ndarray:
        seen, _ = KeypointObservation(env, model, features=False, flatten=True).reset(seed=0)
        return seen

    plain = first(make_env("ALE/Pong-v5"))
    np.testing.assert_array_equal(first(FrameStackObservation(make_env("ALE/Pong-v5"), 4)), plain)
    np.testing.assert_array_equal(first(make_env("ALE/Pong-v5", obs_type="ram")), plain)
    grey = first(GrayscaleObservation(make_env("ALE/Pong-v5")))
    np.testing.assert_array_equal(first(FrameStackObservation(GrayscaleObservation(make_env("ALE/Pong-v5")), 2)), grey)
    assert np.abs(first(ResizeObservation(make_env("ALE/Pong-v5"), (84, 84))) - plain).max() < 0.05


def test_a_vector_env_of_atari_may_shrink_the_frames_itself(model: Transporter) -> None:
    size = model.image_size
    shrinking = make_atari_vector("ALE/Pong-v5", 2, img_height=size, img_width=size)
    seen = KeypointVectorObservation(shrinking, model).reset(seed=0)[0]
    expected = KeypointVectorObservation(make_atari_vector("ALE/Pong-v5", 2), model).reset(seed=0)[0]
    np.testing.assert_array_equal(seen["xy"], expected["xy"])


@pytest.mark.parametrize(("policy", "flatten"), [("MultiInputPolicy", False), ("MlpPolicy", True)])
def test_ppo_of_stable_baselines_trains(weights: Path, policy: str, flatten: bool) -> None:
    from stable_baselines3 import PPO

    agent = PPO(policy, pong(weights, flatten=flatten), n_steps=64, batch_size=32, n_epochs=2, seed=0, device="cpu")
    before = [parameter.detach().clone() for parameter in agent.policy.parameters()]
    agent.learn(128)
    after = list(agent.policy.parameters())
    assert all(bool(parameter.isfinite().all()) for parameter in after)
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_an_unknown_name_or_path_is_one_clear_line(tmp_path: Path) -> None:
    vector = make_atari_vector("ALE/Pong-v5", 1)
    for keypoints in ("no-such-game", tmp_path / "absent.safetensors"):
        for wrap in (pong, partial(KeypointVectorObservation, vector)):
            with pytest.raises(UsageError, match=r"no-such-game|absent") as caught:
                wrap(keypoints)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keypoints", [None, 3, object(), np.zeros(3)])
def test_what_is_no_model_is_refused(keypoints: Any) -> None:
    with pytest.raises(UsageError, match="perception model"):
        pong(keypoints)


def test_an_unknown_device_is_refused(weights: Path, model: Transporter) -> None:
    for keypoints in (weights, model):
        with pytest.raises(UsageError, match="no-device"):
            KeypointObservation(make_env("ALE/Pong-v5"), keypoints, device="no-device")


def test_an_env_with_neither_image_nor_rendering_is_refused_with_the_reason(model: Transporter) -> None:
    with pytest.raises(UsageError, match=r"\(128,\).*render_mode=\"rgb_array\""):
        KeypointObservation(make_env("ALE/Pong-v5", obs_type="ram", render_mode=None), model)
    with pytest.raises(UsageError, match=r"\(4,\).*render_mode=\"rgb_array\""):
        KeypointObservation(gym.make("CartPole-v1"), model)
    with pytest.raises(UsageError, match="render_mode"):
        KeypointVectorObservation(make_vector_env("CartPole-v1", 2, render_mode=None), model)


def test_frames_in_floats_are_refused_with_the_cure(model: Transporter) -> None:
    env = gym.wrappers.RescaleObservation(
        gym.wrappers.DtypeObservation(make_env("ALE/Pong-v5"), np.float32), np.float32(0), np.float32(1)
    )
    with pytest.raises(UsageError, match=r"float32.*astype\(numpy.uint8\)"):
        KeypointObservation(env, model)


@pytest.mark.parametrize(
    "frame", [None, np.zeros((32, 64, 3)), np.zeros((32, 64), np.uint8), np.zeros((32, 64, 4), np.uint8)]
)
def test_what_is_rendered_must_be_rgb_bytes(model: Transporter, frame: Any) -> None:
    class Odd(CountingEnv):
        def render(self) -> Any:
            return frame

    env = KeypointObservation(Odd(image=False, render_mode="rgb_array"), model)
    with pytest.raises(UsageError, match=r"must render \(H, W, 3\) uint8"):
        env.reset()


def test_the_bare_import_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import envs"], capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=180
    )
    assert "import kpagent.envs, not envs" in done.stderr


def test_atari_vectors_are_the_class_of_ale() -> None:
    assert isinstance(make_vector_env("ALE/Pong-v5", 1), ale_py.AtariVectorEnv)
