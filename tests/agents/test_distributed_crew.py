from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from walking_games import ACTIONS, SIZE, read

from kpagent.agents.crews import make_actor, make_crew
from kpagent.agents.distributed_crew import FAILURES, ROUNDS_AHEAD, Player, RayCrew, Refusal, Shard
from kpagent.agents.exploration import ExplorationConfig, new_perception
from kpagent.agents.option_actor import Experience, Weights
from kpagent.agents.option_learner import OptionLearningConfig
from kpagent.agents.option_network import OptionNetwork, OptionNetworkConfig
from kpagent.agents.solo_crew import SoloCrew
from kpagent.collect.distributed import workers
from kpagent.collect.frame_replay import FRAME
from kpagent.collect.replay import Segments
from kpagent.errors import UsageError
from kpagent.perception.online import OnlineConfig

ray = pytest.importorskip("ray")

HERE = str(Path(__file__).parent)
CONFIG = ExplorationConfig(
    num_keypoints=2,
    warm_up=1000,
    warm_up_steps=2,
    envs=2,
    capacity=4000,
    network=OptionNetworkConfig(image_size=SIZE, filters=(4, 4, 4), embedding=16, hidden=8),
    learning=OptionLearningConfig(batch_size=4),
    keypoints=OnlineConfig(batch_size=2),
)
STORE = 80 * 2**20


def weights_that_prefer(action: int) -> Weights:
    network = OptionNetwork(CONFIG.num_keypoints, ACTIONS, CONFIG.network)
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.eye(ACTIONS)[action].repeat(CONFIG.num_keypoints * 4))
    states = {"network": network.state_dict(), "perception": new_perception(CONFIG).state_dict()}
    return {part: {name: tensor.numpy() for name, tensor in state.items()} for part, state in states.items()}


def assert_whole(segments: Segments) -> None:
    """Rows that are said to follow each other did, in one episode, and each action is the one that led to the next frame."""
    episode, step, before = read(segments.observation[FRAME])
    follow = segments.valid[:, 1:] & segments.valid[:, :-1]
    assert follow.any()
    assert (episode[:, 1:] == episode[:, :-1])[follow].all()
    assert (step[:, 1:] == step[:, :-1] + 1)[follow].all()
    assert (before[:, 1:] == segments.action[:, :-1])[follow].all()
    assert (segments.first == (step == 0))[segments.valid].mean() > 0.9


def assert_pairs(pairs: tuple[np.ndarray, np.ndarray], count: int) -> None:
    (episode, step, _), (other_episode, other_step, _) = map(read, pairs)
    assert len(episode) == count
    assert (episode == other_episode).all()
    assert (step < other_step).all()
    assert (other_step <= step + CONFIG.offset[1]).all()


def gather_until(crew: RayCrew, holds: Callable[[], bool], seconds: float = 60) -> list[Experience]:
    gathered, end = [], time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        gathered += crew.gather(random=False)
    return gathered


# Without Ray: what lives in its processes.


def test_one_actor_in_this_process_needs_no_ray_and_gives_one_result_for_one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(os, "urandom", lambda count: bytes(count))
    found = []
    for seed in (0, 0, 1):
        crew = make_crew("walking_games:Walk-v0", dataclasses.replace(CONFIG, seed=seed))
        assert isinstance(crew, SoloCrew)
        crew.publish(weights_that_prefer(1))
        gathered = [each for _ in range(3) for each in crew.gather(random=False)]
        segments = crew.sample(4, 5, np.random.default_rng(0))
        assert_whole(segments)
        crew.close()
        found.append([each.action.tobytes() for each in gathered] + [segments.observation[FRAME].tobytes()])
    assert found[0] == found[1] != found[2]


def player(env_id: str, life: int = 0) -> Player:
    return Player(lambda seed: make_actor(f"walking_games:{env_id}", CONFIG, seed), CONFIG, 3, life)


def test_an_environment_that_raises_is_made_anew_and_its_rows_do_not_follow_on_those_before() -> None:
    poisoned, shard = player("PoisonedWalk-v0"), Shard(CONFIG, 4000, 0, 0)
    weights = weights_that_prefer(1)
    failures = []
    for number in range(60):
        played, rows = poisoned.play(0, weights, False)
        assert played.summary.frames == []
        assert played.summary.interactions == rows.experience.interactions == 40
        assert shard.store(rows) == 40 * (number + 1)
        failures.append(played.failures)
    assert failures[-1] == 2
    for seed in range(5):
        segments, pairs = shard.sample(64, 21, seed), shard.pairs(64, seed)
        assert isinstance(segments, Segments)
        assert_whole(segments)
        assert_pairs(pairs, 64)  # type: ignore[arg-type]


def test_an_environment_that_always_raises_ends_with_one_line() -> None:
    with pytest.raises(UsageError, match=rf"failed {FAILURES + 1} times in a row .* RuntimeError: poison, as it does$"):
        player("BrokenWalk-v0").play(0, weights_that_prefer(1), False)


