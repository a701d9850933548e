"""Train KeyQN on the keypoints of an Atari game, evaluate it as Stable-Baselines3 does, and save it."""

import argparse
from pathlib import Path

from stable_baselines3.common.evaluation import evaluate_policy

from kpagent import KeyQN
from kpagent.envs.players import make_players


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="ALE/Pong-v5", help="id of the game")
    parser.add_argument("--weights", default="pong", help="name of shipped weights, or path of a weights file")
    parser.add_argument("--steps", type=int, default=100_000, help="interactions to learn from")
    parser.add_argument("--copies", type=int, default=4, help="games played side by side")
    parser.add_argument("--episodes", type=int, default=10, help="whole games to evaluate on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/keyqn.safetensors"), help="where to save the agent")
    args = parser.parse_args()

    players = make_players(args.env, args.copies, args.weights, seed=args.seed)
    agent = KeyQN(env=players, seed=args.seed, verbose=1)
    agent.learn(args.steps)
    agent.save(args.out)
    print(f"saved {args.out}")

    if args.episodes:
        mean, std = evaluate_policy(agent, players, n_eval_episodes=args.episodes, deterministic=False)
        print(f"score {mean:.1f} ± {std:.1f} over {args.episodes} games of {args.env}")


if __name__ == "__main__":
    main()
