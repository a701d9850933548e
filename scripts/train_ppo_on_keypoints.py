"""Train PPO of Stable-Baselines3 on the keypoints of an Atari game, and say how well it plays."""

import argparse
from pathlib import Path

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from kpagent import KeypointObservation
from kpagent.envs.making import make_env


def make_keypoint_env(env_id: str, weights: str, copies: int, seed: int) -> VecEnv:
    def make() -> KeypointObservation:
        # Coordinates alone, without features: a few numbers for each frame.
        return KeypointObservation(make_env(env_id), weights, flatten=True, features=False)

    # One frame has no velocities; four have.
    return VecFrameStack(make_vec_env(make, n_envs=copies, seed=seed), n_stack=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="ALE/Pong-v5", help="id of the game")
    parser.add_argument("--weights", default="pong", help="name of shipped weights, or path of a weights file")
    parser.add_argument("--steps", type=int, default=1_000_000, help="interactions to learn from")
    parser.add_argument("--copies", type=int, default=8, help="games played side by side")
    parser.add_argument("--episodes", type=int, default=5, help="episodes to evaluate on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/ppo_on_keypoints.zip"), help="where to save the agent")
    args = parser.parse_args()

    env = make_keypoint_env(args.env, args.weights, copies=args.copies, seed=args.seed)
    agent = PPO("MlpPolicy", env, n_steps=128, learning_rate=2.5e-4, ent_coef=0.01, seed=args.seed, device="cpu", verbose=1)
    agent.learn(args.steps)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    agent.save(args.out)
    print(f"saved {args.out}")

    if args.episodes:
        fresh = make_keypoint_env(args.env, args.weights, copies=1, seed=args.seed + 1)
        mean, std = evaluate_policy(agent, fresh, n_eval_episodes=args.episodes)
        print(f"return {mean:.1f} ± {std:.1f} over {args.episodes} episodes of {args.env}")


if __name__ == "__main__":
    main()
