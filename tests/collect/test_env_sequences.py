from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import pytest
from counting_env import SIZE, CountingEnv, episode_length
from gymnasium import spaces

from kpagent.collect import env_sequences
from kpagent.collect.env_sequences import Play, PlayConfig
from kpagent.collect.sequence_making import write_sequences
from kpagent.collect.sequences import Sequences
from kpagent.errors import UsageError
from kpagent.frames import resize

SMALL = PlayConfig(units=4, steps=60, size=SIZE, seed=7)


class Counting(CountingEnv):
    """Rendered, with a reward that says which step it followed, and an action that may be of any space."""

    def __init__(self, space: spaces.Space[Any] | None = None, mode: str | None = "rgb_array") -> None:
        super().__init__(3, image=False)
        self.render_mode = mode
        self.action_space = space or spaces.Discrete(3)
        self.actions: list[Any] = []

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = super().step(action)
        self.actions.append(action)
        return observation, float(self.steps), terminated, truncated, info


def pong() -> gym.Env[Any, Any]:
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gym.register_envs(ale_py)
    return gym.make("ALE/Pong-v5", render_mode="rgb_array", frameskip=4, repeat_action_probability=0.25)


def test_rows_are_what_was_shown_done_and_given() -> None:
    env = Counting()
    sequences = list(Play(env, SMALL).make(0, 4))
    done, episode = 0, 0
    expected = []
    while done < 4 * 60:
        length = min(episode_length(3, episode), 60 - done % 60)
        # An episode of a single frame is no sequence.
        if length >= 2:
            expected.append((episode, done, length))
        done, episode = done + length, episode + 1
    assert len(sequences) == len(expected)
    for sequence, (episode, first, length) in zip(sequences, expected, strict=True):
        # Every frame before an action, never the one after the last; the reward followed the action.
        assert sequence.frames[:, 0, 0].tolist() == [[3, episode, step] for step in range(length)]
        assert sequence.rewards is not None
        assert sequence.rewards.tolist() == [step + 1 for step in range(length)]
        assert sequence.actions is not None
        assert sequence.actions.dtype == np.float32
        np.testing.assert_array_equal(sequence.actions, np.eye(3)[env.actions[first : first + length]])


@pytest.mark.parametrize(
    ("space", "flat"),
    [
        (spaces.Box(-2, 2, (2, 2), np.float32), lambda action: action.reshape(-1)),
        (spaces.Discrete(4, start=1), lambda action: np.eye(4)[action - 1]),
        (spaces.MultiBinary(3), lambda action: action),
        (spaces.MultiDiscrete([2, 3]), lambda action: np.concatenate([np.eye(2)[action[0]], np.eye(3)[action[1]]])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_actions_are_rows_of_numbers(space: spaces.Space[Any], flat: Callable[[Any], np.ndarray]) -> None:
    env = Counting(space)
    rows = np.concatenate([sequence.actions for sequence in Play(env, PlayConfig(1, 30, SIZE, 1)).make(0, 1)])
    np.testing.assert_array_equal(rows, np.stack([flat(action) for action in env.actions]))


def steps_taken(env: gym.Env[Any, Any]) -> np.ndarray:
    assert isinstance(env, Counting)
    return np.array([[env.steps / 100, 0]])


def test_policies_are_labels_and_truth_is_located() -> None:
    env = Counting()
    policies = {"still": lambda observation, generator: 0, "wild": lambda observation, generator: generator.integers(1, 3)}
    play = Play(env, SMALL, policies=policies, truth_names=("steps",), locate=steps_taken)
    assert play.provenance.label_names == ("still", "wild")
    labels = []
    for unit in range(4):
        for sequence in play.make(unit, unit + 1):
            labels.append((unit, sequence.label))
            assert sequence.actions is not None
            assert sequence.truth is not None
            assert (sequence.actions[:, 0] == 1).all() == (unit % 2 == 0)
            np.testing.assert_allclose(sequence.truth[:, 0, 0], sequence.frames[:, 0, 0, 2] / 100)
    assert {label for _, label in labels} == {0, 1}
    assert all(label == unit % 2 for unit, label in labels)


def test_long_episodes_are_handed_over_in_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = list(Play(Counting(), SMALL).make(0, 2))
    monkeypatch.setattr(env_sequences, "_PIECE_FRAMES", 4)
    play = Play(Counting(), SMALL)
    pieces = list(play.make(0, 2))
    assert max(len(piece.frames) for piece in pieces) == 4
    np.testing.assert_array_equal(
        np.concatenate([one.frames for one in pieces]), np.concatenate([one.frames for one in whole])
    )
    assert sum(not piece.continues for piece in pieces) == len(whole)


def test_atari_is_made_again_from_any_unit_on(tmp_path: Path) -> None:
    config = PlayConfig(units=4, steps=40, size=32, seed=1)
    env = pong()
    write_sequences(tmp_path / "a.h5", Play(env, config), block=1)
    write_sequences(tmp_path / "b.h5", Play(pong, config), block=3)
    sequences = Sequences(tmp_path / "a.h5")
    assert sequences.digest == Sequences(tmp_path / "b.h5").digest
    assert (len(sequences), sequences.num_frames, sequences.action_dim) == (4, 160, 6)
    assert sequences.header["name"] == "ALE/Pong-v5"
    first, second = sequences.ordered(40, 2)["actions"]
    assert (first != second).any()

    # The third, played by hand.
    expected = next(iter(Play(pong, config).make(2, 3)))
    generator = np.random.default_rng((1, 2))
    generator.integers(2**31)
    env.reset(seed=int(generator.integers(2**31)))
    assert expected.actions is not None
    for frame, action in zip(expected.frames, expected.actions.argmax(axis=1), strict=True):
        np.testing.assert_array_equal(frame, resize(np.asarray(env.render()), 32))
        env.step(int(action))
    np.testing.assert_array_equal(sequences.ordered(40, 3)["frames"][2], expected.frames)


def test_envs_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(UsageError, match="render_mode='rgb_array', not None"):
        Play(Counting(mode=None))
    with pytest.raises(UsageError, match="Counting has actions in a Text space"):
        Play(Counting(spaces.Text(3)))
    with pytest.raises(UsageError, match="locate and truth_names"):
        Play(Counting(), truth_names=("ball",))

    class Grey(Counting):
        def render(self) -> np.ndarray:
            return super().render()[..., 0]

    with pytest.raises(UsageError, match=r"Grey renders uint8 \(16, 16\)"):
        list(Play(Grey()).make(0, 1))


def test_a_reward_that_is_no_number_is_refused(tmp_path: Path) -> None:
    class Lost(Counting):
        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            return CountingEnv.step(self, action)

    with pytest.raises(UsageError, match="NaN or infinity in rewards"):
        write_sequences(tmp_path / "a.h5", Play(Lost(), SMALL))


@pytest.mark.parametrize(
    "changes", [{"units": 0}, {"steps": 0}, {"size": 8}, {"seed": -1}, {"shortest": 2000}, {"steps": 2.0}], ids=str
)
def test_configurations_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        PlayConfig(**changes)
