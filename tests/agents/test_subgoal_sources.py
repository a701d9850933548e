from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kpagent.agents.subgoal_readings import Reading, read_frames, read_keypoints, read_positions, read_puck
from kpagent.agents.subgoal_sources import (
    KeyInSubgoals,
    SurpriseSubgoals,
    TimeAgnosticSubgoals,
    imagine,
    last_repeated,
)
from kpagent.envs.pushing.environment import Pushing
from kpagent.envs.pushing.puck_world import PuckWorld
from kpagent.envs.synthetic import SYNTHETIC
from kpagent.errors import UsageError
from kpagent.planning.cem import CEMConfig
from kpagent.planning.costs import EmbeddingDistance
from kpagent.subgoals.configuration import CodecConfig, KeyInConfig
from kpagent.subgoals.keyin import Keyframes, KeyIn
from kpagent.subgoals.surprise import SurprisePredictor
from kpagent.subgoals.time_agnostic import TimeAgnosticPredictor

TIMES: dict[str, Any] = {"given": 1, "frames": 6, "keyframes": 3, "longest": 3, "longest_segment": 3}
SMALL: dict[str, Any] = TIMES | {"units": 8, "start_units": 8, "layers": 1, "latent": 2}
SEARCH = CEMConfig(samples=30, refits=3)
FAR = EmbeddingDistance()


def codes_of(size: int) -> KeyInConfig:
    return KeyInConfig.keypoints(size, **SMALL)


def brightness(frame: np.ndarray) -> Tensor:
    """What stands for keypoints: four numbers of a frame."""
    return torch.from_numpy(frame.reshape(4, -1).mean(axis=1, dtype=np.float32) / 255)


def frames(seed: int) -> tuple[np.ndarray, np.ndarray]:
    now, goal = np.random.default_rng(seed).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    return now, goal


def test_keyin_plans_the_way_that_ends_nearest_to_the_goal() -> None:
    torch.manual_seed(0)
    model, (now, goal) = KeyIn(codes_of(4)).eval(), frames(0)
    source = KeyInSubgoals(model, read_keypoints(brightness), search=SEARCH)
    way = source(now, goal, FAR, 3)
    assert way.seen.shape[1:] == (4,)
    assert 1 <= len(way.seen) <= 3
    assert way.pictures is None
    ends = last_repeated(model.sample(brightness(now)[None, None], 200, seed=5))[0, :, -1]
    assert way.cost == pytest.approx(float(FAR(way.seen[-1], brightness(goal))), abs=1e-5)
    assert way.cost < float(FAR(ends, brightness(goal)).median())
    again = source(now, goal, FAR, 3)
    assert torch.equal(again.seen, way.seen)


def test_keyframes_after_the_end_repeat_the_last_within() -> None:
    generator = np.random.default_rng(0)
    codes = torch.from_numpy(generator.normal(size=(2, 5, 4, 3)))
    times = torch.from_numpy(generator.integers(1, 5, (2, 5, 4)).cumsum(axis=-1))
    nothing = torch.zeros(2, 5, 4)
    found = last_repeated(Keyframes(codes[:, :, 0], codes, nothing.unsqueeze(-1), times, nothing, 9))
    for batch, sample in np.ndindex(2, 5):
        last = 0
        for number in range(4):
            if times[batch, sample, number] < 9:
                last = number
            assert torch.equal(found[batch, sample, number], codes[batch, sample, last])


def test_ways_are_without_repetitions_and_what_cannot_be_seen() -> None:
    torch.manual_seed(0)
    model, (now, goal) = KeyIn(codes_of(4)).eval(), frames(1)

    def hidden(codes: Tensor) -> Tensor:
        # The first of a plan is not to be seen; candidates of the search have another axis, or are all of the last.
        return torch.where((torch.arange(len(codes)) == 0)[:, None], torch.nan, codes) if len(codes) == 3 else codes

    whole = KeyInSubgoals(model, read_keypoints(brightness), search=SEARCH)(now, goal, FAR, 0)
    painted: list[Tensor] = []

    def paint(codes: Tensor) -> np.ndarray:
        painted.append(codes)
        return np.zeros((len(codes), 8, 8, 3), np.uint8)

    reading = Reading(brightness, brightness, hidden, paint)
    part = KeyInSubgoals(model, reading, search=SEARCH)(now, goal, FAR, 0)
    assert len(part.seen) == len(whole.seen) - 1
    assert torch.equal(part.seen, whole.seen[1:])
    assert part.pictures is not None
    assert len(part.pictures) == len(part.seen) == len(painted[0])


