"""The runs of the control benchmark, as `runs.run_all` calls them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from kpagent.agents.mpc_learning import MPCLearningConfig

ControlMethod = Literal["keypoint_mpc", "model_only", "sac_pixels", "sac_keypoints", "random"]
METHODS: tuple[ControlMethod, ...] = get_args(ControlMethod)
CURVE = "curve.json"
"""In the folder of a run: interactions, return and seconds so far of each episode that ended in training."""


def run_control(
    method: str,
    env_id: str,
    repeat: int,
    seed: int,
    folder: str,
    *,
    model: Mapping[str, Any],
    learning: Mapping[str, Any],
    episodes: int,
    device: str = "auto",
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Learn one task by one method, and play some episodes of it; agents that plan are taken up where they were killed.

    Args:
        method: one of `METHODS`.
        env_id: as of `make_control_env`.
        repeat: likewise.
        seed: of everything that is drawn.
        folder: of the run.
        model: `StructVRNNConfig` as plain values.
        learning: as of `learning_config`, of the agent that plans; others take from it what is theirs.
        episodes: of evaluation, without noise.
        device: auto, cpu or cuda.
        changes: arguments of SAC that are to differ.

    Returns:
        For JSON: `returns` of the episodes of evaluation; `interactions` learned from; `curve`, [interactions so far,
        return, seconds so far] of each episode that ended in training; `wall_s`, `cpu_s` and `peak_memory_mb` of learning,
        over all goes; `decisions_per_s` on the clock, in evaluation.
    """
    config = learning_config(learning, method)
    if method in ("sac_pixels", "sac_keypoints"):
        from kpagent.benchmarks.control_peers import train_sac

        return train_sac(
            method,
            env_id,
            repeat,
            seed,
            folder,
            interactions=config.interactions,
            random=config.random,
            episodes=episodes,
            longest=config.longest,
            model=model,
            training=config.training,
            device=device,
            changes=changes,
        )
    return _run_planner(method, env_id, repeat, seed, Path(folder), model, config, episodes, device)


def learning_config(values: Mapping[str, Any], method: str = "keypoint_mpc") -> MPCLearningConfig:
    """How the agent that plans learns.

    Args:
        values: `interactions`, `random`, `first_updates`, `updates`, `code_steps`, `candidates` and `seed`.
        method: `model_only` plays at random throughout, and its dynamics learn without rewards, as often.
    """
    from dataclasses import replace

    from kpagent.agents.control_learning import ControlTraining
    from kpagent.agents.control_model import RewardReadConfig
    from kpagent.agents.keypoint_mpc import MPCConfig
    from kpagent.agents.mpc_learning import MPCLearningConfig

    given = dict(values)
    training = ControlTraining.of(int(given.pop("code_steps")))
    planner = MPCConfig(candidates=int(given.pop("candidates")))
    config = MPCLearningConfig(**given, capacity=max(1_000, int(given["interactions"])), training=training, planner=planner)
    if method == "model_only":
        due = config.due(config.interactions)
        config = replace(config, random=config.interactions, first_updates=due, rewards=RewardReadConfig(shapes=False))
    return config


def _run_planner(
    method: str,
    env_id: str,
    repeat: int,
    seed: int,
    folder: Path,
    model: Mapping[str, Any],
    config: MPCLearningConfig,
    episodes: int,
    device: str,
) -> dict[str, Any]:
    import gymnasium as gym

    from kpagent.agents.control_play import RandomPolicy, play
    from kpagent.agents.mpc_learning import AGENT, evaluation_seed, learn_control, load_planner
    from kpagent.benchmarks.control_peers import TimedPolicy
    from kpagent.benchmarks.learning_runs import counting, spent
    from kpagent.dynamics.configuration import StructVRNNConfig
    from kpagent.envs.control_play import make_control_env
    from kpagent.training import pick_device

    where = pick_device(device)
    with contextlib.closing(make_control_env(env_id, repeat=repeat)) as env:
        if method == "random":
            assert isinstance(env.action_space, gym.spaces.Box)
            policy: Any = RandomPolicy(env.action_space, seed)
        else:
            about, shape = {"env": env_id, "repeat": repeat}, StructVRNNConfig.from_dict(dict(model))
            with counting(folder) as keep:
                run = learn_control(env, shape, config, folder, provenance=about, device=where, resume=True)
                with contextlib.closing(run):  # type: ignore[type-var]
                    for report in run:
                        if report.ended is not None:
                            keep()
                            _note(folder, report.interactions, report.ended, spent(folder)["wall_s"])
                            print(f"{report.interactions} interactions: return {report.ended:.1f}", flush=True)
            policy = load_planner(folder / AGENT, env, device=where, seed=seed)
        timed = TimedPolicy(policy)
        returns = []
        for number in range(episodes):
            *_, last = play(timed, env, evaluation_seed(seed, number), longest=config.longest)
            returns.append(last.total)
    return {
        "returns": returns,
        "interactions": 0 if method == "random" else config.interactions,
        "curve": _curve(folder),
        "decisions_per_s": timed.rate,
        **spent(folder),
    }


def _curve(folder: Path) -> list[list[float]]:
    path = folder / CURVE
    found: list[list[float]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return found


def _note(folder: Path, at: int, value: float, seconds: float) -> None:
    """Add an episode, in place of what a run that was taken up has played again."""
    from kpagent.files import write_json

    write_json(folder / CURVE, [*(each for each in _curve(folder) if each[0] < at), [at, value, seconds]])