def test_each_life_of_an_actor_plays_something_else() -> None:
    weights = weights_that_prefer(1)
    actions = [player("Walk-v0", life).play(0, weights, True)[1].experience.action for life in (0, 0, 1)]
    assert (actions[0] == actions[1]).all()
    assert (actions[0] != actions[2]).any()


def test_a_shard_says_what_it_lacks_and_keeps_no_more_than_it_may() -> None:
    shard = Shard(CONFIG, 100, 0, 0)
    assert isinstance(shard.sample(4, 5, 0), Refusal)
    assert isinstance(shard.pairs(4, 0), Refusal)
    walking = player("Walk-v0")
    held = [shard.store(walking.play(0, weights_that_prefer(1), False)[1]) for _ in range(5)]
    assert held == [40, 80, 100, 100, 100]


def test_a_round_that_was_lost_or_an_actor_that_began_anew_breaks_the_trajectory() -> None:
    weights = weights_that_prefer(1)
    walking, shard = player("Walk-v0"), Shard(CONFIG, 4000, 0, 0)
    for number in range(40):
        if number == 20:
            walking = player("Walk-v0", life=1)
        rows = walking.play(0, weights, False)[1]
        if number % 3:
            shard.store(rows)
    for seed in range(5):
        segments, pairs = shard.sample(64, 21, seed), shard.pairs(64, seed)
        assert isinstance(segments, Segments)
        assert_whole(segments)
        assert_pairs(pairs, 64)  # type: ignore[arg-type]


# On Ray.


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that plays nothing, and one machine that does."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", HERE)
        # Ray waits fifteen seconds before it believes that a machine is gone.
        health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 5}
        head = {"num_cpus": 0, "object_store_memory": STORE, "_system_config": health}
        started = Cluster(initialize_head=True, head_node_args=head)
        started.add_node(num_cpus=2, object_store_memory=STORE)
        ray.init(address=started.address, log_to_driver=False, logging_level="ERROR")
        yield started
        ray.shutdown()
        started.shutdown()


@pytest.fixture(scope="module")
def crew(cluster: Any) -> Iterator[RayCrew]:
    started = make_crew("walking_games:Walk-v0", CONFIG, 2, 2)
    assert isinstance(started, RayCrew)
    started.publish(weights_that_prefer(1))
    yield started
    started.close()


def process(team: workers.Workers, number: int) -> dict[str, Any]:
    found: dict[str, Any] = ray._private.state.actors(team._handles[number]._actor_id.hex())
    return found


def kill(team: workers.Workers, number: int) -> None:
    os.kill(process(team, number)["Pid"], signal.SIGKILL)


def held(crew: RayCrew) -> list[int]:
    return [crew._held(number) for number in (0, 1)]


def test_two_actors_fill_two_shards_and_the_learner_draws_from_both(crew: RayCrew) -> None:
    gathered = gather_until(crew, lambda: min(held(crew)) >= 500)
    assert sum(each.interactions for each in gathered) == sum(held(crew))
    assert all(not each.frames and not each.state for each in gathered)
    generator = np.random.default_rng(0)
    episodes = set()
    for _ in range(5):
        segments = crew.sample(16, 21, generator)
        assert segments.action.shape == (16, 21)
        assert segments.observation[FRAME].flags.writeable
        assert_whole(segments)
        assert_pairs(crew.pairs(8, generator), 8)
        episodes |= set(read(segments.observation[FRAME])[0].ravel().tolist())
    shards = [crew._shards.result(crew._shards.send(number, "sample", 200, 2, 0)) for number in (0, 1)]
    of_shard = [set(read(each.observation[FRAME])[0].ravel().tolist()) for each in shards]
    assert of_shard[0] & of_shard[1] <= {0}
    assert episodes & of_shard[0] - {0}
    assert episodes & of_shard[1] - {0}
    # The next sample of a kind that was asked for twice is under way before anybody asks.
    assert set(crew._ordered) == {("sample", 16, 21), ("pairs", 8)}


def test_weights_reach_everybody_once_a_version(crew: RayCrew) -> None:
    for action in (2, 3):
        crew.publish(weights_that_prefer(action))
        version = crew._version
        gather_until(crew, lambda: all(one.played.worker in crew._actors.numbers for one in crew._rounds))
        for _ in range(6):
            newest = crew.gather(random=False)[-1]
        assert np.bincount(newest.action.ravel()).argmax() == action
        assert crew._version == version


def test_actors_do_not_run_ahead_of_a_learner_that_is_busy(crew: RayCrew) -> None:
    before = sum(held(crew))
    time.sleep(3)
    crew._keep_busy = lambda: None  # type: ignore[method-assign]
    gathered = gather_until(crew, lambda: not crew._rounds)
    del crew._keep_busy
    assert sum(each.interactions for each in gathered) == ROUNDS_AHEAD * 2 * CONFIG.round_length * CONFIG.envs
    assert sum(held(crew)) <= min(CONFIG.capacity, before + sum(each.interactions for each in gathered))


