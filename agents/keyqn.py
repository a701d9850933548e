"""KeyQN: Q-learning from keypoints with a recurrent network (Transporter sections 3.2.1 and 4.2.1).

The paper names neural fitted Q-iteration and gives no more of it. This is its present form: windows of experience from a
replay that keeps the recurrent state of the time (R2D2, Kapturowski et al. 2019), double Q-learning with n-step targets of
which the least of two critics is trusted, dueling heads, a target network that follows slowly and plays while it is learned
from, and an average over the last tenth of all updates that plays afterwards.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import LinearSchedule, get_system_info, polyak_update
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.nn import functional as F

from kpagent.agents.agent_file import load_agent, save_agent
from kpagent.agents.keypoint_policy import KeypointPolicy, require_discrete, require_keypoints
from kpagent.agents.q_network import KeypointQNetwork, NetworkConfig
from kpagent.agents.targets import double_q_values, n_step_targets
from kpagent.agents.value_atoms import gaussian_histogram
from kpagent.collect.replay import SegmentReplay, Segments
from kpagent.envs.keypoint_observation import keypoint_space
from kpagent.errors import UsageError
from kpagent.fields import require
from kpagent.training import prefers_bf16

SelfKeyQN = TypeVar("SelfKeyQN", bound="KeyQN")

HYPERPARAMETERS = (
    "learning_rate",
    "buffer_size",
    "learning_starts",
    "batch_size",
    "sequence_length",
    "burn_in",
    "tau",
    "gamma",
    "n_steps",
    "initial_gamma",
    "initial_n_steps",
    "anneal_updates",
    "gradient_steps",
    "exploration_fraction",
    "exploration_initial_eps",
    "exploration_final_eps",
    "reset_interval",
    "reset_until",
    "jitter",
    "clip_rewards",
    "max_grad_norm",
    "precision",
    "seed",
)
"""Arguments of the constructor that are kept with an agent."""
AVERAGED = 10
"""The average that plays spans one part in so many of all updates."""


class KeyQN(OffPolicyAlgorithm):
    """Recurrent Q-learning on the observations of `KeypointObservation`.

    Args:
        policy: "KeypointPolicy".
        env: an environment of keypoints with discrete actions, or a VecEnv of them.
        learning_rate: AdamW's.
        buffer_size: transitions to keep.
        learning_starts: interactions before the first update.
        batch_size: windows an update.
        sequence_length: rows of a window that are learned from.
        burn_in: rows before them that warm the recurrent state.
        tau: how far the target network moves towards the network at each update.
        gamma: discount of a transition.
        n_steps: transitions summed before a value is trusted.
        initial_gamma: discount to begin with, annealed to `gamma`.
        initial_n_steps: as `n_steps`, to begin with.
        anneal_updates: updates until `gamma` and `n_steps` are reached; 0 has them from the start.
        train_freq: steps of every environment between updates.
        gradient_steps: updates then; -1 for one for each interaction.
        exploration_fraction: share of `learn`'s interactions over which random actions become rare.
        exploration_initial_eps: share of random actions at first.
        exploration_final_eps: and at last.
        reset_interval: interactions between two resets of the network against loss of plasticity; 0 never resets.
        reset_until: share of `learn`'s interactions after which there is none.
        jitter: standard deviation of noise on coordinates in learning, against overfitting.
        clip_rewards: learn from the sign of rewards, as is done on Atari.
        max_grad_norm: gradients are scaled down to it.
        precision: bf16 runs embedding and LSTM in bfloat16; auto takes it where it is faster.
        stats_window_size: games that the logged score is a mean of.
        tensorboard_log: folder for TensorBoard; none is written without.
        policy_kwargs: `network`, a `NetworkConfig`, and `weight_decay`.
        verbose: 0 is silent, 1 prints what is logged.
        seed: of the network, the draws and the environment.
        device: auto, cpu or cuda.

    Raises:
        UsageError: no environment, or one without keypoints or without numbered actions; or a value above is out of range.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"KeypointPolicy": KeypointPolicy}
    policy: KeypointPolicy

    def __init__(
        self,
        policy: str | type[KeypointPolicy] = "KeypointPolicy",
        env: GymEnv | str | None = None,
        learning_rate: float = 3e-4,
        buffer_size: int = 100_000,
        learning_starts: int = 2_000,
        batch_size: int = 32,
        sequence_length: int = 16,
        burn_in: int = 2,
        tau: float = 0.005,
        gamma: float = 0.99,
        n_steps: int = 10,
        initial_gamma: float = 0.97,
        initial_n_steps: int = 10,
        anneal_updates: int = 10_000,
        train_freq: int = 1,
        gradient_steps: int = 2,
        exploration_fraction: float = 0.1,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.01,
        reset_interval: int = 0,
        reset_until: float = 0.8,
        jitter: float = 0.0,
        clip_rewards: bool = True,
        max_grad_norm: float = 10.0,
        precision: str = "auto",
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if isinstance(env, (gym.Env, VecEnv)):
            require_discrete(env.action_space)
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            n_steps=n_steps,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
            sde_support=False,
            support_multi_env=True,
        )
        self.sequence_length, self.burn_in = sequence_length, burn_in
        self.initial_gamma, self.initial_n_steps, self.anneal_updates = initial_gamma, initial_n_steps, anneal_updates
        self.exploration_fraction = exploration_fraction
        self.exploration_initial_eps, self.exploration_final_eps = exploration_initial_eps, exploration_final_eps
        self.reset_interval, self.reset_until = reset_interval, reset_until
        self.jitter, self.clip_rewards, self.max_grad_norm, self.precision = jitter, clip_rewards, max_grad_norm, precision
        self._check(env is not None or not _init_setup_model)
        self.last_reset = 0
        """Updates done when the network was last reset."""
        self._resets = 0
        self.provenance: dict[str, Any] = {}
        """What it learned from, as JSON values; kept with the agent."""
        if _init_setup_model:
            self._setup_model()

    def _check(self, has_environment: bool) -> None:
        if not has_environment:
            raise UsageError("KeyQN needs an environment: KeyQN(env=...); to play without one, KeyQN.load(path)")
        # Stable-Baselines3 counts them only where there is an environment.
        copies = getattr(self, "n_envs", 1)
        checks = {
            "learning_rate must be a positive number": isinstance(self.learning_rate, (int, float))
            and self.learning_rate > 0,
            f"buffer_size must leave {self.burn_in + 2} rows for each of {copies} environments": self.buffer_size // copies
            >= self.burn_in + 2,
            "batch_size must be at least 1": self.batch_size >= 1,
            "sequence_length must be at least 2": self.sequence_length >= 2,
            "burn_in must not be negative": self.burn_in >= 0,
            "tau must be in (0, 1]": 0 < self.tau <= 1,
            "gamma must be in [0, 1)": 0 <= self.gamma < 1,
            "initial_gamma must be in [0, 1)": 0 <= self.initial_gamma < 1,
            "n_steps must be at least 1": self.n_steps >= 1,
            "initial_n_steps must be at least 1": self.initial_n_steps >= 1,
            "exploration_initial_eps must be in [0, 1]": 0 <= self.exploration_initial_eps <= 1,
            "exploration_final_eps must be in [0, 1]": 0 <= self.exploration_final_eps <= 1,
            "jitter must not be negative": self.jitter >= 0,
            "precision must be auto, bf16 or float32": self.precision in ("auto", "bf16", "float32"),
        }
        require(self, checks)

    def _setup_model(self) -> None:
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self._convert_train_freq()
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        )
        self.policy = self.policy.to(self.device)
        self.q_net, self.q_net_target = self.policy.q_net, self.policy.q_net_target
        self.q_net_average = self.policy.q_net_average
        assert isinstance(self.observation_space, spaces.Dict)
        parts = {name: (space.shape, np.float32) for name, space in self.observation_space.spaces.items()}
        self.replay = SegmentReplay(self.buffer_size, self.n_envs, parts, self.q_net.state_shapes)  # type: ignore[arg-type]
        self.generator = np.random.default_rng(self.seed)
        self.exploration_schedule = LinearSchedule(
            self.exploration_initial_eps, self.exploration_final_eps, self.exploration_fraction
        )
        self._state: dict[str, Tensor] | None = None
        self._first = np.ones(self.n_envs, bool)
        self._stepping = False
        bf16 = prefers_bf16(self.device) if self.precision == "auto" else self.precision == "bf16"
        self._autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    # Acting

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Almost greedy, each environment with a coin and a recurrent state of its own; random while warming up."""
        if self._state is None:
            self._state, self._first = self.q_net.initial_state(n_envs), np.ones(n_envs, bool)
        assert isinstance(self._last_obs, dict)
        self._state_before = self._state
        self._stepping = True
        values, self._state = self.policy.q_values(self._last_obs, self._state, self._first, self.q_net_target)
        actions = values.argmax(dim=1).cpu().numpy()
        warming = self.num_timesteps < learning_starts
        explore = self.generator.random(n_envs) < (1.0 if warming else self.policy.exploration_rate)
        actions = np.where(explore, self.generator.integers(self.q_net.num_actions, size=n_envs), actions)
        return actions, actions

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer | None,
        buffer_action: np.ndarray,
        new_obs: Any,
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        assert self._state is not None
        assert isinstance(self._last_obs, dict)
        truncated = np.array(
            [done and info.get("TimeLimit.truncated", False) for done, info in zip(dones, infos, strict=True)]
        )
        before = {name: part.cpu().numpy() for name, part in self._state_before.items()}
        # A state is zero before the first row; what is left from the last episode is not kept.
        for part in before.values():
            part[self._first] = 0
        after = {name: part.cpu().numpy() for name, part in self._state.items()}
        rewards = np.sign(reward) if self.clip_rewards else reward
        finals = [info.get("terminal_observation") if cut else None for cut, info in zip(truncated, infos, strict=True)]
        self.replay.add(self._last_obs, before, buffer_action, rewards, dones & ~truncated, truncated, finals, after)
        self._last_obs, self._first = new_obs, dones.astype(bool)
        self._stepping = False

    def _on_step(self) -> None:
        self.policy.exploration_rate = self.exploration_schedule(self._current_progress_remaining)
        self.logger.record("rollout/exploration_rate", self.policy.exploration_rate)

    # Learning

    def train(self, gradient_steps: int, batch_size: int = 32) -> None:
        """Update the network on `gradient_steps` batches from the replay."""
        self._update_learning_rate(self.policy.optimizer)
        losses: list[Tensor] = []
        in_time = self.num_timesteps < self.reset_until * self._total_timesteps
        if self.reset_interval and in_time and self.num_timesteps // self.reset_interval > self._resets:
            self._reset_network()
            self._resets += 1
        if not self.replay.can_sample(self.burn_in):
            return
        for _ in range(gradient_steps):
            window = self.replay.sample(batch_size, self.sequence_length, self.burn_in, self.generator)
            loss, values = self.loss(window)
            self.policy.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.q_net.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            polyak_update(self.q_net.parameters(), self.q_net_target.parameters(), self.tau)
            self._n_updates += 1
            polyak_update(self.q_net.parameters(), self.q_net_average.parameters(), self._averaging_rate())
            losses.append(loss.detach())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", float(torch.stack(losses).mean()))
        self.logger.record("train/q_value", float(values))

    def loss(self, window: Segments) -> tuple[Tensor, Tensor]:
        """Mean loss of the rows of a window that are learned from, and their mean Q-value.

        Cross-entropy between the distribution of each action's value and its n-step double Q target; with one atom, the
        Huber loss of the value itself.
        """
        observation = {name: torch.as_tensor(value, device=self.device) for name, value in window.observation.items()}
        if self.jitter > 0:
            observation["xy"] = observation["xy"] + self.jitter * torch.randn_like(observation["xy"])
        state = {name: torch.as_tensor(value, device=self.device) for name, value in window.state.items()}
        action, reward, terminated, first, usable = (
            torch.as_tensor(array, device=self.device)
            for array in (window.action, window.reward, window.terminated, window.first, window.usable())
        )
        warm, learn = slice(0, window.burn_in), slice(window.burn_in, None)
        # Only the first learned row can begin an episode that is learned from.
        begins = torch.zeros_like(first[:, learn])
        begins[:, 0] = first[:, window.burn_in]
        with self._autocast:
            with torch.no_grad():
                code = self.q_net.encode(observation, first, state)
                target_state = self.q_net_target.warm(code[:, warm], first[:, warm], state)
                target_logits, _ = self.q_net_target.values(code[:, learn], begins, target_state)
                online_state = self.q_net.warm(code[:, warm], first[:, warm], state)
            logits, _ = self.q_net.values(code[:, learn], begins, online_state)
        n_step, discount = self.horizon()
        with torch.no_grad():
            online, target = self.q_net.expectation(logits), self.q_net.expectation(target_logits)
            value = double_q_values(online, target)
            goal = n_step_targets(reward[:, learn], terminated[:, learn], usable[:, learn], value, n_step, discount)[
                usable[:, learn]
            ]
        critics, atoms = logits.shape[2], logits.shape[4]
        chosen = action[:, learn, None, None, None].expand(-1, -1, critics, 1, atoms)
        picked = logits.gather(3, chosen).squeeze(3)[usable[:, learn]]
        goal = goal.unsqueeze(1).expand(-1, critics)
        if atoms == 1:
            losses = F.smooth_l1_loss(picked.squeeze(-1), goal, reduction="none")
        else:
            histogram = gaussian_histogram(goal, self.q_net.support)
            losses = F.cross_entropy(picked.flatten(0, 1), histogram.flatten(0, 1), reduction="none")
        # Now and then no row of a batch can be learned from.
        return losses.sum() / max(1, losses.numel()), online.detach().mean(dim=2).amax(dim=-1).mean()

    def horizon(self) -> tuple[int, float]:
        """Transitions to sum and the discount of each, at the present update (annealed as by Schwarzer et al. 2023)."""
        done = self._n_updates - self.last_reset
        share = min(1.0, done / self.anneal_updates) if self.anneal_updates > 0 else 1.0
        n_step = self.initial_n_steps * (self.n_steps / self.initial_n_steps) ** share
        away = (1 - self.initial_gamma) * ((1 - self.gamma) / (1 - self.initial_gamma)) ** share
        return round(n_step), 1 - away

    def _averaging_rate(self) -> float:
        """Of the average that plays afterwards: at every update it spans the last tenth of those since the last reset."""
        return AVERAGED / (self._n_updates - self.last_reset + AVERAGED)

    def _reset_network(self) -> None:
        """Half of the way back to new parameters below the head, all of it in the head (Schwarzer et al. 2023)."""
        net, config = self.q_net, self.policy.network
        new = KeypointQNetwork(net.num_keypoints, net.given_features, net.num_actions, config).to(self.device)
        with torch.no_grad():
            for (name, parameter), fresh in zip(net.named_parameters(), new.parameters(), strict=True):
                keep = 0.0 if name.startswith(("value.", "advantage.")) else 0.5
                parameter.lerp_(fresh, 1 - keep)
        for follower in (self.q_net_target, self.q_net_average):
            follower.load_state_dict(net.state_dict())
        self.policy.optimizer.state.clear()
        self.last_reset = self._n_updates

    def learn(
        self: SelfKeyQN,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "KeyQN",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfKeyQN:
        """Interact and learn, as every algorithm of Stable-Baselines3 does.

        Raises:
            UsageError: there is no environment.
        """
        if self.env is None:
            raise UsageError("KeyQN has no environment to learn in: KeyQN(env=...), load(..., env=...) or set_env(...)")
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self._stepping:
            # What a step that was broken off led to was never seen.
            self._last_obs, self._stepping = None, False
        if reset_num_timesteps:
            self._resets = 0
        before = self._last_obs
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        if self._last_obs is not before:
            self._state = None
            self.replay.interrupt()
        return result

    # Keeping

    def save(
        self,
        path: str | Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Write the agent to one safetensors file, without anything pickled.

        Args:
            path: of the file; `.safetensors` is added where it has no suffix.
            exclude: "replay" and "optimizer" can be left out; the replay is, unless included.
            include: "replay" keeps the replay too, so that learning goes on where it was.

        Raises:
            UsageError: the file cannot be written.
        """
        if isinstance(path, io.IOBase):
            raise UsageError("KeyQN saves to a path, not to an open file")
        left_out = ({"replay"} | set(exclude or ())) - set(include or ())
        tensors = {name: getattr(self, name).state_dict() for name in ("q_net", "q_net_target", "q_net_average")}
        if "replay" not in left_out:
            tensors["replay"] = {name: torch.as_tensor(value) for name, value in self.replay.state_dict().items()}
        optimizer = self.policy.optimizer.state_dict()
        if "optimizer" in left_out:
            optimizer = optimizer | {"state": {}}
        about = {
            "algorithm": type(self).__name__,
            "keypoints": self.q_net.num_keypoints,
            "features": self.q_net.given_features,
            "actions": self.q_net.num_actions,
            "hyperparameters": {name: getattr(self, name) for name in HYPERPARAMETERS},
            "train_freq": [self.train_freq.frequency, self.train_freq.unit.value],  # type: ignore[union-attr]
            "network": dataclasses.asdict(self.policy.network),
            "progress": {
                "num_timesteps": self.num_timesteps,
                "_total_timesteps": self._total_timesteps,
                "_n_updates": self._n_updates,
                "_episode_num": self._episode_num,
                "_resets": self._resets,
                "last_reset": self.last_reset,
                "num_envs": self.n_envs,
                "exploration_rate": self.policy.exploration_rate,
                "generator": self.generator.bit_generator.state,
            },
            "provenance": self.provenance,
        }
        save_agent(_with_suffix(path), about, tensors, optimizer)

    @classmethod
    def load(
        cls: type[SelfKeyQN],
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfKeyQN:
        """Read what `save` wrote; nothing in the file can run code.

        Args:
            path: of the file.
            env: to go on in; not needed to predict.
            device: where to put the networks.
            custom_objects: not used; there is nothing to deserialise.
            print_system_info: as in Stable-Baselines3.
            force_reset: not used; the environment is always reset before learning goes on.
            kwargs: arguments of the constructor that are to differ.

        Raises:
            UsageError: no such file, damaged or altered, no agent of KeyQN, or of another environment.
        """
        if isinstance(path, io.IOBase):
            raise UsageError("KeyQN loads from a path, not from an open file")
        if print_system_info:
            get_system_info()
        about, tensors, optimizer = load_agent(path, cls.__name__)
        try:
            return cls._restore(path, about, tensors, optimizer, env, device, kwargs)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            reason = " ".join(str(error).split())
            raise UsageError(
                f"{path} does not hold what its own description asks for, or an argument is wrong: {reason}"
            ) from None

    @classmethod
    def _restore(
        cls: type[SelfKeyQN],
        path: str | Path,
        about: dict[str, Any],
        tensors: dict[str, dict[str, Tensor]],
        optimizer: dict[str, Any],
        env: GymEnv | None,
        device: torch.device | str,
        changes: dict[str, Any],
    ) -> SelfKeyQN:
        progress, frequency = about["progress"], about["train_freq"]
        arguments = about["hyperparameters"] | {"train_freq": tuple(frequency)} | changes
        network = NetworkConfig(**about["network"] | {"value_range": tuple(about["network"]["value_range"])})
        arguments.setdefault("policy_kwargs", {"network": network})
        if env is None:
            agent = cls(device=device, _init_setup_model=False, **arguments)
            agent.observation_space = keypoint_space(about["keypoints"], about["features"])
            agent.action_space = spaces.Discrete(about["actions"])
            agent.n_envs = progress["num_envs"]
            agent._setup_model()
        else:
            agent = cls(env=env, device=device, **arguments)
            found = (*require_keypoints(agent.observation_space), agent.q_net.num_actions)
            wanted = (about["keypoints"], about["features"], about["actions"])
            if found != wanted:
                raise UsageError(
                    "{} plays with {} keypoints of {} features and {} actions; the environment has {}, {} and {}".format(
                        path, *wanted, *found
                    )
                )
        agent.q_net.load_state_dict(tensors["q_net"])
        agent.q_net_target.load_state_dict(tensors["q_net_target"])
        # Agents from before there was an average played with the target network.
        agent.q_net_average.load_state_dict(tensors.get("q_net_average", tensors["q_net_target"]))
        agent.policy.optimizer.load_state_dict(optimizer)
        if "replay" in tensors and agent.n_envs == progress["num_envs"]:
            agent.replay.load_state_dict({name: value.numpy() for name, value in tensors["replay"].items()})
        for name in ("num_timesteps", "_total_timesteps", "_n_updates", "_episode_num", "_resets", "last_reset"):
            setattr(agent, name, progress[name])
        agent.policy.exploration_rate = progress["exploration_rate"]
        agent.generator.bit_generator.state = progress["generator"]
        agent.provenance = about["provenance"]
        return agent

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """The `state_dict` of the policy, and of its optimiser."""
        return {"policy": self.policy.state_dict(), "policy.optimizer": self.policy.optimizer.state_dict()}

    def set_parameters(
        self,
        load_path_or_dict: str | dict[str, Any],
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """Take the parameters of `get_parameters`, or of the agent in a file.

        Raises:
            UsageError: as `load`.
        """
        if not isinstance(load_path_or_dict, dict):
            load_path_or_dict = type(self).load(load_path_or_dict, device=self.device).get_parameters()
        super().set_parameters(load_path_or_dict, exact_match, device)  # type: ignore[arg-type]

    def save_replay_buffer(self, path: str | Path | io.BufferedIOBase) -> None:
        """Not needed: `save(path, include=["replay"])` keeps the replay in the agent's own file.

        Raises:
            UsageError: always.
        """
        raise UsageError('KeyQN keeps its replay with the agent: save(path, include=["replay"])')

    def load_replay_buffer(self, path: str | Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """Not needed: `load` reads the replay from the agent's own file.

        Raises:
            UsageError: always.
        """
        raise UsageError('KeyQN reads its replay with the agent: save(path, include=["replay"]), then KeyQN.load(path)')

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []


def _with_suffix(path: str | Path | io.BufferedIOBase) -> Path:
    path = Path(path)  # type: ignore[arg-type]
    return path if path.suffix else path.with_suffix(".safetensors")
