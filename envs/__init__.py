"""envs"""

if __name__ != "kpagent.envs":
    raise ImportError("import kpagent.envs, not envs")
