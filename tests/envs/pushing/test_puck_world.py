from __future__ import annotations

from collections.abc import Iterator

import gymnasium as gym
import numpy as np
import pytest
import torch

from kpagent.envs.making import make_env
from kpagent.envs.pushing.environment import PUSHING_ID, Pushing
from kpagent.envs.pushing.puck_world import PuckWorld
from kpagent.envs.pushing.random_pushes import PushConfig, RandomPushes
from kpagent.envs.pushing.scene import draw_scene
from kpagent.envs.pushing.simulation import seen, to_image
from kpagent.errors import UsageError


@pytest.fixture
def env() -> Iterator[Pushing]:
    made = Pushing(show_goal=False)
    yield made
    made.close()


def test_the_puck_is_seen_where_it_is_and_what_follows_is_what_comes(env: Pushing) -> None:
    frame, info = env.reset(seed=4)
    world = PuckWorld(env)
    truth = seen(info["hand"], info["puck"])[0]
    np.testing.assert_allclose(world.see(frame), truth, atol=1 / 32)
    np.testing.assert_allclose(world.see_painted(frame[None, None]), truth[None, None], atol=1 / 32)
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 6, 3)).astype(np.float32)
    # Towards the puck, so that it moves.
    actions[1, :, :2] = np.sign(info["puck"] - info["hand"][:2])
    actions[1, :, 2] = -1
    foretold = world.foretell(world.observe(frame, None), actions)
    assert foretold.shape == (2, 6, 2)
    for number, each in enumerate(actions):
        env.reset(seed=4)
        came = []
        for action in each:
            after = env.step(action)[4]
            came.append(seen(after["hand"], after["puck"])[0])
        np.testing.assert_allclose(foretold[number], came, atol=1e-6)
    world.close()


def test_a_hidden_puck_is_nowhere(env: Pushing) -> None:
    frame, _ = env.reset(seed=4)
    assert torch.isnan(PuckWorld(env).see(np.zeros_like(frame))).all()


def test_wrapped_environments_do_and_others_do_not() -> None:
    wrapped = make_env(PUSHING_ID)
    PuckWorld(wrapped).close()
    wrapped.close()
    with pytest.raises(UsageError, match=r"the simulator's dynamics are those of kpagent/Pushing-v0, not of"):
        PuckWorld(gym.make("CartPole-v1"))


def test_random_pushes_are_what_their_actions_do(env: Pushing) -> None:
    sequences = list(RandomPushes(12, 1, PushConfig(frames=10, image_size=32)).make(0, 12))
    moved = 0
    for number, one in enumerate(sequences):
        assert one.actions is not None
        assert one.truth is not None
        assert np.abs(one.actions).max() <= 1
        assert not one.actions[-1].any()
        env.reset(options={"scene": draw_scene(np.random.default_rng((1, number)))})
        state = env.get_state()
        # Seen from above, the hand's cap is nearer than the table; where it begins at rest is a straight line away.
        state[1:3] = one.truth[0, 1] / to_image((1.0, -1.0), 0.16)[0] * (1, -1)
        env.set_state(state)
        came = [one.truth[0, :2]]
        for action in one.actions[:-1]:
            info = env.step(action)[4]
            came.append(seen(info["hand"], info["puck"]))
        np.testing.assert_allclose(came, one.truth[:, :2], atol=0.01)
        moved += float(np.abs(one.truth[-1, 0] - one.truth[0, 0]).max()) > 0.02
    assert moved >= 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frames": 1}, "frames must be from 2 to 1000; got 1"),
        ({"correlation": 1.0}, "correlation must be at least 0 and below 1; got 1.0"),
        ({"noise": 0.0}, "noise must be above 0; got 0.0"),
        ({"image_size": 8}, "image_size must be from 16 to 512; got 8"),
    ],
)
def test_mistakes_are_named(fields: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PushConfig(**fields)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="count must be at least 1"):
        RandomPushes(0)
