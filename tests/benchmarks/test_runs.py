import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kpagent.benchmarks.runs import Run, run_all
from kpagent.errors import UsageError

FUNCTIONS = """
import os, pathlib, sys, time
from kpagent.errors import UsageError

def double(number, marks=None):
    if marks:
        with open(marks, "a") as file:
            file.write("called\\n")
    print("to stdout")
    print("to stderr", file=sys.stderr)
    return {"twice": 2 * number, "pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")}

def refuse():
    raise UsageError("no such game; there are two")

def crash():
    raise RuntimeError("a fault\\nin two lines")

def die():
    os.kill(os.getpid(), 9)

def sleep(pid_file):
    pathlib.Path(pid_file).write_text(str(os.getpid()))
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "run_functions.py").write_text(FUNCTIONS)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def run(name: str, path: Path, **arguments: Any) -> Run:
    return Run(f"run_functions:{name}", arguments, path)


def test_each_run_has_a_process_of_its_own_and_is_not_repeated(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    runs = [run("double", tmp_path / "out" / f"{n}.json", number=n, marks=str(marks)) for n in (3, 1, 2)]
    said: list[str] = []
    results = run_all(runs, jobs=2, threads=1, say=said.append)
    assert [result["twice"] for result in results] == [6, 2, 4]
    assert len({os.getpid(), *(result["pid"] for result in results)}) == 4
    assert {result["threads"] for result in results} == {"1"}
    assert sum("begun" in line for line in said) == sum("done" in line for line in said) == 3
    assert runs[0].log.read_text().splitlines() == ["to stdout", "to stderr"]
    assert json.loads(runs[0].path.read_text())["arguments"] == {"number": 3, "marks": str(marks)}

    again: list[str] = []
    assert run_all(runs, say=again.append) == results
    assert again == []
    assert marks.read_text().count("called") == 3
    runs[1].path.unlink()
    assert run_all(runs)[1]["threads"] is None
    assert marks.read_text().splitlines() == ["called"] * 4


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("refuse", "no such game; there are two"),
        ("crash", "in two lines"),
        ("die", "killed by signal 9, perhaps for want of memory"),
        ("missing", "no attribute 'missing'"),
    ],
)
def test_a_failure_is_one_line_with_the_reason_and_the_log(tmp_path: Path, name: str, reason: str) -> None:
    failing = run(name, tmp_path / "failing.json")
    with pytest.raises(UsageError) as raised:
        run_all([failing])
    assert reason in str(raised.value)
    assert str(failing.log) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not failing.done
    # Only a fault of the program is worth its traceback.
    assert ("Traceback" in failing.log.read_text()) == (name in ("crash", "missing"))


def test_after_a_failure_nothing_is_begun(tmp_path: Path) -> None:
    runs = [run("refuse", tmp_path / "a.json"), run("double", tmp_path / "b.json", number=1)]
    with pytest.raises(UsageError, match="no such game"):
        run_all(runs)
    assert not runs[1].done
    assert not runs[1].log.exists()


def test_what_cannot_be_a_run_is_refused_before_anything_starts(tmp_path: Path) -> None:
    good = run("double", tmp_path / "good.json", number=1)
    for bad, message in (
        (run("double", tmp_path / "good.json", number=2), "same file"),
        (run("double", tmp_path / "bad.txt", number=2), "must end in .json"),
        (run("double", tmp_path / "bad.json", number=(1, 2)), "unchanged"),
        (run("double", tmp_path / "bad.json", number=Path("x")), "unchanged"),
    ):
        with pytest.raises(UsageError, match=message):
            run_all([good, bad])
    with pytest.raises(UsageError, match="at least 1"):
        run_all([good], jobs=0)
    assert not good.log.exists()


def test_a_file_of_another_run_is_not_taken_for_this_one(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    run_all([run("double", path, number=1)])
    with pytest.raises(UsageError, match=r"other settings, \{'number': 1\}"):
        run_all([run("double", path, number=2)])
    path.write_text("{}")
    with pytest.raises(UsageError, match="no result of a run"):
        run_all([run("double", path, number=1)])


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        run_all([run("double", tmp_path / "file" / "result.json", number=1)])


@pytest.mark.parametrize("deadly", [signal.SIGKILL, signal.SIGINT])
def test_a_run_ends_with_the_process_that_started_it(tmp_path: Path, deadly: signal.Signals) -> None:
    pid_file, path = tmp_path / "pid", tmp_path / "result.json"
    code = f"""
import pathlib, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from kpagent.benchmarks.runs import Run, run_all
run_all([Run("run_functions:sleep", {{"pid_file": {str(pid_file)!r}}}, pathlib.Path({str(path)!r}))])
"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as parent:
        wait_for(lambda: pid_file.exists() and pid_file.read_text())
        parent.send_signal(deadly)
        parent.wait(10)
    child = int(pid_file.read_text())
    wait_for(lambda: not alive(child))
    assert not path.exists()


def wait_for(holds: Any) -> None:
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        # A process that has ended and that nobody waits for is no longer at work.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
