"""Recordings of tasks with continuous actions: what is in them, from any process, and what is refused."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from kpagent.collect.sequence_making import write_sequences
from kpagent.collect.sequences import Sequences
from kpagent.envs.control_frames import FLAGS, make_frames_env
from kpagent.envs.control_sequences import ControlSequences, RecordingConfig
from kpagent.errors import UsageError

TASKS = ("dm_control/cartpole-balance-v0", "dm_control/cheetah-run-v0")
SMALL = RecordingConfig(sequences=3, length=4, before=6, repeat=2, seed=5)


@pytest.fixture(scope="module")
def source() -> Iterator[ControlSequences]:
    recorder = ControlSequences(TASKS, SMALL)
    yield recorder
    recorder.close()


class Ends(gym.Env[np.ndarray, Any]):
    """Frames that count; episodes of as many steps as it is told, with any space of actions."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012
    observation_space = spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, steps: int, space: spaces.Space[Any], render_mode: str | None = None) -> None:
        self.steps, self.action_space, self.render_mode = steps, space, render_mode
        self.taken: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.taken = []
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.taken.append(action)
        return np.zeros(1, np.float32), float(len(self.taken)), len(self.taken) >= self.steps, False, {}

    def render(self) -> Any:
        return np.full((20, 20, 3), len(self.taken), np.uint8)


def register(name: str, steps: int, space: spaces.Space[Any]) -> str:
    env_id = f"kpagent_test/{name}-v0"
    if env_id not in gym.registry:
        gym.register(env_id, entry_point=lambda **kwargs: Ends(steps, space, **kwargs), disable_env_checker=True)
    return env_id


def test_a_kept_camera_gives_the_frames_of_the_suite() -> None:
    for env_id in TASKS:
        env = make_frames_env(env_id, 48)
        physics = env.unwrapped.physics  # type: ignore[attr-defined]
        for seed in range(2):
            env.reset(seed=seed)
            env.action_space.seed(0)
            for _ in range(3):
                env.step(env.action_space.sample())
                expected = physics.render(48, 48, camera_id=0, render_flag_overrides=dict(FLAGS))
                np.testing.assert_array_equal(env.render(), expected)
        first: Any = env.render()
        env.step(env.action_space.sample())
        shown: Any = env.render()
        assert not np.array_equal(shown, first)
        env.close()


def test_a_sequence_is_what_was_shown_done_and_given(source: ControlSequences) -> None:
    from dm_control import suite

    for unit, (domain, task) in ((2, ("cartpole", "balance")), (3, ("cheetah", "run"))):
        (sequence,) = source.make(unit, unit + 1)
        # Played again, in the suite itself.
        generator = np.random.default_rng((5, unit))
        before, seed = int(generator.integers(7)), int(generator.integers(2**31))
        control = suite.load(domain, task)
        control.task._random = np.random.RandomState(seed)
        control.reset()
        spec = control.action_spec()
        assert sequence.actions is not None
        assert sequence.rewards is not None
        for step in range(before + 4):
            action = generator.uniform(spec.minimum, spec.maximum)
            if step >= before:
                row = step - before
                frame = control.physics.render(64, 64, camera_id=0, render_flag_overrides=dict(FLAGS))
                np.testing.assert_array_equal(sequence.frames[row], frame)
                np.testing.assert_array_equal(sequence.actions[row, : len(action)], action.astype(np.float32))
                assert not sequence.actions[row, len(action) :].any()
            reward = sum(control.step(action).reward for _ in range(2))
            if step >= before:
                assert sequence.rewards[row] == pytest.approx(reward, rel=1e-5)
        assert sequence.label == unit % 2
        control.close()


