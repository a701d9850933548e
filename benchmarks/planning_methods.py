"""What the planning benchmark compares, and where each method has its subgoals from (KeyIn Table 2)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import gymnasium as gym

    from kpagent.agents.subgoal_planner import SubgoalSource
    from kpagent.envs.pushing.puck_world import PuckWorld

Method = Literal[
    "initial",
    "random",
    "no_subgoals",
    "tap",
    "surprise",
    "jumpy",
    "keyin",
    "keyin_keypoints",
    "keyin_positions",
    "true_subgoals",
    "no_subgoals_learned",
    "keyin_learned",
]
METHODS: tuple[Method, ...] = get_args(Method)
WITHOUT_MODEL = ("initial", "random", "no_subgoals", "true_subgoals")
"""Methods that need no training."""
LEARNED = ("no_subgoals_learned", "keyin_learned")
"""Methods that see keypoints alone, and whose dynamics are learned too; all others have the simulator's."""
UPPER_BOUNDS = ("true_subgoals", "keyin_positions")
"""They know what no other method does: how a demonstrator solved the task, or true positions."""
PAPER_ERROR = {
    "initial": 1.32,
    "random": 1.32,
    "no_subgoals": 0.90,
    "tap": 0.80,
    "surprise": 0.64,
    "jumpy": 0.62,
    "keyin": 0.50,
}
PAPER_SUCCESS = {"no_subgoals": 0.150, "tap": 0.233, "surprise": 0.508, "jumpy": 0.588, "keyin": 0.642}
"""Table 2, of the paper's tasks; its methods see frames."""


def model_result(keyframes: Path, method: str, seed: int) -> Path:
    """The result of the run of `kpagent bench keyframes` that trained the model of a method on pushing.

    Args:
        keyframes: folder of that benchmark's runs.
        method: its name, the same there.
        seed: of the run.
    """
    from kpagent.benchmarks.keyframes import KeyframeDiscovery

    return KeyframeDiscovery(runs=keyframes).plan("pushing", method, seed).path


def learned_dynamics(learned: Path, seed: int) -> Path:
    """The Struct-VRNN of methods with learned dynamics, as `kpagent dynamics train` writes it."""
    return learned / f"seed_{seed}" / "dynamics" / "model.safetensors"


def learned_keyframes(learned: Path, seed: int) -> Path:
    """The KeyIn on its keypoints, as `kpagent keyframes train` writes it."""
    return learned / f"seed_{seed}" / "keyframes" / "model.safetensors"


def needed(keyframes: Path, learned: Path, method: str, seed: int) -> tuple[Path, ...]:
    """The files that must be there before a method can plan."""
    if method in WITHOUT_MODEL:
        return ()
    if method in LEARNED:
        dynamics = learned_dynamics(learned, seed)
        return (dynamics, learned_keyframes(learned, seed)) if method == "keyin_learned" else (dynamics,)
    return (model_result(keyframes, method, seed),)


def subgoal_source(
    keyframes: Path, method: str, seed: int, env: gym.Env[Any, Any], world: PuckWorld
) -> SubgoalSource | None:
    """The source of a method's subgoals; None where it goes straight to the goal.

    Args:
        keyframes: folder of the runs of `kpagent bench keyframes`.
        method: but true_subgoals, whose subgoals are the task's own, and those of `LEARNED`.
        seed: of the model.
        env: `kpagent/Pushing-v0`.
        world: of the servoing.

    Raises:
        UsageError: a run is not finished or is damaged.
    """
    from kpagent.agents.pushing_planners import puck_reading
    from kpagent.agents.subgoal_sources import KeyInSubgoals, SurpriseSubgoals, TimeAgnosticSubgoals
    from kpagent.benchmarks.keyframe_runs import load_model
    from kpagent.subgoals.keyin import KeyIn
    from kpagent.subgoals.surprise import SurprisePredictor
    from kpagent.subgoals.time_agnostic import TimeAgnosticPredictor

    if method in WITHOUT_MODEL:
        return None
    model: Any = load_model(_arguments(model_result(keyframes, method, seed)) | {"device": "cpu"})
    reading = puck_reading(env, model, world)
    if isinstance(model, TimeAgnosticPredictor):
        return TimeAgnosticSubgoals(model, reading)
    if isinstance(model, SurprisePredictor):
        return SurpriseSubgoals(model, reading)
    assert isinstance(model, KeyIn)
    return KeyInSubgoals(model, reading)


def _arguments(result: Path) -> dict[str, Any]:
    from kpagent.errors import UsageError

    try:
        found = json.loads(result.read_text(encoding="utf-8"))["arguments"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{result} is no result of a run of kpagent bench keyframes") from error
    assert isinstance(found, dict)
    return found
