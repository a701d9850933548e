from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from turning_dots import CODES, FRAMES, config, drawn, turning

from kpagent.subgoals.configuration import CodecConfig
from kpagent.subgoals.interpolator import Interpolator


class Recording(Interpolator):
    """Notes the segments that it is asked for, and gives the straight way between their ends."""

    seen: list[tuple[Tensor, Tensor, Tensor]]

    def forward(self, first: Tensor, last: Tensor, offsets: Tensor, latent: Tensor, steps: int | None = None) -> Tensor:
        self.seen = [*getattr(self, "seen", []), (first, last, offsets)]
        offset = offsets.argmax(dim=1) + 1
        shares = torch.arange(1, (steps or offsets.shape[1]) + 1) / offset[:, None]
        return first.unsqueeze(1) + shares.unsqueeze(-1) * (last - first).unsqueeze(1)


def test_segments_are_drawn_from_all_places_and_lengths() -> None:
    model = Recording(config(longest=5))
    # A dot that goes straight by one a frame tells where it is.
    line = np.stack([np.arange(9.0)] * 2, axis=-1)[None].repeat(200, axis=0)
    loss, metrics = model.loss({"codes": line, "seed": 1})
    ((first, last, offsets),) = model.seen
    begun, ended = first[:, 0].long(), last[:, 0].long()
    offset = offsets.argmax(dim=1) + 1
    assert torch.equal(ended - begun, offset)
    assert offset.unique().tolist() == [2, 3, 4]
    for length in (2, 3, 4):
        assert begun[offset == length].unique().tolist() == list(range(9 - length))
    # The straight way is right up to the end of each segment, and what comes after does not count.
    assert metrics["segment"] == pytest.approx(0, abs=1e-9)
    assert loss.item() == pytest.approx(1e-3 * metrics["segment_kl"].item(), rel=1e-5)
    assert "boundary" not in metrics


def test_an_error_is_summed_over_a_segments_frames() -> None:
    model = Recording(config(shortest_segment=3, longest_segment=3))
    bent = np.zeros((1, 4, 2))
    bent[:, 1:] = [[1, 0], [2, 0], [0, 0]]
    _, metrics = model.loss({"codes": bent, "seed": 0})
    assert metrics["segment"].item() == pytest.approx(1 + 4)


@pytest.mark.parametrize("codec", [CODES, FRAMES], ids=["codes", "frames"])
def test_the_loss_is_a_function_of_seed_and_reaches_all_parameters(codec: CodecConfig) -> None:
    torch.manual_seed(0)
    model = Interpolator(config(codec))
    places = turning(4, 8)[0]
    batch: Mapping[str, Any] = {"codes": places, "frames": drawn(places), "seed": (0, 3)}
    loss, metrics = model.loss(batch)
    assert torch.equal(loss, model.loss(batch)[0])
    assert not torch.equal(loss, model.loss({**batch, "seed": (0, 4)})[0])
    assert ("boundary" in metrics) == (codec is FRAMES)
    loss.backward()
    for name, value in model.named_parameters():
        assert value.grad is not None, name
        assert value.grad.abs().sum() > 0, name


def test_arrays_and_tensors_are_the_same() -> None:
    torch.manual_seed(0)
    model = Interpolator(config(FRAMES))
    frames = drawn(turning(3, 6)[0])
    first, _ = model.loss({"frames": frames, "seed": 0})
    assert torch.equal(first, model.loss({"frames": torch.from_numpy(frames), "seed": 0})[0])


def test_fewer_steps_are_the_first_ones() -> None:
    torch.manual_seed(0)
    model = Interpolator(config())
    offsets = F.one_hot(torch.tensor([1, 3]), 4).float()
    parts = (torch.randn(2, 2), torch.randn(2, 2), offsets, torch.randn(2, 2))
    whole = model(*parts)
    assert whole.shape == (2, 4, 2)
    torch.testing.assert_close(model(*parts, 3), whole[:, :3])


def test_short_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match="segments of up to 4 frames need sequences of 5 frames or more, not 4"):
        Interpolator(config()).loss({"codes": np.zeros((1, 4, 2)), "seed": 0})


def test_ways_that_are_not_straight_are_learned() -> None:
    torch.manual_seed(0)
    shape = config(units=32, layers=1, start_units=64)
    model = Interpolator(shape)
    # Along a parabola, from anywhere: where a segment begins and ends says how it bends.
    x = np.random.default_rng(0).uniform(-1, 0.2, (100, 1)) + 0.2 * np.arange(5)
    batch = {"codes": np.stack([x, 4 * x**2], axis=-1), "seed": 0}
    straight = Recording(shape).loss(batch)[1]["segment"].item()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(120):
        loss, metrics = model.loss(batch | {"seed": step})
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert metrics["segment"].item() < 0.2 * straight


def test_costs_are_errors_of_each_segment_alone() -> None:
    model = Recording(config(longest=5))
    places = torch.from_numpy(turning(2, 7)[0])
    costs = model.costs(places, places).numpy()
    assert costs.shape == (2, 6, 5)
    for b, n, s in np.ndindex(*costs.shape):
        length = s + 1
        if length not in (2, 3, 4) or n + length > 6:
            assert costs[b, n, s] == np.inf
            continue
        way = places[b, n] + torch.arange(1, length + 1)[:, None] / length * (places[b, n + length] - places[b, n])
        expected = (way - places[b, n + 1 : n + length + 1]).square().sum()
        assert costs[b, n, s] == pytest.approx(expected.item(), abs=1e-6)


def test_segments_between_corners_are_learned_besides_when_it_chooses() -> None:
    model = Recording(config(choosing=0.5, guided=12, frames=9, keyframes=4, keyframe_cost=0.01))
    places, turns = turning(12, 11, seed=3)
    batch = {"codes": places, "seed": 1, "progress": 0.5}
    model.loss(batch)
    (random,) = model.seen
    assert len(random[0]) == 12
    model.seen = []
    model.loss(batch | {"progress": 0.51})
    *_, (first, last, offsets) = model.seen
    # The random ones are the same.
    assert torch.equal(first[:12], random[0])
    assert torch.equal(offsets[:12], random[2])
    chosen = {(tuple(a), tuple(b)) for a, b in zip(first[12:].tolist(), last[12:].tolist(), strict=True)}
    # Only straight ways are made without error, so it cuts where the dot turns, from the last frame given to the end.
    corners = [[1, *(int(t) for t in np.flatnonzero(row) if 1 < t < 10), 10] for row in turns]
    ordinary = [b for b, cuts in enumerate(corners) if min(np.diff(cuts)) >= 2 and len(cuts) <= 5]
    assert len(ordinary) >= 3
    for b in ordinary:
        ends = [tuple(places[b, cut].tolist()) for cut in corners[b]]
        assert set(itertools.pairwise(ends)) <= chosen


def test_noise_is_in_the_ends_alone() -> None:
    torch.manual_seed(0)
    batch = {"codes": np.zeros((500, 9, 2), np.float32), "seed": 1}
    noisy = Recording(config(keyframe_noise=0.3))
    _, metrics = noisy.loss(batch)
    ((first, last, _),) = noisy.seen
    assert first.std().item() == pytest.approx(0.3, rel=0.1)
    assert last.std().item() == pytest.approx(0.3, rel=0.1)
    assert abs(torch.corrcoef(torch.stack([first.flatten(), last.flatten()]))[0, 1]) < 0.1
    # What is to be made has none: straight ways between such ends are wrong by as much.
    assert metrics["segment"] > 0.1
