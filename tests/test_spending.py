import json
import subprocess
import sys
import time

import numpy as np
import pytest

from kpagent.spending import Meter, peak_memory_mb

LIGHT = "import sys; from kpagent.spending import peak_memory_mb; print(peak_memory_mb())"


def test_the_meter_counts_work_and_waiting_apart() -> None:
    meter = Meter()
    started = time.process_time()
    while time.process_time() - started < 0.2:
        pass
    time.sleep(0.2)
    spent = meter.read()
    assert 0.2 <= spent["cpu_s"] < 0.35
    assert spent["wall_s"] > 0.39
    assert json.loads(json.dumps(spent)) == spent


def test_the_meter_counts_children_that_were_waited_for() -> None:
    meter = Meter()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    assert meter.read()["cpu_s"] >= 0.29


def test_peak_memory_grows_with_what_was_held_and_stays() -> None:
    before = peak_memory_mb()
    held = np.ones(int(before * 1e6 / 8) + 20_000_000)
    assert held.nbytes / 1e6 < peak_memory_mb()
    peak = peak_memory_mb()
    del held
    assert peak_memory_mb() == pytest.approx(peak, rel=0.01)


def test_a_process_does_not_count_what_its_parent_held() -> None:
    held = np.ones(40_000_000)
    child = float(subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True).stdout)
    assert child < held.nbytes / 1e6
