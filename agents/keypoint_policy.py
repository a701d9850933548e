"""The policy of KeyQN, as Stable-Baselines3 asks for one: networks, optimiser, and `predict` with recurrent state."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from kpagent.agents.q_network import KeypointQNetwork, NetworkConfig, State
from kpagent.errors import UsageError


class KeypointPolicy(BasePolicy):
    """Greedy, or almost, in the Q-values of a recurrent network.

    Args:
        observation_space: of `KeypointObservation`, not flattened.
        action_space: discrete.
        lr_schedule: learning rate, of which only the first is taken.
        network: sizes.
        weight_decay: AdamW's.

    Raises:
        UsageError: another observation or action space.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        network: NetworkConfig | None = None,
        weight_decay: float = 0.01,
    ) -> None:
        keypoints, depth = require_keypoints(observation_space)
        actions = require_discrete(action_space)
        super().__init__(observation_space, action_space, squash_output=False)
        self.network = network or NetworkConfig()
        self.exploration_rate = 0.0
        """Share of random actions where `predict` is not asked to be deterministic."""
        self.q_net = KeypointQNetwork(keypoints, depth, actions, self.network)
        self.q_net_target = KeypointQNetwork(keypoints, depth, actions, self.network)
        self.q_net_average = KeypointQNetwork(keypoints, depth, actions, self.network)
        for follower in (self.q_net_target, self.q_net_average):
            follower.load_state_dict(self.q_net.state_dict())
            follower.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.q_net.parameters(), lr=lr_schedule(1), weight_decay=weight_decay, eps=1e-6, fused=True
        )

    @torch.no_grad()
    def q_values(
        self,
        observation: dict[str, np.ndarray],
        state: State | None = None,
        first: np.ndarray | None = None,
        network: KeypointQNetwork | None = None,
    ) -> tuple[torch.Tensor, State]:
        """Q-values of one observation of each of N environments.

        Args:
            observation: (N, ...) for each part.
            state: after the observation before; None at the beginning of episodes.
            first: (N,) bool, where an episode begins; nowhere, if not given with a state.
            network: whose they are; without, those of the average of the network over the last tenth of its updates, which
                plays more steadily.

        Returns:
            (N, A), and the state after this observation.
        """
        seen = {name: torch.tensor(value, device=self.device).unsqueeze(1) for name, value in observation.items()}
        batch = len(seen["xy"])
        if state is None:
            state, first = self.q_net.initial_state(batch), np.ones(batch, bool)
        begins = torch.as_tensor(np.zeros(batch, bool) if first is None else np.asarray(first, bool), device=self.device)
        network = network or self.q_net_average
        logits, state = network(seen, begins.unsqueeze(1), state)
        return network.expectation(logits).squeeze(1).mean(dim=1), state

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Actions for one observation or a batch of them, and the recurrent state to hand in at the next call.

        Args:
            observation: of one environment, or of N with N in front of every array.
            state: what the last call returned; None at the first.
            episode_start: (N,) bool, which episodes begin with this observation.
            deterministic: greedy; otherwise `exploration_rate` of the actions are random.

        Returns:
            Actions, () or (N,), and the state.

        Raises:
            UsageError: not an observation of keypoints.
        """
        self.set_training_mode(False)
        seen, batched = self._batched(observation)
        parts = None
        if state is not None:
            tensors = (torch.as_tensor(part, device=self.device) for part in state)
            parts = dict(zip(self.q_net.state_shapes, tensors, strict=True))
        values, after = self.q_values(seen, parts, episode_start)
        actions = values.argmax(dim=1).cpu().numpy()
        if not deterministic:
            chance = np.array([self.np_random.random() < self.exploration_rate for _ in actions])
            actions = np.where(chance, self.np_random.integers(self.q_net.num_actions, size=len(actions)), actions)
        return actions if batched else actions[0], tuple(part.cpu().numpy() for part in after.values())

    @property
    def np_random(self) -> np.random.Generator:
        """Draws the random actions: the action space's own generator, which Stable-Baselines3 seeds."""
        return self.action_space.np_random

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> torch.Tensor:
        assert isinstance(observation, dict)
        values, _ = self.q_values({name: value.cpu().numpy() for name, value in observation.items()})
        return values.argmax(dim=1)

    def _batched(self, observation: np.ndarray | dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], bool]:
        assert isinstance(self.observation_space, spaces.Dict)
        if not isinstance(observation, dict) or set(observation) != set(self.observation_space.spaces):
            names = ", ".join(self.observation_space.spaces)
            raise UsageError(f"KeyQN acts on observations of KeypointObservation, a Dict of {names}")
        shape = self.observation_space["xy"].shape
        assert shape is not None
        batched = np.ndim(observation["xy"]) > len(shape)
        seen = {name: np.asarray(value, np.float32) for name, value in observation.items()}
        return (seen if batched else {name: value[None] for name, value in seen.items()}), batched

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {"observation_space": self.observation_space, "action_space": self.action_space, "network": self.network}


def require_keypoints(space: spaces.Space[Any]) -> tuple[int, int]:
    """K and D of the observations of `KeypointObservation`.

    Raises:
        UsageError: the space is another.
    """
    parts = space.spaces if isinstance(space, spaces.Dict) else {}
    shapes = {name: part.shape for name, part in parts.items()}
    xy = shapes.get("xy") or ()
    fits = len(xy) == 2 and xy[1] == 2 and shapes.get("presence") == xy[:1] and set(shapes) <= {"xy", "presence", "features"}
    if not fits:
        raise UsageError(
            "KeyQN acts on keypoints: wrap the environment in kpagent.KeypointObservation(env, WEIGHTS), not flattened;"
            f" its observations are {space}"
        )
    features = shapes.get("features")
    return xy[0], features[1] if features is not None else 0


def require_discrete(space: spaces.Space[Any]) -> int:
    """The number of actions.

    Raises:
        UsageError: the actions are not numbered from 0.
    """
    if not isinstance(space, spaces.Discrete) or space.start != 0:
        raise UsageError(f"KeyQN chooses among numbered actions, Discrete(n); the environment's are {space}")
    return int(space.n)
