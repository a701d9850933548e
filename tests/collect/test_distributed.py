from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import pytest
from ale_py import AtariVectorEnv
from counting_env import CountingEnv
from gymnasium.vector import SyncVectorEnv, VectorEnv

from kpagent.collect.distributed import collect_pairs_distributed, workers
from kpagent.collect.pairs import FramePairs, PairsConfig, PairsProgress, gather
from kpagent.errors import UsageError

ray = pytest.importorskip("ray")

HERE = str(Path(__file__).parent)
CONFIG = PairsConfig(capacity=60, interactions=6_000, trajectory_length=20, image_size=16, num_envs=3, candidates=8)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", HERE)
        ray.init("local", num_cpus=2, object_store_memory=100 * 2**20, **quiet)
        yield
        ray.shutdown()


def counting(num_envs: int, seed: int, pids: str = "", doomed: int = -1) -> VectorEnv:
    """Env numbers tell the workers apart: `make_env` is told the worker's own seed."""
    if pids:
        with open(pids, "a") as file:
            file.write(f"{seed} {os.getpid()}\n")
    if seed == doomed:
        os._exit(1)
    return SyncVectorEnv([partial(CountingEnv, 10 * seed + number) for number in range(num_envs)])


def pong(num_envs: int, seed: int) -> VectorEnv:
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    return AtariVectorEnv("pong", num_envs, num_threads=1, img_height=210, img_width=160, grayscale=False, stack_num=1)


def carts(num_envs: int, seed: int) -> VectorEnv:
    return gym.make_vec("CartPole-v1", num_envs=num_envs, vectorization_mode="sync")


def elsewhere() -> Any:
    """A function of a module that only this process knows."""
    module = types.ModuleType("known_here_only")
    exec("def make_env(num_envs, seed): ...", module.__dict__)
    sys.modules[module.__name__] = module
    return module.__dict__["make_env"]


def assert_whole(pairs: FramePairs) -> None:
    """Each pair is of one env and one episode, and comes in order."""
    source, target = pairs.source[:, 0, 0].astype(int), pairs.target[:, 0, 0].astype(int)
    assert (source[:, :2] == target[:, :2]).all()
    assert (source[:, 2] < target[:, 2]).all()


@pytest.mark.usefixtures("cluster")
def test_two_workers_share_the_budget_and_one_that_is_killed_is_started_again(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    heard: list[PairsProgress] = []
    killed: list[int] = []

    def kill_one(progress: PairsProgress) -> None:
        heard.append(progress)
        if progress.interactions > 2_000 and not killed:
            killed.append(int(pids.read_text().splitlines()[0].split()[1]))
            os.kill(killed[0], signal.SIGKILL)

    config = dataclasses.replace(CONFIG, interactions=12_000)
    make_env = partial(counting, pids=str(pids))
    found = gather(collect_pairs_distributed(make_env, config, workers=2, env_id="Counting"), kill_one)
    assert killed
    started = [line.split() for line in pids.read_text().splitlines()]
    assert len({pid for _, pid in started}) == len(started) == 3
    assert sorted({seed for seed, _ in started}) == ["0", "1"]
    assert len(found) == 60
    assert_whole(found)
    assert found.info["env"] == "Counting"
    assert found.info["workers"] == 2
    assert 12_000 <= found.info["interactions"] == heard[-1].interactions < 12_050
    assert 0 < found.info["filled_after"] < 12_000
    assert found.info["overwritten"] > 0
    assert ray.is_initialized()


@pytest.mark.usefixtures("cluster")
def test_the_run_goes_on_without_a_worker_that_keeps_dying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "RESTARTS", 0)
    found = gather(collect_pairs_distributed(partial(counting, doomed=0), CONFIG, workers=2))
    assert 6_000 <= found.info["interactions"] < 6_050
    assert {number // 10 for number in found.source[:, 0, 0, 0]} == {1}


@pytest.mark.usefixtures("cluster")
def test_the_run_ends_when_no_worker_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "RESTARTS", 0)
    with pytest.raises(UsageError, match="every worker died") as caught:
        gather(collect_pairs_distributed(partial(counting, doomed=0), CONFIG, workers=1))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("cluster")
def test_atari() -> None:
    config = PairsConfig(capacity=16, interactions=1_600, trajectory_length=50, image_size=64, num_envs=4, candidates=8)
    found = gather(collect_pairs_distributed(pong, config, workers=1, env_id="ALE/Pong-v5"))
    assert len(found) == 16
    colours, counts = np.unique(found.source.reshape(-1, 3), axis=0, return_counts=True)
    assert tuple(colours[counts.argmax()]) == (144, 72, 17)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("make_env", "changes", "message"),
    [
        (elsewhere(), {}, "cannot load make_env"),
        (carts, {}, "render_mode"),
        (counting, {"workers": 3}, "has 2"),
        (counting, {"workers": 0}, "workers"),
        (counting, {"workers": 1.5}, "workers"),
        (lambda num_envs, seed, handle=sys.stdout: counting(num_envs, seed), {}, "pickled"),
    ],
)
def test_mistakes(make_env: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        gather(collect_pairs_distributed(make_env, CONFIG, **{"workers": 1, **changes}))
    assert "\n" not in str(caught.value)


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'kpagent\[distributed\]'"):
        collect_pairs_distributed(counting, CONFIG, workers=1)


ALONE = """
import ray
from test_distributed import CONFIG, counting
from kpagent.collect.distributed import collect_pairs_distributed
from kpagent.collect.pairs import gather
found = gather(collect_pairs_distributed(counting, CONFIG, workers=1))
print(len(found), ray.is_initialized())
abandoned = collect_pairs_distributed(counting, CONFIG, workers=1)
next(abandoned)
abandoned.close()
print(ray.is_initialized())
try:
    gather(collect_pairs_distributed(counting, CONFIG, workers=1, address="127.0.0.1:1"))
except ValueError as error:
    print(error)
"""


def test_a_local_ray_is_started_quietly_and_shut_down() -> None:
    environment = os.environ | {"PYTHONPATH": HERE}
    command = [sys.executable, "-c", ALONE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)
    assert done.stdout.splitlines()[:2] == ["60 False", "False"], done.stderr
    assert done.stdout.splitlines()[2].startswith("no Ray cluster answers at 127.0.0.1:1")
    assert done.stderr == ""
