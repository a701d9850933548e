"""How well rewards are predicted, as a share of the error of predicting their mean (Struct-VRNN Figure 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kpagent.dynamics.reward_states import RewardStates
from kpagent.dynamics.rewards import RewardPredictor
from kpagent.errors import UsageError

_WINDOWS = 256


@dataclass(frozen=True)
class RewardErrors:
    """Of one domain: mean squared errors over windows, at each frame that has a reward."""

    observed: tuple[float, ...]
    """(L - 1,) where all frames are observed."""
    imagined: tuple[float, ...]
    """(P,) where frames are imagined."""
    null: tuple[float, ...]
    """(L - 1,) of the null model, which predicts the mean reward of the training set at all frames."""
    first_imagined: int
    """Which of the frames with a reward is the first that is imagined."""

    @property
    def observed_share(self) -> float:
        """Error over all observed frames by that of the null model: below 1 where something was learned."""
        return sum(self.observed) / sum(self.null)

    @property
    def imagined_share(self) -> float:
        """The same over all imagined frames."""
        return sum(self.imagined) / sum(self._null_imagined)

    def curves(self) -> dict[str, list[float]]:
        """`observed` and `imagined`: the error at each frame, as a share of the null model's at that frame."""
        parts = {"observed": (self.observed, self.null), "imagined": (self.imagined, self._null_imagined)}
        return {
            name: [error / max(null, 1e-30) for error, null in zip(errors, nulls, strict=True)]
            for name, (errors, nulls) in parts.items()
        }

    def plain(self) -> dict[str, Any]:
        """As JSON values, of which `of` makes the same again."""
        shares = {"observed_share": self.observed_share, "imagined_share": self.imagined_share}
        lists = {"observed": list(self.observed), "imagined": list(self.imagined), "null": list(self.null)}
        return shares | lists | {"first_imagined": self.first_imagined}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> RewardErrors:
        """From what `plain` gave."""
        observed, imagined, null = (tuple(plain[name]) for name in ("observed", "imagined", "null"))
        return cls(observed, imagined, null, int(plain["first_imagined"]))

    @property
    def _null_imagined(self) -> tuple[float, ...]:
        return self.null[self.first_imagined : self.first_imagined + len(self.imagined)]


def reward_errors(predictor: RewardPredictor, states: RewardStates) -> dict[str, RewardErrors]:
    """Errors of each domain on windows that were not learned from; predictions of several futures are averaged.

    Raises:
        UsageError: the predictor has other domains, or all rewards of a domain are the training set's mean.
    """
    if states.domains != predictor.config.domains:
        found, known = ", ".join(states.domains), ", ".join(predictor.config.domains)
        raise UsageError(f"{states.sequences.path} holds {found}, and there are rewards of {known}")
    predictor.eval()
    return {name: _errors(predictor, states, number, name) for number, name in enumerate(states.domains)}


def _errors(predictor: RewardPredictor, states: RewardStates, number: int, name: str) -> RewardErrors:
    rows, device = states.of(number), predictor.state_mean.device
    came = states.rewards[rows].astype(np.float64)
    null = np.square(came - float(predictor.reward_mean[number])).mean(axis=0)
    # Below what float32 can tell from the mean.
    if null[states.foretold].sum() <= 1e-12 * max(1.0, float(np.square(came).sum())):
        raise UsageError(f"all rewards of {name} in {states.sequences.path} are the same: record more sequences")
    observed, imagined = [], []
    for start in range(0, len(rows), _WINDOWS):
        some = rows[start : start + _WINDOWS]
        seen = torch.from_numpy(states.observed[some]).to(device)
        first, memory = predictor.predict(name, seen[:, : states.foretold.start])
        others, _ = predictor.predict(name, seen[:, states.foretold.start :], memory)
        observed.append(torch.cat([first, others], dim=1).cpu().numpy())
        # One continuation after the other, each from what is remembered of the frames that were seen.
        futures = torch.from_numpy(states.imagined[some]).to(device).flatten(0, 1)
        guess, _ = predictor.predict(name, futures, memory.repeat_interleave(states.config.futures, dim=1))
        imagined.append(guess.unflatten(0, (len(some), -1)).mean(dim=1).cpu().numpy())
    return RewardErrors(
        _means(np.concatenate(observed) - came),
        _means(np.concatenate(imagined) - came[:, states.foretold]),
        tuple(null.tolist()),
        states.foretold.start,
    )


def _means(differences: np.ndarray) -> tuple[float, ...]:
    return tuple(np.square(differences).mean(axis=0).tolist())
