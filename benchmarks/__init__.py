"""One file for each table or figure that kpagent answers to, and for speed; results/ holds what they last printed."""

if __name__ != "kpagent.benchmarks":
    raise ImportError("import kpagent.benchmarks, not benchmarks")