def test_tap_gives_the_frames_between_in_order() -> None:
    torch.manual_seed(0)
    model, (now, goal) = TimeAgnosticPredictor(codes_of(4)).eval(), frames(2)
    way = TimeAgnosticSubgoals(model, read_keypoints(brightness), depth=2)(now, goal, FAR, 0)
    expected = model.subgoals(brightness(now)[None], brightness(goal)[None], 2)[0]
    torch.testing.assert_close(way.seen, expected)
    assert np.isnan(way.cost)


def test_futures_of_the_surprise_predictor_come_frame_by_frame() -> None:
    torch.manual_seed(0)
    model = SurprisePredictor(codes_of(4)).eval()
    first, latents = torch.rand(1, 4), torch.randn(3, 5, 2)
    made = imagine(model, first, latents)
    assert made.shape == (3, 5, 4)
    with torch.no_grad():
        for one, own in zip(made, latents, strict=True):
            # What the predictor foretells of a whole sequence at once, given the frames before.
            before = torch.cat([first, one[:-1]])
            change, _ = model.predictor(torch.cat([before, own], dim=-1)[None])
            torch.testing.assert_close(one, before + change[0])


def test_subgoals_of_surprise_are_frames_of_the_future_that_ends_nearest_to_the_goal() -> None:
    torch.manual_seed(0)
    model, (now, goal) = SurprisePredictor(codes_of(4)).eval(), frames(3)
    way = SurpriseSubgoals(model, read_keypoints(brightness), search=SEARCH)(now, goal, FAR, 0)
    assert way.seen.shape == (3, 4)
    other = imagine(model, brightness(now)[None], torch.randn(200, 6, 2))[:, -1]
    assert way.cost < float(FAR(other, brightness(goal)).median())


@pytest.fixture(scope="module")
def pushing() -> Any:
    env = Pushing(show_goal=False)
    world = PuckWorld(env)
    yield env, world
    world.close()
    env.close()


def test_keypoints_tell_the_puck_by_regression_on_its_colour(pushing: Any) -> None:
    env, world = pushing
    shown = next(iter(SYNTHETIC["pushing"].make(1, 0, 64).make(0, 1))).frames
    mixed = np.random.default_rng(0).normal(size=(2, 2))

    def see(frame: np.ndarray) -> Tensor:
        # Two keypoints: a linear image of the puck's place, and one that never moves.
        place = mixed @ world.see(frame).numpy().astype(np.float64) + (0.3, -0.1)
        return torch.tensor([*place, 0.4, 0.4], dtype=torch.float32)

    reading = read_puck(see, world, shown)
    frame, _ = env.reset(seed=5)
    torch.testing.assert_close(reading.see_code(see(frame)[None])[0], world.see(frame), atol=0.02, rtol=0)
    with pytest.raises(UsageError, match="fewer than two of the frames"):
        read_puck(see, world, np.zeros_like(shown))


def test_models_of_frames_and_of_positions_are_read_as_the_world_sees(pushing: Any) -> None:
    env, world = pushing
    frame, info = env.reset(seed=6)
    reading = read_positions(env, world)
    code = reading.read(frame)
    assert code.shape == (8,)
    torch.testing.assert_close(reading.see_code(torch.from_numpy(code)[None]), world.see(frame)[None])
    np.testing.assert_allclose((code[4:6] + code[6:]) / 2, info["wall"][:2] / 1.2 * (1, -1), atol=1e-5)
    # The goal's puck, and all else as it is now.
    np.testing.assert_allclose(reading.read(env.goal_image())[2:], code[2:])
    torch.manual_seed(0)
    model = KeyIn(KeyInConfig(CodecConfig(size=8, image_size=16, filters=(4, 8), brightness=0.02), **SMALL)).eval()
    way = KeyInSubgoals(model, read_frames(model, world), search=CEMConfig(samples=4, refits=1))(frame, frame, FAR, 0)
    # An untrained model paints no puck: no subgoal, and no cost.
    assert len(way.seen) == 0
    assert way.cost == float("inf")
    with pytest.raises(UsageError, match="true positions are known of kpagent/Pushing-v0"):
        read_positions(Stranger(), world)  # type: ignore[arg-type]


class Stranger:
    unwrapped = "another"
