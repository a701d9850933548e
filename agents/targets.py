"""Targets of Q-learning over segments: pure functions of tensors (B, T)."""

from __future__ import annotations

import torch
from torch import Tensor


def double_q_values(online: Tensor, target: Tensor) -> Tensor:
    """Value of the action that the online network prefers, in the eyes of the target network (van Hasselt et al. 2016).

    With several critics, the action is the one that they prefer on average, and its value the least that any of the
    target's gives it (Fujimoto et al. 2018).

    Args:
        online: (..., C, A) Q-values of the network that learns, of C critics.
        target: (..., C, A) Q-values of the target network.

    Returns:
        (...).

    Raises:
        ValueError: shapes differ.
    """
    if online.shape != target.shape or online.ndim < 2:
        raise ValueError(f"online {tuple(online.shape)} and target {tuple(target.shape)} must have one shape (..., C, A)")
    preferred = online.mean(dim=-2).argmax(dim=-1)
    return target.amin(dim=-2).gather(-1, preferred.unsqueeze(-1)).squeeze(-1)


def n_step_targets(
    reward: Tensor, terminated: Tensor, usable: Tensor, value: Tensor, n_step: int, discount: float
) -> Tensor:
    """Sum of the next `n_step` rewards and the value of where they lead, discounted.

    Where fewer transitions follow in the window, or the episode terminates, fewer are summed; nothing is bootstrapped
    from beyond a termination.

    Args:
        reward: (B, T) of the transition after each row.
        terminated: (B, T) bool, that transition terminated the episode.
        usable: (B, T) bool, the transition lies in the window, and the row after it unless it terminated.
        value: (B, T) of each row's observation.
        n_step: transitions to look ahead, at least 1.
        discount: of each transition, in [0, 1].

    Returns:
        (B, T); meaningless where not `usable`.

    Raises:
        ValueError: shapes differ, or n_step is below 1.
    """
    if not reward.shape == terminated.shape == usable.shape == value.shape or reward.ndim != 2:
        shapes = ", ".join(str(tuple(x.shape)) for x in (reward, terminated, usable, value))
        raise ValueError(f"reward, terminated, usable and value must have one shape (B, T), not {shapes}")
    if n_step < 1:
        raise ValueError(f"n_step must be at least 1, not {n_step}")
    length = reward.shape[1]
    rewards, ends, can = (torch.cat([x, x.new_zeros(x.shape[0], n_step)], dim=1) for x in (reward, terminated, usable))
    total = torch.zeros_like(reward)
    factor = torch.ones_like(reward)
    place = torch.arange(length, device=reward.device).expand_as(reward)
    going = torch.ones_like(usable)
    for step in range(n_step):
        window = slice(step, step + length)
        going = going & can[:, window]
        total = total + going * factor * rewards[:, window]
        ended = going & ends[:, window]
        factor = torch.where(going, factor * discount, factor) * ~ended
        place = place + going.long()
        going = going & ~ended
    return total + factor * value.gather(1, place.clamp(max=length - 1))


def q_lambda_targets(
    reward: Tensor, terminated: Tensor, usable: Tensor, next_value: Tensor, next_trace: Tensor, discount: float
) -> Tensor:
    """The n-step Q(λ) returns of segments, n being what is left of the segment: the mixture of all shorter returns.

        G_t = r_t + γ [(1 - c_{t+1}) V(s_{t+1}) + c_{t+1} G_{t+1}]

    With c = λ throughout it is Peng's Q(λ) (Peng and Williams 1996); with c = 0 wherever an action was taken that the
    Q-function itself would not have taken, Watkins's. Nothing follows a termination, and where the segment ends, V stands
    for the rest. Any number of Q-functions can follow the two leading axes, each with returns of its own.

    Args:
        reward: (B, T, ...) of the transition after each row.
        terminated: (B, T) bool, that transition terminated the episode.
        usable: (B, T) bool, the transition lies in the segment, and the row after it unless it terminated; once False, it
            stays so.
        next_value: (B, T, ...) V of the observation after each row's transition.
        next_trace: (B, T, ...) c of the row after each row, in [0, 1].
        discount: γ of each transition, in [0, 1].

    Returns:
        (B, T, ...); meaningless where not `usable`.

    Raises:
        ValueError: shapes do not fit.
    """
    fits = reward.shape == next_value.shape == next_trace.shape and reward.shape[:2] == terminated.shape == usable.shape
    if not fits:
        shapes = ", ".join(str(tuple(x.shape)) for x in (reward, terminated, usable, next_value, next_trace))
        raise ValueError(
            f"reward, next_value and next_trace must be (B, T, ...), terminated and usable (B, T), not {shapes}"
        )
    extra = (1,) * (reward.ndim - 2)
    returns = torch.empty_like(reward)
    later = next_value[:, -1]
    for row in reversed(range(reward.shape[1])):
        follows = usable[:, row + 1] if row + 1 < reward.shape[1] else torch.zeros_like(usable[:, row])
        trace = next_trace[:, row] * follows.unflatten(0, (-1, *extra))
        ahead = (1 - trace) * next_value[:, row] + trace * later
        later = reward[:, row] + discount * ahead * ~terminated[:, row].unflatten(0, (-1, *extra))
        returns[:, row] = later
    return returns
