"""agents"""

if __name__ != "kpagent.agents":
    raise ImportError("import kpagent.agents, not agents")
