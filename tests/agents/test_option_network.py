from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kpagent.agents.option_network import OptionNetwork, OptionNetworkConfig
from kpagent.agents.recurrence import State
from kpagent.errors import UsageError

SMALL = OptionNetworkConfig(image_size=36, filters=(4, 5, 6), embedding=8, hidden=7)
KEYPOINTS, ACTIONS = 3, 5


def network(config: OptionNetworkConfig = SMALL) -> OptionNetwork:
    return OptionNetwork(KEYPOINTS, ACTIONS, config)


def segments(size: int = 36) -> tuple[Tensor, Tensor]:
    """Noise, and rows that begin episodes, different ones in each segment."""
    frames = torch.randint(256, (4, 7, size, size, 3), dtype=torch.uint8)
    first = torch.zeros(4, 7, dtype=torch.bool)
    first[0, 0] = first[1, 3] = first[2, 3] = first[2, 4] = first[3, 6] = True
    return frames, first


def any_state(net: OptionNetwork) -> State:
    return {name: torch.randn(4, *shape) for name, shape in net.state_shapes.items()}


@pytest.mark.parametrize("training", [True, False])
def test_row_by_row_is_what_the_segment_gives_with_episodes_that_begin_within_it(training: bool) -> None:
    net = network()
    frames, first = segments()
    begun = any_state(net)
    with torch.set_grad_enabled(training):
        values, after = net(frames, first, begun)
    assert values.shape == (4, 7, KEYPOINTS, 4, ACTIONS)
    state = begun
    with torch.no_grad():
        for row in range(7):
            one, state = net(frames[:, row : row + 1], first[:, row : row + 1], state)
            torch.testing.assert_close(one[:, 0], values[:, row].detach())
    assert set(state) == set(after) == set(net.state_shapes)
    for name, part in after.items():
        torch.testing.assert_close(state[name], part.detach())


def test_segments_of_a_batch_do_not_know_of_each_other() -> None:
    net = network()
    frames, first = segments()
    state = any_state(net)
    values, _ = net(frames, first, state)
    for index in range(4):
        one = slice(index, index + 1)
        alone, _ = net(frames[one], first[one], {name: part[one] for name, part in state.items()})
        torch.testing.assert_close(alone, values[one])


def test_what_follows_the_beginning_of_an_episode_knows_nothing_from_before() -> None:
    net = network()
    frames, first = segments()
    first[:, 3] = True
    values, after = net(frames, first, any_state(net))
    fresh, fresh_after = net(frames[:, 3:], first[:, 3:], net.initial_state(4))
    torch.testing.assert_close(values[:, 3:], fresh)
    for name, part in fresh_after.items():
        torch.testing.assert_close(after[name], part)


def test_without_a_beginning_the_state_and_what_was_seen_matter_to_the_last_row() -> None:
    net = network()
    frames, first = segments()
    nowhere = torch.zeros_like(first)
    begun = any_state(net)
    values = net(frames, nowhere, begun)[0][:, -1]
    other_state = net(frames, nowhere, any_state(net))[0][:, -1]
    seen = frames.clone()
    seen[:, 0] = 255 - seen[:, 0]
    other_frame = net(seen, nowhere, begun)[0][:, -1]
    assert ((values - other_state).abs().amax(dim=(1, 2, 3)) > 0).all()
    assert ((values - other_frame).abs().amax(dim=(1, 2, 3)) > 0).all()


def test_the_initial_state_is_that_of_an_episode_that_begins() -> None:
    net = network()
    frames, first = segments()
    first[:, 0] = True
    begun = net.initial_state(4)
    assert {name: tuple(part.shape) for name, part in begun.items()} == {"hidden": (4, 7), "cell": (4, 7)}
    assert net.state_shapes == {"hidden": (7,), "cell": (7,)}
    torch.testing.assert_close(net(frames, first, any_state(net))[0], net(frames, first, begun)[0])


def test_the_convolutions_see_the_pixels_as_they_lie_in_the_frame() -> None:
    net = network(replace(SMALL, image_size=64))
    frames, _ = segments(64)
    images = torch.from_numpy(np.moveaxis(frames.numpy().reshape(-1, 64, 64, 3).astype(np.float32) / 255, 3, 1).copy())
    parameters = dict(net.convolutions.named_parameters())
    for layer, stride in ((0, 4), (2, 2), (4, 1)):
        weight = parameters[f"{layer}.weight"].contiguous()
        images = F.conv2d(images, weight, parameters[f"{layer}.bias"], stride=stride).clamp(min=0)
    linear = dict(net.embed.named_parameters())
    wanted = (images.flatten(1) @ linear["0.weight"].T + linear["0.bias"]).clamp(min=0)
    found = net.see(net.images(frames))
    assert found.shape == (4, 7, 8)
    torch.testing.assert_close(found.flatten(0, 1), wanted)


def test_by_default_it_is_the_network_of_the_paper() -> None:
    net = OptionNetwork(5, 18)
    shapes = {name: tuple(part.shape) for name, part in net.named_parameters()}
    # Mnih et al. 2015 at 84×84: 20×20×32, 9×9×64, 7×7×64 and 512 units.
    assert shapes["convolutions.0.weight"] == (32, 3, 8, 8)
    assert shapes["convolutions.2.weight"] == (64, 32, 4, 4)
    assert shapes["convolutions.4.weight"] == (64, 64, 3, 3)
    assert shapes["embed.0.weight"] == (512, 7 * 7 * 64)
    assert shapes["lstm.weight_hh_l0"] == (4 * 256, 256)
    assert shapes["head.weight"] == (5 * 4 * 18, 256)


@pytest.mark.parametrize("size", [36, 37, 43, 44, 64, 84, 97])
def test_frames_of_any_size_from_36_on_fit(size: int) -> None:
    net = OptionNetwork(2, 3, OptionNetworkConfig(image_size=size, filters=(2, 2, 2), embedding=4, hidden=3))
    frames, first = segments(size)
    assert net(frames, first, net.initial_state(4))[0].shape == (4, 7, 2, 4, 3)


def test_frames_of_another_size_are_not_taken() -> None:
    net = network()
    frames, first = segments(44)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        net(frames, first, net.initial_state(4))


def test_values_are_float32_under_autocast() -> None:
    net = network()
    frames, first = segments()
    state = any_state(net)
    exact, _ = net(frames, first, state)
    with torch.autocast("cpu", torch.bfloat16):
        rough, after = net(frames, first, state)
    assert rough.dtype == torch.float32
    assert {part.dtype for part in after.values()} == {torch.float32}
    torch.testing.assert_close(rough, exact, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 35}, "image_size must be from 36 to 512; got 35"),
        ({"image_size": 513}, "image_size must be from 36 to 512; got 513"),
        ({"filters": (8, 8)}, r"filters must be three numbers of at least 1; got \(8, 8\)"),
        ({"filters": [8, 0, 8]}, r"filters must be three numbers of at least 1; got \(8, 0, 8\)"),
        ({"embedding": 0}, "embedding must be at least 1; got 0"),
        ({"hidden": 0}, "hidden must be at least 1; got 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        OptionNetworkConfig(**changes)


def test_a_configuration_read_from_json_equals_the_one_that_was_written() -> None:
    assert OptionNetworkConfig(filters=[4, 5, 6]) == OptionNetworkConfig(filters=(4, 5, 6))  # type: ignore[arg-type]
