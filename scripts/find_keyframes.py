"""Find the frames in which a ball turns, from where it is alone: KeyIn on sequences of coordinates.

The sequences are Structured Brownian motion: a ball that keeps its direction for six to eight frames. Nobody says when it
turns; the keyframes are those from which all other frames can be told.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from kpagent import KeyIn
from kpagent.envs.brownian import BrownianConfig, simulate
from kpagent.evaluation.keyframes import match_sequences
from kpagent.subgoals.baselines import constant_keyframes, random_keyframes
from kpagent.subgoals.code_sequences import CodeSequences
from kpagent.subgoals.configuration import KeyInConfig
from kpagent.subgoals.learning import LearningConfig, learn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/keyframes_of_a_ball"), help="folder of the run")
    parser.add_argument("--sequences", type=int, default=20_000, help="to learn from")
    parser.add_argument("--interpolator-steps", type=int, default=6_000, help="of the first stage")
    parser.add_argument("--steps", type=int, default=4_000, help="of the second stage")
    parser.add_argument("--resume", action="store_true", help="take up the run in OUT")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    positions, _ = simulate(BrownianConfig(), 0, args.sequences)
    sequences = CodeSequences(list(positions))
    config = LearningConfig.fast()
    first = replace(config.interpolator, steps=args.interpolator_steps, seed=args.seed)
    second = replace(config.keyframes, steps=args.steps, seed=args.seed)
    config = replace(config, interpolator=first, keyframes=second)
    torch.manual_seed(args.seed)
    model = KeyIn(KeyInConfig.keypoints(size=2))
    for report in learn(model, sequences, config, args.out, resume=args.resume):
        if report.held_out:
            print(f"{report.stage}, step {report.step} of {report.steps}: held-out loss {report.held_out['loss']:.4f}")

    # Other sequences. What is given, and the last frame, which ends every way to cut a sequence, do not count.
    positions, turns = simulate(BrownianConfig(), 1, 500)
    true = [np.flatnonzero(row) for row in turns]
    ways = {
        "inferred": model.discover(positions).inside(),
        "searched": model.search(positions).inside(),
        "constant": [constant_keyframes(model.config)] * len(true),
        "random": random_keyframes(model.config, len(true)),
    }
    for name, found in ways.items():
        exact, near = (
            match_sequences(found, true, off, start=model.config.given, stop=model.config.length - 1).f1 for off in (0, 1)
        )
        print(f"{name}: F1 {exact:.2f}, {near:.2f} within one frame")


if __name__ == "__main__":
    main()
