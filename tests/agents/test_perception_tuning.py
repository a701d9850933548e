from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

import kpagent
from kpagent.agents.keyqn import KeyQN
from kpagent.agents.learning_run import AGENT, CHECKPOINT, kept_perception, learn
from kpagent.agents.perception_tuning import (
    FRAMES,
    PERCEPTION,
    PerceptionTuning,
    TuningConfig,
    draw_pairs,
    fresh_perception,
    interactions_seen,
)
from kpagent.agents.q_network import NetworkConfig
from kpagent.cli.train import Train
from kpagent.collect.frame_log import FrameLog
from kpagent.collect.replay import SegmentReplay
from kpagent.envs import players as playing
from kpagent.envs.players import OBJECTS, make_players, newest_frames
from kpagent.envs.vec_env import GymnasiumVecEnv
from kpagent.errors import UsageError

PONG = "ALE/Pong-v5"
TINY: dict[str, Any] = {"steps": 3, "warm_up_steps": 3, "batch_size": 8, "pairs": 30, "learning_rate": 1e-2}
SMALL: dict[str, Any] = {
    "policy_kwargs": {"network": NetworkConfig(embedding=16, hidden=8)},
    "learning_starts": 60,
    "batch_size": 4,
    "sequence_length": 4,
    "burn_in": 1,
    "gradient_steps": 1,
    "seed": 0,
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def _short_games(monkeypatch: pytest.MonkeyPatch) -> None:
    """Games are cut off after 30 interactions, so that there are final rows, of which no frame is kept."""
    monkeypatch.setattr(playing, "LONGEST_GAME", 120)


def pong(see: Any = "pong") -> GymnasiumVecEnv:
    return make_players(PONG, 2, see, seed=0, device="cpu")


class Witness(BaseCallback):
    """Sees which frame each row of the replay is of, and the Q-network whenever perception may have learned."""

    model: KeyQN

    def __init__(self) -> None:
        super().__init__()
        self.frames: dict[tuple[int, int], np.ndarray] = {}
        self.networks: list[dict[str, torch.Tensor]] = []

    def network(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.model.policy.state_dict().items()}

    def _on_rollout_start(self) -> None:
        self.networks.append(self.network())
        assert isinstance(self.training_env, GymnasiumVecEnv)
        for env, frame in enumerate(newest_frames(self.training_env)):
            self.frames[env, int(self.model.replay.written[env])] = frame.copy()

    def _on_step(self) -> bool:
        return True


def check_rows(replay: SegmentReplay, frames: dict[tuple[int, int], np.ndarray], weights: Path) -> int:
    """Hold every row against what the weights say of its frame, one by one; returns the rows that have none."""
    model = kpagent.load(weights, "cpu")
    without = 0
    for env in range(replay.num_envs):
        for row in range(replay.written[env] - replay.sizes[env], replay.written[env]):
            place = env, row % replay.rows
            if (env, row) not in frames:
                assert not replay.acted[place]
                without += 1
                continue
            found = model.encode(frames[env, row][None]).numpy()
            np.testing.assert_allclose(replay.observation["xy"][place], found.xy[0], atol=1e-4)
            np.testing.assert_allclose(replay.observation["features"][place], found.features[0], atol=1e-3)
            if replay.first[place]:
                assert not replay.state["xy"][place].any()
            elif (env, row - 1) in frames and row > replay.written[env] - replay.sizes[env]:
                before = model.encode(frames[env, row - 1][None]).numpy().xy[0]
                np.testing.assert_allclose(replay.state["xy"][place], before, atol=1e-3)
    return without


def test_all_that_an_agent_keeps_speaks_of_the_present_keypoints(tmp_path: Path) -> None:
    with closing(pong()) as players:
        before, after = Witness(), Witness()
        agent = KeyQN(env=players, buffer_size=180, **SMALL)
        tuning = PerceptionTuning(tmp_path, TuningConfig(at=(240,), **TINY))
        shipped = {name: value.clone() for name, value in tuning_weights(players).items()}
        agent.learn(300, [before, tuning, after])
        assert tuning.tuned_at == [240]
        changed = [name for name, value in tuning_weights(players).items() if not torch.equal(value, shipped[name])]
        present = {name: value.clone() for name, value in tuning_weights(players).items()}
        tuning.close()
    assert changed, "the players see as before"
    kept = kpagent.load(tmp_path / PERCEPTION, "cpu")
    assert all(torch.equal(kept.state_dict()[name], value) for name, value in present.items())
    assert kept.refine is not None, "it can be trained on"
    moved = [
        float(np.abs(kept.encode(frame[None]).numpy().xy - kpagent.load("pong", "cpu").encode(frame[None]).numpy().xy).max())
        for frame in list(after.frames.values())[::20]
    ]
    assert max(moved) > 0.01, "a test in which nothing changes shows nothing"
    # 150 rows and some final ones for rings of 90: they have come round.
    assert agent.replay.written.min() > agent.replay.rows
    assert check_rows(agent.replay, after.frames, tmp_path / PERCEPTION) >= 4
    for one, other in zip(before.networks, after.networks, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert interactions_seen(kept.provenance, own=True) == (1_200_012, 240)
    assert interactions_seen(kept.provenance, own=False) == (1_200_252, 0)


def tuning_weights(players: GymnasiumVecEnv) -> dict[str, torch.Tensor]:
    return players.env.perception.state_dict()  # type: ignore[attr-defined]


def test_a_run_is_taken_up_wherever_it_was_killed(tmp_path: Path) -> None:
    tuning = TuningConfig(at=(100, 160), **TINY)
    first = make_and_learn(tmp_path, tuning, stop_at=120)
    assert first.provenance["tuned_at"] == [100]
    with pytest.raises(UsageError, match="begun with another tuning"):
        make_and_learn(tmp_path, TuningConfig(at=(100,), **TINY))
    shutil.copy(tmp_path / CHECKPOINT, tmp_path / "kept")

    # Interrupted in the middle of a tuning.
    stopped = make_and_learn(tmp_path, tuning, on_tuning=lambda step, steps: step < 2)
    assert (stopped.num_timesteps, stopped.provenance["tuned_at"]) == (162, [100])
    assert make_and_learn(tmp_path, tuning, stop_at=180).provenance["tuned_at"] == [100, 160]

    # Killed after it, before the agent was kept again: the older agent meets the newer keypoints.
    shutil.move(tmp_path / "kept", tmp_path / CHECKPOINT)
    looked: list[int] = []

    def look(agent: KeyQN) -> bool:
        if not looked:
            replay = agent.replay
            with closing(FrameLog(tmp_path / FRAMES, 2, replay.rows, 84, written=replay.written)) as log:
                rows = [(env, row) for env in range(2) for row in range(replay.written[env])]
                rows = [(env, row) for env, row in rows if log.has(env, np.array([row]))[0]]
                read = log.read(*np.array(rows).T)
            looked.append(check_rows(replay, dict(zip(rows, read, strict=True)), tmp_path / PERCEPTION))
        return True

    done = make_and_learn(tmp_path, tuning, on_step=look, total=200)
    assert looked
    assert done.num_timesteps == 200
    assert done.provenance["tuned_at"] == [100, 160]
    assert (tmp_path / AGENT).exists()
    assert not (tmp_path / FRAMES).exists()
    assert not (tmp_path / CHECKPOINT).exists()


def make_and_learn(
    folder: Path, tuning: TuningConfig, total: int = 200, stop_at: int | None = None, **listeners: Any
) -> KeyQN:
    if stop_at is not None:
        listeners["on_step"] = lambda agent: agent.num_timesteps < stop_at
    with closing(pong(kept_perception(folder) or "pong")) as players:
        return learn(players, folder, total, resume=True, provenance={"env": PONG}, tuning=tuning, **listeners, **SMALL)


def test_untrained_keypoints_learn_from_the_first_interactions_of_the_run(tmp_path: Path) -> None:
    tuning = TuningConfig(warm_up=120, at=(160,), spare=1, **TINY)
    updates: dict[int, int] = {}

    def note(agent: KeyQN) -> bool:
        updates[agent.num_timesteps] = agent._n_updates
        return True

    with closing(pong(fresh_perception(PONG, 2))) as players:
        agent = learn(players, tmp_path, 200, tuning=tuning, on_step=note, **SMALL)
    assert next(at for at, done in updates.items() if done) > 122
    assert agent.provenance["tuned_at"] == [120, 160]
    model = kpagent.load(tmp_path / PERCEPTION)
    assert model.num_keypoints == 2
    assert interactions_seen(model.provenance, own=True) == (0, 160)
    with closing(pong(tmp_path / PERCEPTION)):
        pass


def test_pairs_lie_in_one_episode_and_not_far_apart(tmp_path: Path) -> None:
    replay = SegmentReplay(80, 2, {"xy": ((1, 2), np.float32)}, {})
    nothing: dict[str, np.ndarray] = {}
    count = np.zeros(2, int)
    with closing(FrameLog(tmp_path / FRAMES, 2, replay.rows, 16)) as log:
        for step in range(70):
            frame = np.zeros((16, 16, 3), np.uint8)
            frame[0, 0] = step, 0, 0
            frame[0, 1] = count[0], count[1], 0
            log.add([0, 1], replay.written.tolist(), [log.compress(frame)] * 2)
            ends = np.array([step % 13 == 12, step % 17 == 16])
            zero = np.zeros(2)
            replay.add({"xy": np.zeros((2, 1, 2))}, nothing, zero, zero, ends, zero > 1, [None, None], nothing)
            count += ends
        pairs = draw_pairs(log, replay, TuningConfig(pairs=200, offset=(2, 6)), 0)
    assert len(pairs) == 200
    steps = pairs.target[:, 0, 0, 0].astype(int) - pairs.source[:, 0, 0, 0]
    assert set(steps) == {2, 3, 4, 5, 6}
    assert pairs.source[:, 0, 0, 0].min() >= 30
    # Whichever of the copies a pair is of, its episode did not end in between.
    assert ((pairs.source[:, 0, 1] == pairs.target[:, 0, 1]).any(axis=1)).all()
    for episode in np.unique(pairs.episode):
        numbers = pairs.source[pairs.episode == episode][:, 0, 1, :2]
        assert (numbers == numbers[0]).all(axis=0).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"at": (200, 100)}, "at must rise"),
        ({"at": (100,), "warm_up": 100}, "at must rise"),
        ({"spare": 2}, "spare must not be negative"),
        ({"offset": (5, 2)}, "offset must be"),
        ({"steps": 0}, "steps must be"),
    ],
)
def test_bad_configurations_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TuningConfig(**changes)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"strict": True, "weights": "pong"}, "leave out --weights and --oracle"),
        ({"strict": True, "oracle": True}, "leave out --weights and --oracle"),
        ({"strict": True, "finetune": True}, "leave out --finetune"),
        ({"oracle": True, "finetune": True}, "no perception to train"),
        ({"finetune": True}, "give --weights"),
        ({"weights": "pong", "keypoints": 3}, "are for --strict"),
        ({"weights": "pong", "finetune": True, "steps": 20_000}, "--steps must be more, not 20000"),
        ({"strict": True, "steps": 5_000}, "--steps must be more, not 5000"),
        ({"strict": True, "keypoints": 0}, "num_keypoints must be"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(flags: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        Train(env=PONG, out=tmp_path / "run", **flags).run()
    assert not (tmp_path / "run" / AGENT).exists()


def test_true_positions_cannot_be_tuned(tmp_path: Path) -> None:
    with closing(make_players(PONG, 1, OBJECTS, seed=0)) as players, pytest.raises(UsageError, match="perception can go on"):
        learn(players, tmp_path, 100, tuning=TuningConfig(), **SMALL)
