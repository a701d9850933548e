"""The learner of options in a small world: a red dot that actions move, and a green one that wanders by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from kpagent.agents.intrinsic import DIRECTIONS, most_controllable
from kpagent.agents.option_clock import option_actions
from kpagent.agents.option_learner import OptionLearner, OptionLearningConfig
from kpagent.agents.option_network import OptionNetwork, OptionNetworkConfig
from kpagent.collect.frame_replay import FRAME, FrameReplay, compress_frames
from kpagent.collect.replay import Segments
from kpagent.errors import UsageError
from kpagent.keypoints import Keypoints
from kpagent.perception.detector import KeypointDetector

SIZE, DOT, STRIDE = 36, 6, 4
MOVES = np.array([(0, 0), (0, -1), (1, 0), (0, 1), (-1, 0)])
"""In pixels of `STRIDE`, of each action; in no order that a network could guess."""
RED, GREEN = 0, 1
NETWORK = OptionNetworkConfig(image_size=SIZE, filters=(8, 16, 16), embedding=32, hidden=16)
LEARNING = OptionLearningConfig(learning_rate=2e-3, discount=0.7, tau=0.05, sequence_length=9, largest_move=0.3)


class World:
    """N copies; both dots stop at the walls.

    Attributes:
        places: (N, 2, 2) pixels (x, y) of the upper left corners of the two dots.
    """

    def __init__(self, num_envs: int, seed: int = 0) -> None:
        self.generator = np.random.default_rng(seed)
        self.places = self.generator.integers(SIZE - DOT + 1, size=(num_envs, 2, 2))

    def step(self, action: np.ndarray) -> None:
        wandering = self.generator.integers(len(MOVES), size=len(action))
        moves = STRIDE * np.stack([MOVES[action], MOVES[wandering]], axis=1)
        self.places = (self.places + moves).clip(0, SIZE - DOT)

    def frames(self) -> np.ndarray:
        frames = np.zeros((len(self.places), SIZE, SIZE, 3), np.uint8)
        for frame, dots in zip(frames, self.places.tolist(), strict=True):
            for colour, (x, y) in enumerate(dots):
                frame[y : y + DOT, x : x + DOT, colour] = 255
        return frames


class TruePerception:
    """Finds the middles of the two dots; the centre, where a frame is black."""

    def encode(self, frames: Any, *, features: bool = True) -> Keypoints:
        assert not features
        lit = np.asarray(frames)[..., :2].astype(np.float64).transpose(0, 3, 1, 2) + 1e-9
        centres = (2 * np.arange(SIZE) + 1) / SIZE - 1
        x = (lit.sum(2) * centres).sum(-1) / lit.sum((2, 3))
        y = (lit.sum(3) * centres).sum(-1) / lit.sum((2, 3))
        xy = torch.as_tensor(np.stack([x, y], axis=-1), dtype=torch.float32)
        return Keypoints(xy, torch.ones(xy.shape[:-1]), torch.zeros(*xy.shape[:-1], 0))


def true_perception() -> KeypointDetector:
    return cast(KeypointDetector, TruePerception())


def played(num_envs: int, interactions: int, ends: float = 0.02, seed: int = 0) -> FrameReplay:
    """A replay of random actions; episodes end by themselves, and both dots are elsewhere then."""
    state = {"hidden": (NETWORK.hidden,), "cell": (NETWORK.hidden,)}
    replay = FrameReplay(num_envs * interactions, num_envs, SIZE, state, {"option": ((2,), np.int64)})
    world, generator = World(num_envs, seed), np.random.default_rng(seed + 1)
    for _ in range(interactions):
        frames, action = world.frames(), generator.integers(len(MOVES), size=num_envs)
        world.step(action)
        over = generator.random(num_envs) < ends
        world.places[over] = generator.integers(SIZE - DOT + 1, size=(int(over.sum()), 2, 2))
        option = np.stack([generator.integers(2, size=num_envs), generator.integers(4, size=num_envs)], axis=1)
        before = {name: 0.1 * generator.normal(size=(num_envs, *shape)) for name, shape in state.items()}
        nothing = np.zeros(num_envs)
        replay.add(compress_frames(frames), before, action, nothing, over, np.zeros(num_envs, bool), {"option": option})
    return replay


def a_learner(**changes: Any) -> OptionLearner:
    return OptionLearner(OptionNetwork(2, len(MOVES), NETWORK), true_perception(), replace(LEARNING, **changes))


@pytest.fixture(scope="module")
def learned() -> OptionLearner:
    torch.manual_seed(0)
    learner, replay = a_learner(), played(8, 200)
    generator = np.random.default_rng(2)
    for _ in range(100):
        learner.update(replay.sample(LEARNING.batch_size, LEARNING.sequence_length, 0, generator))
    return learner


@torch.no_grad()
def rollout(learner: OptionLearner, world: World, option: tuple[int, int], interactions: int) -> Iterator[Tensor]:
    """Follow an option greedily in every copy; gives the values of each interaction."""
    count = len(world.places)
    state = learner.network.initial_state(count)
    for row in range(interactions):
        frames = torch.as_tensor(world.frames()).unsqueeze(1)
        values, state = learner.network(frames, torch.full((count, 1), row == 0), state)
        world.step(option_actions(values[:, 0], np.tile(option, (count, 1))))
        yield values[:, 0]


@pytest.mark.parametrize("direction", range(4), ids=DIRECTIONS)
def test_a_greedy_option_moves_its_keypoint_in_its_direction(learned: OptionLearner, direction: int) -> None:
    world = World(40)
    # Three moves from the middle no wall is in the way.
    world.places[:, RED] = world.generator.integers(12, 19, size=(40, 2))
    before = world.places.copy()
    for _ in rollout(learned, world, (RED, direction), 3):
        pass
    towards = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}[DIRECTIONS[direction]]
    moved = (world.places - before)[:, RED] @ np.array(towards)
    assert moved.mean() > 0.8 * 3 * STRIDE


def test_the_dot_that_actions_move_is_the_most_controllable(learned: OptionLearner) -> None:
    choices = torch.cat([most_controllable(values) for values in rollout(learned, World(60), (RED, 0), 6)])
    assert (choices == RED).float().mean() > 0.95


def rows_of(segments: Segments) -> Iterator[tuple[int, int]]:
    for sample, row in np.ndindex(segments.action.shape):
        if row + 1 < segments.action.shape[1] and segments.usable()[sample, row]:
            yield sample, row


@pytest.mark.parametrize("cut", [False, True])
def test_the_loss_is_that_of_the_definition(cut: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpagent.agents.option_learner.prefers_bf16", lambda device: False)
    # Whole moves, of 4 pixels, are 0.22 and count as none; those that a wall cuts short are kept.
    learner = a_learner(cut_traces=cut, trace=0.8, discount=0.9, reward_scale=5.0, largest_move=0.2)
    with torch.no_grad():
        for part in learner.target.parameters():
            part.add_(0.05 * torch.randn_like(part))
    segments = played(3, 60, ends=0.15).sample(16, 9, 0, np.random.default_rng(0))
    assert segments.first[:, 0].any()
    assert not segments.valid.all()
    assert segments.terminated.any()
    frames, length = segments.observation[FRAME], segments.action.shape[1]
    state = {name: torch.as_tensor(part) for name, part in segments.state.items()}
    first = torch.zeros(segments.first.shape, dtype=torch.bool)
    first[:, 0] = torch.as_tensor(segments.first[:, 0])
    with torch.no_grad():
        values, theirs = (net(torch.as_tensor(frames), first, state)[0].numpy() for net in (learner.network, learner.target))
    usable, moved_along, losses = segments.usable(), [], []
    for sample in range(len(frames)):
        xy = TruePerception().encode(frames[sample], features=False).xy.numpy()
        for keypoint, direction in np.ndindex(2, 4):
            axis, sign = direction // 2, 1 - 2 * (direction % 2)
            goal = np.zeros(length)
            for row in reversed(range(length - 1)):
                if not usable[sample, row]:
                    continue
                if segments.terminated[sample, row]:
                    # What the last interaction did is not known, and nothing follows on it.
                    goal[row] = 0
                    continue
                moves = xy[row + 1, keypoint] - xy[row, keypoint]
                move = float(sign * moves[axis]) if abs(moves).max() <= 0.2 else 0.0
                own = int(np.argmax(values[sample, row + 1, keypoint, direction]))
                value = theirs[sample, row + 1, keypoint, direction, own]
                trace = 0.8 if not cut or own == segments.action[sample, row + 1] else 0.0
                last = row + 2 == length or not usable[sample, row + 1]
                behind = value if last else (1 - trace) * value + trace * goal[row + 1]
                goal[row] = 5.0 * move + 0.9 * behind
                if segments.observation["option"][sample, row].tolist() == [keypoint, direction]:
                    moved_along.append((direction, move))
            for row in range(length - 1):
                if usable[sample, row]:
                    off = abs(values[sample, row, keypoint, direction, segments.action[sample, row]] - goal[row])
                    losses.append(0.5 * off**2 if off < 1 else off - 0.5)
    loss, figures = learner.loss(segments)
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-4)
    assert figures["loss"].item() == loss.item()
    for direction, found in enumerate(figures["displacement"].tolist()):
        wanted = [move for along, move in moved_along if along == direction]
        assert found == pytest.approx(np.mean(wanted), abs=1e-6)
    spans = [np.ptp(values[sample, row], axis=-1).mean(axis=-1) for sample, row in rows_of(segments)]
    np.testing.assert_allclose(figures["gap"], np.mean(spans, axis=0), rtol=1e-4)


def test_a_direction_that_nobody_followed_has_no_displacement() -> None:
    segments = played(2, 30).sample(4, 5, 0, np.random.default_rng(0))
    segments.observation["option"][..., 1] = 2
    displacement = a_learner().loss(segments)[1]["displacement"]
    assert displacement.isnan().tolist() == [True, True, False, True]


def test_an_update_moves_the_network_and_draws_the_target_along() -> None:
    learner = a_learner(tau=0.25)
    segments = played(2, 30).sample(4, 5, 0, np.random.default_rng(0))
    for update in range(2):
        before = {name: part.clone() for name, part in learner.network.state_dict().items()}
        slow = {name: part.clone() for name, part in learner.target.state_dict().items()}
        assert learner.updates == update
        learner.update(segments)
        for name, part in learner.network.state_dict().items():
            assert not torch.equal(part, before[name])
            torch.testing.assert_close(learner.target.state_dict()[name], 0.75 * slow[name] + 0.25 * part)
    assert learner.updates == 2
    assert not any(part.requires_grad or part.grad is not None for part in learner.target.parameters())


def test_one_seed_gives_one_result() -> None:
    def outcome() -> dict[str, Tensor]:
        torch.manual_seed(3)
        learner, replay, generator = a_learner(), played(2, 40), np.random.default_rng(0)
        for _ in range(3):
            learner.update(replay.sample(4, 5, 0, generator))
        return learner.network.state_dict()

    one, same = outcome(), outcome()
    assert set(one) == set(same)
    assert all(torch.equal(part, same[name]) for name, part in one.items())


def test_rewards_are_what_the_perception_of_the_day_sees() -> None:
    learner = a_learner()
    segments = played(2, 40).sample(8, 5, 0, np.random.default_rng(0))
    one = learner.loss(segments)[1]["displacement"]

    class Mirrored(TruePerception):
        def encode(self, frames: Any, *, features: bool = True) -> Keypoints:
            found = super().encode(frames, features=features)
            return Keypoints(-found.xy, found.presence, found.features)

    learner.perception = cast(KeypointDetector, Mirrored())
    torch.testing.assert_close(learner.loss(segments)[1]["displacement"], -one, equal_nan=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive; got 0.0"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"sequence_length": 1}, "sequence_length must be at least 2; got 1"),
        ({"discount": 1.0}, r"discount must be in \[0, 1\); got 1.0"),
        ({"trace": 1.1}, r"trace must be in \[0, 1\]; got 1.1"),
        ({"reward_scale": 0.0}, "reward_scale must be positive; got 0.0"),
        ({"largest_move": -0.1}, "largest_move must be positive; got -0.1"),
        ({"tau": 0.0}, r"tau must be in \(0, 1\]; got 0.0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be positive; got 0.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OptionLearningConfig(**changes)
