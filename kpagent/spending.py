"""What a piece of work costs: wall time, CPU time, and the most memory that its process has had."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path


class Meter:
    """Measures what this process spends from the meter's making on."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), cpu_seconds()

    def read(self) -> dict[str, float]:
        """`wall_s` and `cpu_s` since then, and `peak_memory_mb` of the process since it began."""
        return {
            "wall_s": round(time.monotonic() - self._wall, 3),
            "cpu_s": round(cpu_seconds() - self._cpu, 3),
            "peak_memory_mb": round(peak_memory_mb(), 1),
        }


def cpu_seconds() -> float:
    """Seconds of all cores that this process, with its threads, and the children that it waited for have taken."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_memory_mb() -> float:
    """Largest resident size in MB that this process has had since its program was started.

    On Linux this is the kernel's VmHWM: `getrusage` there also counts what the parent held when it started this process.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024 / 1e6
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024)
