"""Ship the agent of a benchmark's run, with its score: `python -m kpagent.benchmarks.shipping_agents GAME RUN_FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from kpagent.agents.keyqn import KeyQN
from kpagent.agents.learning_run import AGENT
from kpagent.agents.shipped import SHIPPED
from kpagent.errors import UsageError


def ship_agent(name: str, folder: Path) -> Path:
    """Put the agent of a finished run of `kpagent bench atari100k` into the package.

    Args:
        name: of the agent, that of its game.
        folder: of the run, such as runs/atari100k/pong/keyqn/seed_0.

    Returns:
        The file in the package.

    Raises:
        UsageError: the run is not finished, or is of another game.
    """
    agent = KeyQN.load(folder / AGENT, device="cpu")
    try:
        run = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except OSError:
        raise UsageError(f"{folder} holds no finished run of kpagent bench atari100k") from None
    arguments, result = run["arguments"], run["result"]
    if arguments["see"] != name or agent.provenance["env"] != arguments["env_id"]:
        raise UsageError(f"{folder} holds an agent of {arguments['env_id']} with the keypoints {arguments['see']}")
    about = agent.provenance
    about["command"] = f"kpagent train --env {about['env']} --weights {name} --seed {about['seed']} --out runs/{name}_agent"
    about["interactions"] = result["interactions"]
    about["score"] = {"mean": float(np.mean(result["scores"])), "games": len(result["scores"])}
    path = SHIPPED / f"{name}.safetensors"
    agent.save(path, exclude=["optimizer"])
    return path


if __name__ == "__main__":
    print(f"wrote {ship_agent(sys.argv[1], Path(sys.argv[2]))}")