def test_an_actor_that_is_killed_is_started_again_with_the_weights_of_the_day(crew: RayCrew) -> None:
    crew.publish(weights_that_prefer(0))
    crew.gather(random=False)
    kill(crew._actors, 0)
    gather_until(crew, lambda: crew._actors.life(0) == 1)
    rounds = crew._rounds
    found = [one for one in rounds if (one.played.worker, one.played.life) == (0, 1)]
    assert found
    summaries = [crew._actors.result(one.played).summary for one in found]
    assert all(np.bincount(each.action.ravel()).argmax() == 0 for each in summaries)
    crew.gather(random=False)
    assert crew.faults == {"actors": 1, "shards": 0, "envs": 0}
    assert_whole(crew.sample(64, 21, np.random.default_rng(1)))
    assert_pairs(crew.pairs(64, np.random.default_rng(1)), 64)


def test_a_shard_that_is_killed_is_filled_again_while_the_learner_draws_from_the_other(crew: RayCrew) -> None:
    generator = np.random.default_rng(2)
    gather_until(crew, lambda: min(held(crew)) >= 1500)
    for _ in range(3):
        crew.sample(16, 21, generator)
    kill(crew._shards, 1)
    gather_until(crew, lambda: crew._shards.life(1) == 1)
    assert held(crew)[1] < 500
    assert_whole(crew.sample(16, 21, generator))
    gather_until(crew, lambda: held(crew)[1] >= 500)
    assert crew.faults == {"actors": 1, "shards": 1, "envs": 0}
    assert_whole(crew.sample(64, 21, generator))
    assert_pairs(crew.pairs(64, generator), 64)


def test_the_learner_waits_where_no_shard_has_anything_left(crew: RayCrew) -> None:
    generator = np.random.default_rng(3)
    kill(crew._shards, 0)
    kill(crew._shards, 1)
    # Nothing has told the crew yet.
    while crew.faults["shards"] < 3:
        crew.pairs(16, generator)
    assert sum(held(crew)) >= CONFIG.warm_up
    assert_whole(crew.sample(64, 21, generator))
    # Rounds that came in meanwhile are not forgotten.
    assert sum(each.interactions for each in crew.gather(random=False)) >= CONFIG.warm_up


def test_a_full_object_store_spills_and_the_crew_goes_on(crew: RayCrew) -> None:
    generator = np.random.default_rng(4)
    fill = [ray.put(np.full(16 * 2**20, number, np.uint8)) for number in range(10)]
    for _ in range(4):
        crew.gather(random=False)
        assert_whole(crew.sample(16, 21, generator))
    assert [ray.get(ref)[0] for ref in fill] == list(range(10))


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actors": -1}, "actors must be at least 0"),
        ({"actors": 3}, "3 actors need a CPU each, and the Ray cluster has 2"),
        ({"shards": 3}, "shards must be from 1 to the number of actors, 2; got 3"),
        ({"shards": 0}, "shards must be from 1"),
        ({"config": dataclasses.replace(CONFIG, envs=50)}, "2 actors with 50 copies each need a capacity of 10100"),
        ({"env_id": "walking_games:Wlak-v0"}, "Wlak"),
        ({"env_id": "Pendulum-v1"}, "Pendulum-v1 has no numbered actions"),
        ({"address": "127.0.0.1:1"}, "no Ray cluster answers at 127.0.0.1:1"),
    ],
)
def test_mistakes(changes: dict[str, Any], message: str) -> None:
    wanted: dict[str, Any] = {"env_id": "walking_games:Walk-v0", "config": CONFIG, "actors": 2, "shards": 2} | changes
    if "config" in changes:
        wanted["config"] = dataclasses.replace(wanted["config"], capacity=2000)
    with pytest.raises(UsageError, match=message) as caught:
        make_crew(**wanted)
    assert "\n" not in str(caught.value)


def test_a_machine_that_goes_away_costs_no_more_than_what_lay_on_it(
    crew: RayCrew, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(5)
    [first] = cluster.worker_nodes
    second = cluster.add_node(num_cpus=2, object_store_memory=STORE)
    cluster.remove_node(first, allow_graceful=False)
    deaths = crew.faults["actors"]
    # The shards may be full again before the last death is seen.
    gathered = gather_until(crew, lambda: crew.faults["actors"] == deaths + 2)
    gathered += gather_until(crew, lambda: min(held(crew)) >= 500)
    assert gathered
    assert_whole(crew.sample(64, 21, generator))
    assert_pairs(crew.pairs(64, generator), 64)
    cluster.remove_node(second, allow_graceful=False)
    monkeypatch.setattr(workers, "PATIENCE_S", 1.0)
    with pytest.raises(UsageError, match="the Ray cluster has no CPU left") as caught:
        gather_until(crew, lambda: False)
    assert "\n" not in str(caught.value)
