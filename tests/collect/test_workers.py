from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("ray")

FULL = """
import contextlib, functools, time
import numpy as np, ray
from kpagent.collect.distributed import Workers, put
from kpagent.errors import UsageError

class Giver:
    def __init__(self, number, life):
        self.number = number
    def give(self, size):
        return np.full(size, self.number, np.uint8)

quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
# A disk that counts as full from the start.
full = {"object_store_memory": 80 * 2**20, "_system_config": {"local_fs_capacity_threshold": 0.0001}}
ray.init("local", num_cpus=1, **full, **quiet)
with contextlib.closing(Workers(Giver, 1)) as team:
    give = functools.partial(team.send, 0, "give")
    print(len(team.result(give(2**20))))
    kept = []
    for lay in (put, lambda array: kept.append(give(array.size)) or team.result(kept[-1])):
        for size in (2**21, 2**18):
            try:
                while True:
                    kept.append(lay(np.zeros(size, np.uint8)))
            except UsageError as error:
                print(error)
    kept.clear()
    # What nobody refers to any more is freed a moment later.
    for _ in range(100):
        with contextlib.suppress(UsageError):
            print(len(team.result(give(2**20))), team.deaths)
            break
        time.sleep(0.1)
"""


def test_where_memory_and_disk_are_full_there_is_one_line() -> None:
    command = [sys.executable, "-c", FULL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=dict(os.environ))
    before, *errors, after = done.stdout.splitlines()
    assert before == str(2**20), done.stderr
    assert len(errors) == 4
    assert set(errors) == {
        "Ray's object store is full, and so is the disk that it spills to: free some, or keep less under way"
    }
    assert after == f"{2**20} 0"
    assert done.stderr == ""
