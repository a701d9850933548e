from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kpagent.agents.keyqn import KeyQN
from kpagent.agents.learning_run import AGENT, CHECKPOINT, GAMES, learn, read_games
from kpagent.agents.q_network import NetworkConfig
from kpagent.envs.players import OBJECTS, make_players
from kpagent.envs.vec_env import GymnasiumVecEnv
from kpagent.errors import UsageError

SMALL: dict[str, Any] = {
    "policy_kwargs": {"network": NetworkConfig(embedding=16, hidden=8)},
    "learning_starts": 100,
    "batch_size": 4,
    "sequence_length": 4,
    "burn_in": 1,
    "seed": 0,
    "device": "cpu",
}

RUN = """
import sys
from pathlib import Path
from kpagent.agents.learning_run import learn
from test_learning_run import SMALL, players

learn(players(), Path(sys.argv[1]), 10**6, checkpoint_every_s=0.2, **SMALL)
"""


def players(copies: int = 2) -> GymnasiumVecEnv:
    return make_players("ALE/Pong-v5", copies, OBJECTS, seed=0)


def test_a_run_that_is_killed_is_taken_up(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], cwd=Path(__file__).parent)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / CHECKPOINT).exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    # A kill in the middle of a write leaves what was being written beside.
    left = set(tmp_path.glob(".*"))
    kept = KeyQN.load(tmp_path / CHECKPOINT)
    assert len(kept.replay) > 0
    assert kept.num_timesteps == 2 * (len(kept.replay) // 2)
    # Games that ended after the checkpoint will be played again.
    with (tmp_path / GAMES).open("a") as file:
        file.write(f"{kept.num_timesteps + 150},-21\n")

    total = kept.num_timesteps + 140  # Past the warm-up, however early it was killed.
    agent = learn(players(), tmp_path, total, resume=True)

    assert agent.num_timesteps == total
    assert len(agent.replay) == len(kept.replay) + 140
    assert agent._n_updates > kept._n_updates
    assert agent.provenance["wall_s"] > kept.provenance["wall_s"] > 0
    assert agent.provenance["peak_memory_mb"] > 100
    assert all(at <= total for at, _ in read_games(tmp_path))
    assert (tmp_path / AGENT).exists()
    assert not (tmp_path / CHECKPOINT).exists()
    assert set(tmp_path.glob(".*")) <= left


def test_a_run_that_is_stopped_keeps_everything_and_goes_on(tmp_path: Path) -> None:
    stopped = learn(players(), tmp_path, 400, on_step=lambda agent: agent.num_timesteps < 200, **SMALL)
    assert stopped.num_timesteps == 200
    assert (tmp_path / CHECKPOINT).exists()
    assert learn(players(), tmp_path, 400, resume=True).num_timesteps == 400


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    learn(players(), tmp_path, 120, **SMALL)
    before = (tmp_path / AGENT).read_bytes()
    assert learn(players(), tmp_path, 120, resume=True).num_timesteps == 120
    assert (tmp_path / AGENT).read_bytes() == before
    with pytest.raises(UsageError, match="holds a run already"):
        learn(players(), tmp_path, 120, **SMALL)
