"""States of a dynamics model for sequences with rewards, observed and imagined, computed once (Struct-VRNN S2.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kpagent.collect.sequences import Sequences
from kpagent.dynamics.learning import require_data
from kpagent.dynamics.rewards import state_size, to_states
from kpagent.dynamics.struct_vrnn import StructVRNN
from kpagent.dynamics.vrnn import Belief
from kpagent.errors import UsageError
from kpagent.fields import require, require_types

_WINDOWS = 32
"""At a time."""


@dataclass(frozen=True)
class StatesConfig:
    """Of what frames there are states."""

    length: int = 20
    """Frames of a window, all of which are observed once."""
    observed: int = 8
    """Frames that are observed before the others are imagined."""
    imagined: int = 10
    """Frames that are imagined after them, with the actions that were really taken."""
    futures: int = 4
    """Samples of what is imagined; their predictions are averaged where they are measured."""

    def __post_init__(self) -> None:
        require_types(self)
        checks = {
            "observed must be at least 2": self.observed >= 2,
            "imagined must be at least 1": self.imagined >= 1,
            "futures must be at least 1": self.futures >= 1,
            "length must be at least observed + imagined": self.length >= self.observed + self.imagined,
        }
        require(self, checks)


class RewardStates:
    """States and rewards of all windows of sequences; `encode` fills them.

    A frame that is the first of its window has no reward: those that count came with frames 1 to L - 1. Numbers are kept in
    float16: a window of 20 frames of a model with 600 numbers in a state takes 70 kB.

    Args:
        sequences: with rewards; those with labels are of several domains, others of one.
        model: what observes and imagines them.
        config: how.

    Raises:
        UsageError: no rewards, other actions than the model's, or no window of so many frames of each domain.

    Attributes:
        domains: names.
        labels: (N,) number of the domain of each window.
        observed: (N, L - 1, D) float16, states of frames 1 to L - 1.
        imagined: (N, F, P, D) float16, states of frames O to O + P - 1 where the O before them were observed.
        rewards: (N, L - 1) float32, those that came with frames 1 to L - 1.
    """

    def __init__(self, sequences: Sequences, model: StructVRNN, config: StatesConfig) -> None:
        if not sequences.has_rewards:
            raise UsageError(f"{sequences.path} has no rewards: record some with kpagent rewards record")
        require_data(model.config, str(sequences.path), points=len(sequences.truth_names), actions=sequences.action_dim)
        self.sequences, self.model, self.config = sequences, model, config
        self.domains = domain_names(sequences)
        count, size = sequences.num_ordered(config.length), state_size(model)
        self.labels = np.zeros(count, np.int64)
        self.observed = np.empty((count, config.length - 1, size), np.float16)
        self.imagined = np.empty((count, config.futures, config.imagined, size), np.float16)
        self.rewards = np.empty((count, config.length - 1), np.float32)
        # Windows are read in turn, but their labels are those of the sequences: known before anything is encoded.
        available = sequences.lengths // config.length
        labels = np.zeros(len(sequences), np.int64) if sequences.labels is None else sequences.labels
        for number, name in enumerate(self.domains):
            if not available[labels == number].any():
                raise UsageError(f"{sequences.path} has no sequence of {name} with {config.length} frames on either side")

    def __len__(self) -> int:
        return len(self.labels)

    def encode(self) -> Iterator[int]:
        """Encode some windows, and say how many are done."""
        config, model = self.config, self.model
        for first in range(0, len(self), _WINDOWS):
            windows = self.sequences.ordered(config.length, _WINDOWS, first=first)
            place = slice(first, first + len(windows["frames"]))
            codes = model.encode_sequence(windows["frames"])
            actions = torch.from_numpy(windows["actions"]).to(codes.device) if model.config.dynamics.actions else None
            seen = model.dynamics.observe_each(codes, actions)
            self.observed[place] = _halves(to_states(seen)[:, 1:])
            last = config.observed - 1
            after = None if actions is None else actions[:, last : last + config.imagined]
            now = Belief(*(part[:, last] for part in (seen.hidden, seen.code, seen.latent)))
            futures = model.dynamics.imagine_each(now, config.imagined, samples=config.futures, actions=after, seed=first)
            self.imagined[place] = _halves(to_states(futures))
            self.rewards[place] = windows["rewards"][:, :-1]
            if "labels" in windows:
                self.labels[place] = windows["labels"]
            yield place.stop

    def of(self, domain: int) -> np.ndarray:
        """Numbers of the windows of a domain."""
        return np.flatnonzero(self.labels == domain)

    @property
    def foretold(self) -> slice:
        """Where in the rewards of a window those of imagined frames are; before them are those of observed ones."""
        return slice(self.config.observed - 1, self.config.observed - 1 + self.config.imagined)


def domain_names(sequences: Sequences) -> tuple[str, ...]:
    """What the rewards of sequences are called: the names of their labels, or the one environment's."""
    return sequences.label_names or (str(sequences.header["name"]),)


def _halves(states: Tensor) -> np.ndarray:
    return states.clamp(-60_000, 60_000).to(torch.float16).cpu().numpy()
