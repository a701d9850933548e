"""Agents that act on keypoints; they receive an environment and never make one."""

if __name__ != "kpagent.agents":
    raise ImportError("import kpagent.agents, not agents")