def test_a_recording_is_the_same_from_one_process_and_from_two(source: ControlSequences, tmp_path: Path) -> None:
    told: list[int] = []
    write_sequences(tmp_path / "one.h5", source, block=4)
    write_sequences(tmp_path / "two.h5", source, block=2, workers=2, listen=lambda progress: told.append(progress.done))
    one, two = Sequences(tmp_path / "one.h5"), Sequences(tmp_path / "two.h5")
    assert one.digest == two.digest
    assert told[-1] == source.count == 6
    assert (len(one), one.num_frames, one.action_dim, one.has_rewards) == (6, 24, 6, True)
    assert one.label_names == ("cartpole-balance", "cheetah-run")
    assert one.labels is not None
    assert one.labels.tolist() == [0, 1] * 3
    settings = one.header["config"]
    assert settings["actions"][TASKS[0]] == {"size": 1, "low": [-1.0], "high": [1.0]}
    assert settings["actions"][TASKS[1]]["size"] == 6
    assert {"dm-control", "mujoco"} <= settings["versions"].keys()
    # No environment travels.
    assert len(pickle.dumps(source)) < 5_000


def test_what_was_recorded_is_not_recorded_again(source: ControlSequences, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"

    def stop(progress: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sequences(path, source, block=2, listen=stop)
    (part,) = (tmp_path / ".a-parts").glob("*.h5")
    before = part.stat().st_mtime_ns
    kept: list[bool] = []
    write_sequences(
        path, source, block=2, resume=True, listen=lambda progress: kept.append(part.stat().st_mtime_ns == before)
    )
    assert all(kept)
    other = ControlSequences(TASKS[:1], dataclasses.replace(SMALL, seed=6))
    with pytest.raises(UsageError, match="was made with another"):
        write_sequences(path, other, block=2, resume=True)
    other.close()


def test_actions_stay_within_bounds_and_episodes_that_end_are_left_out() -> None:
    low, high = np.array([[-3.0, 1.0]], np.float32), np.array([[-2.0, 5.0]], np.float32)
    env_id = register("Bounds", 9, spaces.Box(low, high, dtype=np.float32))
    recorder = ControlSequences((env_id,), RecordingConfig(sequences=30, length=5, before=8, size=16))
    for sequence in recorder.make(0, 30):
        assert sequence.actions is not None
        assert sequence.rewards is not None
        assert ((low <= sequence.actions) & (sequence.actions <= high)).all()
        first = int(sequence.frames[0, 0, 0, 0])
        # The frame before an action, and the reward after it; the last one may end the episode.
        assert sequence.frames[:, 0, 0, 0].tolist() == list(range(first, first + 5))
        assert sequence.rewards.tolist() == list(range(first + 1, first + 6))
        assert 0 <= first <= 4
    recorder.close()
    short = ControlSequences((env_id,), RecordingConfig(sequences=1, length=12, size=16))
    with pytest.raises(UsageError, match="Bounds-v0 had no episode with 12 frames after up to 100 actions in 100 tries"):
        next(short.make(0, 1))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Discrete(3), "actions in a Discrete space, where a box of numbers is needed"),
        (spaces.Box(-np.inf, np.inf, (2,)), "actions without bounds"),
        (spaces.Box(0, 3, (2,), np.int64), "actions without bounds"),
    ],
    ids=["discrete", "unbounded", "whole"],
)
def test_other_actions_are_refused(space: spaces.Space[Any], message: str) -> None:
    env_id = register(f"Refused{abs(hash(message + str(space)))}", 3, space)
    with pytest.raises(UsageError, match=message):
        ControlSequences((env_id,))


def test_what_cannot_be_recorded_is_refused() -> None:
    with pytest.raises(UsageError, match="each once"):
        ControlSequences(())
    with pytest.raises(UsageError, match="each once"):
        ControlSequences(TASKS[:1] * 2)
    with pytest.raises(UsageError, match="did you mean dm_control/cheetah-run-v0"):
        ControlSequences(("dm_control/cheeta-run-v0",))


@given(
    st.sampled_from(["sequences", "length", "before", "repeat", "size", "seed"]),
    st.one_of(st.integers(max_value=-1), st.floats(), st.booleans(), st.text(), st.none()),
)
def test_broken_settings_get_one_line(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"^{name} must be [^\n]*$"):
        RecordingConfig(**{name: value})


def test_without_a_renderer_there_is_one_line() -> None:
    code = "import sys; from kpagent.cli import main; main(['rewards', 'record', '--out', sys.argv[1]])"
    environment = os.environ | {"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "99"}
    done = subprocess.run([sys.executable, "-c", code, "a.h5"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "dm_control/acrobot-swingup-v0 cannot be rendered on this machine: MUJOCO_EGL_DEVICE_ID" in done.stderr
