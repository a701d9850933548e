"""Play keypoint options in place of actions: at random, as the paper explores, and with PPO on keypoints.

`kpagent explore` learns options, and keypoints to see with.
"""

import argparse
from pathlib import Path

import numpy as np
from stable_baselines3 import PPO

from kpagent import KeypointObservation, KeypointOptions
from kpagent.envs.making import make_env


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="ALE/MontezumaRevenge-v5", help="id of the game that the options were learned in")
    parser.add_argument("--run", type=Path, default=Path("runs/explore"), help="folder of a run of kpagent explore")
    parser.add_argument("--episodes", type=int, default=3, help="games of random options")
    parser.add_argument("--steps", type=int, default=2_000, help="options that PPO learns from")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    agent, keypoints = args.run / "agent.safetensors", args.run / "perception.safetensors"

    generator = np.random.default_rng(args.seed)
    env = KeypointOptions(make_env(args.env), agent)
    for episode in range(args.episodes):
        env.reset(seed=args.seed + episode)
        score, interactions, over = 0.0, 0, False
        while not over:
            # The most controllable keypoint, in any of four directions.
            option = (env.controllable(), generator.integers(4))
            _, reward, terminated, truncated, info = env.step(option)
            score, interactions, over = score + reward, interactions + info["interactions"], terminated or truncated
        print(f"game {episode + 1}: score {score:g} in {interactions} interactions")

    # Options as numbers, keypoints as one vector: what an MlpPolicy takes.
    options = KeypointObservation(KeypointOptions(make_env(args.env), agent, flat=True), keypoints, flatten=True)
    learner = PPO("MlpPolicy", options, n_steps=min(256, args.steps), seed=args.seed, device="cpu").learn(args.steps)
    print(f"PPO learned from {learner.num_timesteps} options")


if __name__ == "__main__":
    main()
