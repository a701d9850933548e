from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import h5py
import numpy as np
import pytest
from ale_py import AtariVectorEnv
from counting_env import CountingEnv
from gymnasium.vector import SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

from kpagent.collect import pairs as pairs_module
from kpagent.collect.pairs import FORMAT, FramePairs, PairsConfig, PairsProgress, collect_pairs, gather
from kpagent.errors import UsageError

SMALL = PairsConfig(capacity=40, interactions=3_000, trajectory_length=20, image_size=16, candidates=8, seed=3)


def counting(num_envs: int = 3) -> SyncVectorEnv:
    return SyncVectorEnv([partial(CountingEnv, number) for number in range(num_envs)])


def dataset(count: int = 30, episodes: int = 6, seed: int = 0) -> FramePairs:
    generator = np.random.default_rng(seed)
    source, target = generator.integers(0, 256, (2, count, 16, 16, 3), dtype=np.uint8)
    episode = generator.permutation(episodes)[np.arange(count) * episodes // count]
    return FramePairs(source, target, episode.astype(np.int64), {"env": "made up", "coverage": 0.5})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.h5"
    dataset().save(path)
    return path


def test_collection_fills_then_diversifies_and_reports() -> None:
    heard: list[PairsProgress] = []
    found = gather(collect_pairs(counting(), SMALL), heard.append)
    assert len(found) == 40
    assert found.image_size == 16
    info = found.info
    assert json.loads(json.dumps(info)) == info
    assert info["env"] == "SyncVectorEnv"
    assert info["num_envs"] == 3
    assert info["workers"] == 0
    assert 3_000 <= info["interactions"] <= 3_002
    assert 0 < info["filled_after"] < 3_000
    assert info["config"]["seed"] == 3
    assert info["interactions_per_s"] == pytest.approx(info["interactions"] / info["wall_s"])
    assert 0 < info["coverage"] < 1
    assert 0 < info["coverage_filled"] < 1
    assert [one.interactions for one in heard] == sorted(one.interactions for one in heard)
    assert heard[0].coverage is None
    assert heard[-1].coverage is not None
    assert heard[-1].pairs == 40
    assert heard[-1].overwritten == info["overwritten"] > 0
    assert heard[-1].budget == 3_000
    # Each stored pair is still one trajectory's: same env, same episode, source before target.
    assert (found.source[:, 0, 0, :2] == found.target[:, 0, 0, :2]).all()
    assert (found.source[:, 0, 0, 2] < found.target[:, 0, 0, 2]).all()


def test_one_seed_one_dataset() -> None:
    one, again = (gather(collect_pairs(counting(), SMALL)) for _ in range(2))
    other = gather(collect_pairs(counting(), PairsConfig(**{**one.info["config"], "seed": 4})))
    assert np.array_equal(one.source, again.source)
    assert np.array_equal(one.target, again.target)
    assert not np.array_equal(one.source, other.source)


def test_budget_that_does_not_fill_the_buffer() -> None:
    config = PairsConfig(capacity=1_000, interactions=500, trajectory_length=20, image_size=16, candidates=8)
    found = gather(collect_pairs(counting(), config))
    assert 20 < len(found) < 60
    assert found.info["filled_after"] is None
    assert found.info["overwritten"] == 0
    assert found.info["coverage"] == found.info["coverage_filled"] > 0


def test_budget_that_makes_no_pair() -> None:
    with pytest.raises(UsageError, match="made no pair"):
        gather(collect_pairs(counting(1), PairsConfig(capacity=40, interactions=1, candidates=8)))


def test_collection_is_lazy_but_refuses_at_once() -> None:
    with pytest.raises(UsageError, match="render_mode"):
        collect_pairs(gym.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"))


def test_rendered_env() -> None:
    gym.register_envs(ale_py)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    env = gym.make_vec("ALE/Pong-v5", num_envs=2, vectorization_mode="sync", obs_type="ram", render_mode="rgb_array")
    found = gather(
        collect_pairs(env, PairsConfig(capacity=4, interactions=80, trajectory_length=10, image_size=32, candidates=2))
    )
    env.close()
    assert found.info["env"] == "ALE/Pong-v5"
    assert found.source.shape == (4, 32, 32, 3)
    assert (found.source != found.target).any()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_atari(mode: str) -> None:
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    env = AtariVectorEnv(
        "pong",
        4,
        num_threads=1,
        img_height=210,
        img_width=160,
        grayscale=False,
        stack_num=1,
        maxpool=False,
        noop_max=0,
        use_fire_reset=False,
        autoreset_mode=mode,
        max_num_frames_per_episode=4 * 130,
    )
    config = PairsConfig(capacity=24, interactions=4 * 130 * 4, trajectory_length=50, image_size=64, candidates=8)
    found = gather(collect_pairs(env, config, env_id="ALE/Pong-v5"))
    env.close()
    assert found.info["env"] == "ALE/Pong-v5"
    assert len(found) == 24
    # An episode of 130 interactions has trajectories of 50, 50 and 30.
    assert max(np.unique(found.episode, return_counts=True)[1]) <= 3
    # Pong's background, at its native colour: nothing was stacked, turned grey or scaled on the way.
    colours, counts = np.unique(found.source.reshape(-1, 3), axis=0, return_counts=True)
    assert tuple(colours[counts.argmax()]) == (144, 72, 17)
    assert (found.source != found.target).any(axis=(1, 2, 3)).all()


def test_split_shares_no_episode_and_copies_nothing() -> None:
    whole = dataset(count=30, episodes=6)
    train, held_out = whole.split(7)
    assert len(held_out) == 7
    assert np.array_equal(held_out.source, whole.source[-7:])
    assert len(train) == 20
    assert not set(train.episode) & set(held_out.episode)
    assert np.shares_memory(train.source, whole.source)
    assert [len(part) for part in whole.split(10)] == [20, 10]


@pytest.mark.parametrize("held_out", [0, 30, 26])
def test_split_that_leaves_nothing(held_out: int) -> None:
    with pytest.raises(UsageError, match=r"held-out|holding out"):
        dataset(count=30, episodes=6).split(held_out)


def test_file_round_trip(saved: Path) -> None:
    made, read = dataset(), FramePairs.load(saved)
    for name in ("source", "target", "episode"):
        assert np.array_equal(getattr(made, name), getattr(read, name))
    assert read.info == made.info
    assert [path.name for path in saved.parent.iterdir()] == ["pairs.h5"]
    with h5py.File(saved) as file:
        assert set(file) == {"source", "target", "episode"}


@given(st.data())
def test_damaged_files_are_refused(saved: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    whole = saved.read_bytes()
    path = tmp_path_factory.getbasetemp() / "damaged.h5"
    if data.draw(st.booleans(), label="cut"):
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        at, change = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :])
    with pytest.raises(UsageError, match=r"damaged\.h5") as caught:
        FramePairs.load(path)
    assert "\n" not in str(caught.value)


def sealed(path: Path, **contents: Any) -> Path:
    """A file with a right digest and whatever else inside."""
    header = contents.pop("header", json.dumps({"format": FORMAT, "info": {}}))
    with h5py.File(path, "w", userblock_size=512) as file:
        file.attrs["header"] = header
        for name, value in contents.items():
            file[name] = value
    block = pairs_module._user_block(path)
    with path.open("r+b") as file:
        file.write(block)
    return path


FRAMES = np.zeros((3, 16, 16, 3), np.uint8)
EPISODE = np.zeros(3, np.int64)
WRONG: dict[str, dict[str, Any]] = {
    "no datasets": {},
    "no target": {"source": FRAMES, "episode": EPISODE},
    "floats": {"source": FRAMES / 1.0, "target": FRAMES / 1.0, "episode": EPISODE},
    "not square": {"source": FRAMES[:, 1:], "target": FRAMES[:, 1:], "episode": EPISODE},
    "different counts": {"source": FRAMES, "target": FRAMES[1:], "episode": EPISODE},
    "empty": {"source": FRAMES[:0], "target": FRAMES[:0], "episode": EPISODE[:0]},
    "episodes too short": {"source": FRAMES, "target": FRAMES, "episode": EPISODE[1:]},
    "scattered episodes": {"source": FRAMES, "target": FRAMES, "episode": np.array([1, 2, 1])},
    "scalar": {"source": 3, "target": FRAMES, "episode": EPISODE},
    "header no JSON": {"source": FRAMES, "target": FRAMES, "episode": EPISODE, "header": "{"},
    "header a list": {"source": FRAMES, "target": FRAMES, "episode": EPISODE, "header": "[]"},
    "other format": {"source": FRAMES, "target": FRAMES, "episode": EPISODE, "header": '{"format": 99, "info": {}}'},
    "no info": {"source": FRAMES, "target": FRAMES, "episode": EPISODE, "header": json.dumps({"format": FORMAT})},
    "info a number": {
        "source": FRAMES,
        "target": FRAMES,
        "episode": EPISODE,
        "header": json.dumps({"format": FORMAT, "info": 1}),
    },
}


def test_a_sealed_file_loads(tmp_path: Path) -> None:
    assert len(FramePairs.load(sealed(tmp_path / "a.h5", source=FRAMES, target=FRAMES, episode=EPISODE))) == 3


@pytest.mark.parametrize("contents", WRONG.values(), ids=WRONG)
def test_files_with_other_contents_are_refused(tmp_path: Path, contents: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"wrong\.h5"):
        FramePairs.load(sealed(tmp_path / "wrong.h5", **contents))


def test_a_file_that_claims_a_petabyte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vast.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        file.attrs["header"] = json.dumps({"format": FORMAT, "info": {}})
        for name in ("source", "target"):
            file.create_dataset(name, (10**12, 16, 16, 3), np.uint8, chunks=(1, 16, 16, 3))
        file["episode"] = EPISODE
    with path.open("r+b") as raw:
        block = pairs_module._user_block(path)
        raw.write(block)
    with pytest.raises(UsageError, match="memory"):
        FramePairs.load(path)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no frame pairs at"):
        FramePairs.load(tmp_path / "none.h5")
    with pytest.raises(UsageError, match="no frame pairs at"):
        FramePairs.load(tmp_path)
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(UsageError, match="holds no frame pairs"):
        FramePairs.load(tmp_path / "text.h5")


FULL_DISK = """
import resource, signal, sys
import numpy as np
from kpagent.collect.pairs import FramePairs
from kpagent.errors import UsageError
frames = np.random.default_rng(0).integers(0, 256, (200, 16, 16, 3), dtype=np.uint8)
pairs = FramePairs(frames, frames, np.zeros(200, np.int64), {})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    pairs.save(sys.argv[1])
except UsageError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
@pytest.mark.parametrize("limit", [100, 5_000, 250_000])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "pairs.h5"
    path.write_bytes(b"as it was")
    command = [sys.executable, "-c", FULL_DISK, str(path), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"cannot write {path}: ")
    assert done.stdout.count("\n") == 1
    assert path.read_bytes() == b"as it was"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "changes",
    [
        {"capacity": 1}, {"capacity": 2.5}, {"interactions": 0}, {"trajectory_length": 1}, {"image_size": 8},
        {"num_envs": 0}, {"overwrite_probability": 1.5}, {"candidates": 0}, {"candidates": 30_000}, {"seed": -1},
    ],
    ids=str,
)  # fmt: skip
def test_configurations_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        PairsConfig(**changes)


def test_paper_preset() -> None:
    paper = PairsConfig.paper(seed=1)
    assert (paper.capacity, paper.image_size, paper.interactions) == (100_000, 128, 10_000_000)
    assert (paper.trajectory_length, paper.overwrite_probability, paper.seed) == (100, 0.05, 1)
    assert 10.0e9 < paper.memory_bytes() < 11.0e9
    assert PairsConfig().memory_bytes() < 1.2e9
