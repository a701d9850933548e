"""Learning to plan in a real task, end to end, killed and taken up; and the model that is learned."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from small_control import CARTPOLE, small_learning, small_model

from kpagent.agents.control_model import ControlModel, RewardReadConfig
from kpagent.agents.mpc_learning import (
    AGENT,
    ControlReport,
    MPCLearningConfig,
    learn_control,
    learned_env,
    load_planner,
    read_returns,
)
from kpagent.envs.control_play import make_control_env
from kpagent.errors import UsageError
from kpagent.files import load_tensors

ABOUT = {"env": CARTPOLE, "repeat": 8}


@pytest.fixture(scope="module")
def env() -> Iterator[gym.Env[Any, Any]]:
    with contextlib.closing(make_control_env(CARTPOLE)) as made:
        yield made


def learn(env: gym.Env[Any, Any], out: Path, resume: bool = False, **changes: Any) -> Iterator[ControlReport]:
    return learn_control(env, small_model(), small_learning(**changes), out, provenance=ABOUT, resume=resume)


@pytest.fixture(scope="module")
def whole(env: gym.Env[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ControlReport]]:
    """A run without interruption."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, list(learn(env, out))


def test_a_run_plays_learns_and_plans(whole: tuple[Path, list[ControlReport]]) -> None:
    out, reports = whole
    assert {path.name for path in out.iterdir()} == {AGENT, "returns.csv", "config.json", "logs"}
    returns = read_returns(out)
    assert [(at, kind) for at, _, kind in returns] == [
        (10, "random"), (20, "random"), (30, "planned"), (40, "planned"), (45, "planned"),
    ]  # fmt: skip
    np.testing.assert_allclose(
        [value for _, value, _ in returns], [each.ended for each in reports if each.ended is not None]
    )
    # Keypoints learn at 20 and at 40 interactions; dynamics in between, as often as they are due.
    stages = [each for each in reports if each.doing == "code"]
    assert [(each.step, each.interactions) for each in stages] == [(1, 20), (2, 20), (3, 20), (1, 40), (2, 40)]
    learned = [(each.step, each.interactions) for each in reports if each.doing == "learning"]
    assert learned[-1] == (4 + int(0.2 * 25) + 2, 45)
    assert [step for step, _ in learned] == list(range(1, 12))
    assert list(learn_again(whole)) == []


def learn_again(whole: tuple[Path, list[ControlReport]]) -> Iterator[ControlReport]:
    with contextlib.closing(make_control_env(CARTPOLE)) as env:
        yield from learn(env, whole[0], resume=True)


@pytest.mark.parametrize(
    ("doing", "nth"),
    [("random", 14), ("start", 1), ("code", 2), ("learning", 3), ("playing", 15), ("code", 4), ("learning", 11)],
)
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    doing: str, nth: int, env: gym.Env[Any, Any], whole: tuple[Path, list[ControlReport]], tmp_path: Path
) -> None:
    out, seen = tmp_path / "run", 0
    run = learn(env, out)
    with contextlib.closing(run):  # type: ignore[type-var]
        for report in run:
            seen += report.doing == doing
            if seen == nth:
                break
    assert seen == nth
    with pytest.raises(UsageError, match="holds a run already; add --resume"):
        learn(env, out)
    with pytest.raises(UsageError, match=r"has learning\.updates 0\.2, not 0\.5; resume it as it was started"):
        learn(env, out, resume=True, updates=0.5)
    for _ in learn(env, out, resume=True):
        pass
    assert (out / "returns.csv").read_text() == (whole[0] / "returns.csv").read_text()
    ours, theirs = (load_tensors(path / AGENT)[0] for path in (out, whole[0]))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_its_agent_plays(env: gym.Env[Any, Any], whole: tuple[Path, list[ControlReport]]) -> None:
    path = whole[0] / AGENT
    assert learned_env(path) == (CARTPOLE, 8)
    planner = load_planner(path, env, candidates=6)
    assert (planner.config.candidates, planner.config.horizon) == (6, 3)
    frame, state = env.reset(seed=3)[0], None
    action, state = planner.predict(frame, state, deterministic=True)
    assert env.action_space.contains(action)
    assert state[0].foretold.shape == (3,)
    assert planner.model.places(state[0].belief).shape == (2, 2)  # type: ignore[attr-defined]
    message = "the model has actions of 1 numbers, and those of dm_control/reacher-easy-v0 have 2"
    other = make_control_env("dm_control/reacher-easy-v0")
    with contextlib.closing(other), pytest.raises(UsageError, match=message):
        load_planner(path, other)


