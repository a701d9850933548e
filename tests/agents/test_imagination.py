"""Fast imagination against the dynamics' own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from kpagent.agents.imagination import Imagination
from kpagent.dynamics.configuration import DynamicsConfig, StructVRNNConfig
from kpagent.dynamics.vrnn import VRNN, Belief


def make(config: DynamicsConfig) -> tuple[VRNN, nn.Sequential, Belief, Tensor]:
    torch.manual_seed(0)
    dynamics = VRNN(config, 6)
    for parameter in dynamics.parameters():
        nn.init.normal_(parameter, std=0.5)
    held = config.rnn_units + dynamics.latent
    head = nn.Sequential(nn.Linear(held, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    belief, _ = dynamics.observe(torch.randn(1, 5, 6), torch.randn(1, 4, 2))
    return dynamics, head, belief, torch.randn(7, 9, 2)


def own(dynamics: VRNN, head: nn.Sequential, belief: Belief, actions: Tensor) -> Tensor:
    """What `imagine_each` and the head say, each future with draws of its own."""
    seen = dynamics.imagine_each(belief, actions.shape[1], samples=len(actions), actions=actions[None])
    return head(torch.cat([seen.hidden, seen.latent], dim=-1))[0, ..., 0].detach()


SMALL = replace(StructVRNNConfig.planning(2, 2).dynamics, rnn_units=12, latent=3, posterior_units=5, prior_units=4)


def test_it_is_what_the_dynamics_imagine_without_latents() -> None:
    dynamics, head, belief, actions = make(replace(SMALL, stochastic=False))
    found = Imagination(dynamics, head, precise=True)(belief, actions, futures=2)
    torch.testing.assert_close(found, own(dynamics, head, belief, actions), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("futures", [0, 1, 3])
def test_it_is_what_the_dynamics_imagine_where_they_are_sure(futures: int) -> None:
    dynamics, head, belief, actions = make(SMALL)
    with torch.no_grad():
        # Deviations of 1e-4: draws then hardly matter.
        last = list(dynamics.prior.children())[-1]
        assert isinstance(last, nn.Linear)
        last.weight[3:] = 0
        last.bias[3:] = -30
    found = Imagination(dynamics, head, precise=True)(belief, actions, futures=futures)
    torch.testing.assert_close(found, own(dynamics, head, belief, actions), atol=5e-3, rtol=5e-3)


def test_all_ways_to_act_have_the_same_draws() -> None:
    dynamics, head, belief, actions = make(SMALL)
    see = Imagination(dynamics, head, precise=True)
    same = see(belief, actions[:1].expand(5, -1, -1), futures=2, seed=3)
    torch.testing.assert_close(same, same[:1].expand(5, -1))
    assert not torch.allclose(same[:1], see(belief, actions[:1], futures=2, seed=4))
    # With many draws, the mean is that of many of the dynamics' own futures.
    many = see(belief, actions[:1], futures=4000)
    others = own(dynamics, head, belief, actions[:1].expand(4000, -1, -1)).mean(dim=0, keepdim=True)
    torch.testing.assert_close(many, others, atol=0.15, rtol=0.1)


def test_the_faster_precision_is_near() -> None:
    dynamics, head, belief, actions = make(SMALL)
    precise, fast = (Imagination(dynamics, head, precise=each)(belief, actions) for each in (True, False))
    assert (precise - fast).std() < 0.05 * precise.std()
    assert fast.dtype == torch.float32
