"""benchmarks"""

if __name__ != "kpagent.benchmarks":
    raise ImportError("import kpagent.benchmarks, not benchmarks")