def test_other_files_are_no_agents(whole: tuple[Path, list[ControlReport]], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no weights file at"):
        learned_env(tmp_path / "none.safetensors")
    model = ControlModel(small_model())
    model.world.save(tmp_path / "world.safetensors")
    with pytest.raises(UsageError, match="does not say what it learned in"):
        learned_env(tmp_path / "world.safetensors")
    with pytest.raises(UsageError, match="holds a 'struct_vrnn', not a control"):
        ControlModel.load(tmp_path / "world.safetensors")
    content = (whole[0] / AGENT).read_bytes()
    (tmp_path / "short.safetensors").write_bytes(content[:-100])
    with pytest.raises(UsageError):
        ControlModel.load(tmp_path / "short.safetensors")


def test_a_belief_is_of_the_last_frames_as_in_training() -> None:
    torch.manual_seed(0)
    model = ControlModel(small_model()).eval()
    model.set_units(torch.randn(50, 6), torch.randn(50))
    frames = np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3), dtype=np.uint8)
    actions = torch.rand(6, 1) * 2 - 1
    sight = model.begin(frames[0])
    for action, frame in zip(actions, frames[1:], strict=True):
        sight = model.follow(sight, action, frame)
    codes = (model.encode(frames) - model.code_mean) / model.code_scale
    belief, _ = model.world.dynamics.observe(codes[None, 3:], actions[None, 3:])
    torch.testing.assert_close(sight.belief.hidden, belief.hidden, atol=1e-5, rtol=1e-4)
    # At the start, the first frame has stood still.
    begun = model.begin(frames[0])
    belief, _ = model.world.dynamics.observe(codes[None, [0, 0, 0, 0]], torch.zeros(1, 3, 1))
    torch.testing.assert_close(begun.belief.hidden, belief.hidden, atol=1e-5, rtol=1e-4)


def batch(count: int = 6) -> dict[str, Any]:
    draws = torch.Generator().manual_seed(1)
    actions = torch.rand(count, 7, 1, generator=draws) * 2 - 1
    rewards = 3 + 2 * actions[:, :-1, 0]
    return {
        "codes": torch.randn(count, 7, 6, generator=draws),
        "actions": actions,
        "rewards": rewards,
        "known": torch.ones(count, 6, dtype=torch.bool),
        "seed": (0, 1),
    }


@pytest.mark.parametrize("shapes", [True, False])
def test_errors_of_rewards_reach_the_dynamics_or_not(shapes: bool) -> None:
    torch.manual_seed(0)
    given = batch()

    def gradient(rewards: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        model = ControlModel(small_model(), RewardReadConfig(shapes=shapes))
        model.loss({**given, "rewards": rewards})[0].backward()
        found = model.world.dynamics.gru.weight_hh.grad
        assert found is not None
        return found

    assert torch.equal(gradient(given["rewards"]), gradient(given["rewards"] * -2)) == (not shapes)


def test_unknown_rewards_teach_nothing() -> None:
    torch.manual_seed(0)
    model, given = ControlModel(small_model()), batch()
    given["known"][:, :3] = False
    loss = model.loss(given)[0]
    given["rewards"][:, :3] = 99.0
    assert torch.equal(model.loss(given)[0], loss)


def test_rewards_of_actions_are_learned_and_foreseen() -> None:
    """A reward that is a number of the action: what is foreseen must be the reward of that very action."""
    torch.manual_seed(0)
    model, given = ControlModel(small_model()), batch(64)
    model.set_units(given["codes"].flatten(0, 1), given["rewards"].flatten())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(250):
        loss, _ = model.loss({**given, "seed": (0, step)})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    sight = model.begin(np.zeros((64, 64, 3), np.uint8))
    actions = torch.rand(40, 3, 1) * 2 - 1
    foreseen = model.foresee(sight, actions)
    error = (foreseen - (3 + 2 * actions[..., 0])).abs().mean()
    assert error < 0.4, float(error)
    shifted = (foreseen[:, 1:] - (3 + 2 * actions[:, :-1, 0])).abs().mean()
    assert shifted > 2 * error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"random": 0}, "random must be at least 1"),
        ({"interactions": 10, "random": 11}, "interactions must be at least random"),
        ({"capacity": 10}, "capacity must be at least longest"),
        ({"first_updates": 0}, "first_updates must be at least 1"),
        ({"updates": -1.0}, "updates must not be negative"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_learning_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MPCLearningConfig(**changes)


def test_stages_come_with_twice_the_data() -> None:
    config = MPCLearningConfig(interactions=50_000, random=5_000)
    assert [config.stages(at) for at in (5_000, 9_999, 10_000, 20_000, 39_999, 40_000)] == [1, 1, 2, 3, 3, 4]
    assert config.due(50_000) == 3_000 + 18_000 + 3 * 500


def test_a_model_without_actions_or_keypoints_is_refused() -> None:
    with pytest.raises(UsageError, match="needs actions"):
        ControlModel(small_model(actions=0))
