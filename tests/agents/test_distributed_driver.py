"""A process that explores with Ray: it is killed, and taken up again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from test_distributed_crew import CONFIG, HERE

from kpagent.agents.exploration import CHECKPOINT

pytest.importorskip("ray")

ROOT = Path(__file__).parents[2]
INTERACTIONS = 2400

DRIVER = """
import contextlib, dataclasses, sys, time
from pathlib import Path
import ray
from test_distributed_driver import CONFIG, INTERACTIONS
from kpagent.agents.crews import count_actions, make_crew
from kpagent.agents.exploration import explore
from kpagent.agents.solo_crew import SoloCrew
CONFIG = dataclasses.replace(CONFIG, interactions=INTERACTIONS)
env_id, out, resume = "walking_games:PoisonedWalk-v0", Path(sys.argv[1]), sys.argv[2] == "resume"
with contextlib.closing(make_crew(env_id, CONFIG, 1)) as crew:
    turns = explore(env_id, count_actions(env_id, CONFIG), crew, CONFIG, out, resume=resume, checkpoint_every_s=0.0)
    with contextlib.closing(turns):
        for turn in turns:
            print(turn.interactions, turn.learning, flush=True)
            if turn.learning and not resume:
                time.sleep(600)
print(crew.faults["envs"] > 0, ray.is_initialized())
"""


def children(pid: int) -> set[int]:
    found = {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return found.union(*map(children, found)) if found else found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_driver_that_is_killed_takes_its_ray_along_and_its_run_is_taken_up_quietly(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": HERE}
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "run")]
    with subprocess.Popen([*command, "new"], stdout=subprocess.PIPE, text=True, env=environment) as driver:
        assert driver.stdout is not None
        last = next(line for line in driver.stdout if "True" in line)
        time.sleep(0.5)
        # Ray's agents, which only watch, look for their parent once in a while.
        processes = {each for each in children(driver.pid) if b"Agent" not in Path(f"/proc/{each}/cmdline").read_bytes()}
        driver.kill()
    assert len(processes) >= 4
    end = time.monotonic() + 30
    while any(map(alive, processes)):
        assert time.monotonic() < end
        time.sleep(0.2)
    assert (tmp_path / "run" / CHECKPOINT).exists()
    done = subprocess.run([*command, "resume"], capture_output=True, text=True, timeout=200, check=False, env=environment)
    assert done.stderr == ""
    *turns, end_line = done.stdout.splitlines()
    assert int(turns[0].split()[0]) >= int(last.split()[0]) - CONFIG.envs * CONFIG.round_length
    assert int(turns[-1].split()[0]) >= INTERACTIONS
    assert end_line == "True False"
    assert not (tmp_path / "run" / CHECKPOINT).exists()


def test_the_example_of_a_cluster_is_what_ray_accepts() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load((ROOT / "docs" / "cluster.yaml").read_text())))
