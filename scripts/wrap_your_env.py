"""Put keypoints in the place of pixels, and train an agent of Stable-Baselines3 on them."""

import argparse

import ale_py
import gymnasium as gym
from stable_baselines3 import PPO

from kpagent import KeypointObservation
from kpagent.envs.watching import format_observation

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--weights", default="pong", help="name of shipped weights, or path of a weights file")
weights = parser.parse_args().weights

gym.register_envs(ale_py)
env = KeypointObservation(gym.make("ALE/Pong-v5", frameskip=4, repeat_action_probability=0.0), weights)
observation, _ = env.reset(seed=0)
print(format_observation(observation))

# The same as one vector, which is what an MlpPolicy takes.
flat = KeypointObservation(gym.make("ALE/Pong-v5", frameskip=4, repeat_action_probability=0.0), weights, flatten=True)
agent = PPO("MlpPolicy", flat, n_steps=256, seed=0, device="cpu").learn(512)
print(f"PPO learned for {agent.num_timesteps} interactions from {gym.spaces.flatdim(flat.observation_space)} numbers each")
