from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kpagent.agents.q_network import KeypointQNetwork, NetworkConfig, State
from kpagent.agents.thermometer import thermometer
from kpagent.errors import UsageError

SMALL: dict[str, Any] = {"bins": 4, "embedding": 16, "hidden": 8, "atoms": 5}
CONFIGS = {
    "motion": NetworkConfig(**SMALL),
    "without_motion": NetworkConfig(**SMALL, motion_range=0.0),
    "one_atom": NetworkConfig(**SMALL | {"atoms": 1}),
    "one_critic": NetworkConfig(**SMALL, critics=1),
    "without_features": NetworkConfig(**SMALL, features=False),
}
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
KEYPOINTS, DEPTH, ACTIONS = 3, 2, 4


def network(config: NetworkConfig, depth: int = DEPTH) -> KeypointQNetwork:
    return KeypointQNetwork(KEYPOINTS, depth, ACTIONS, config)


def segments(batch: int = 5, length: int = 9) -> tuple[dict[str, Tensor], Tensor]:
    """Random walks of keypoints, and rows that begin episodes, different ones in each segment."""
    xy = (0.1 * torch.randn(batch, length, KEYPOINTS, 2)).cumsum(dim=1).clamp(-1, 1)
    features = torch.randn(batch, length, KEYPOINTS, DEPTH)
    observation = {"xy": xy, "presence": torch.rand(batch, length, KEYPOINTS), "features": features}
    first = torch.zeros(batch, length, dtype=torch.bool)
    first[0, 0] = first[1, 3] = first[2, 3] = first[2, 4] = first[3, 8] = True
    return observation, first


def any_state(net: KeypointQNetwork, batch: int = 5) -> State:
    return {name: torch.randn(batch, *shape) for name, shape in net.state_shapes.items()}


def rows(observation: dict[str, Tensor], start: int, end: int) -> dict[str, Tensor]:
    return {name: part[:, start:end] for name, part in observation.items()}


@configs
def test_row_by_row_is_what_the_segment_gives_with_episodes_that_begin_within_it(config: NetworkConfig) -> None:
    net = network(config)
    observation, first = segments()
    begun = any_state(net)
    logits, after = net(observation, first, begun)
    assert logits.shape == (5, 9, config.critics, ACTIONS, config.atoms)
    state = begun
    for row in range(9):
        one, state = net(rows(observation, row, row + 1), first[:, row : row + 1], state)
        torch.testing.assert_close(one[:, 0], logits[:, row])
    assert set(state) == set(after) == set(net.state_shapes)
    for name, part in after.items():
        torch.testing.assert_close(state[name], part)


@configs
def test_segments_of_a_batch_do_not_know_of_each_other(config: NetworkConfig) -> None:
    net = network(config)
    observation, first = segments()
    state = any_state(net)
    logits, _ = net(observation, first, state)
    for index in range(5):
        one = slice(index, index + 1)
        alone, _ = net(
            {name: part[one] for name, part in observation.items()},
            first[one],
            {name: part[one] for name, part in state.items()},
        )
        torch.testing.assert_close(alone, logits[one])


@configs
def test_what_follows_the_beginning_of_an_episode_knows_nothing_from_before(config: NetworkConfig) -> None:
    net = network(config)
    observation, first = segments()
    first[:, 4] = True
    logits, after = net(observation, first, any_state(net))
    fresh, fresh_after = net(rows(observation, 4, 9), first[:, 4:], net.initial_state(5))
    torch.testing.assert_close(logits[:, 4:], fresh)
    for name, part in fresh_after.items():
        torch.testing.assert_close(after[name], part)


@configs
def test_without_a_beginning_the_state_matters_to_the_last_row(config: NetworkConfig) -> None:
    net = network(config)
    observation, first = segments()
    one, other = (net(observation, torch.zeros_like(first), any_state(net))[0] for _ in range(2))
    assert ((one - other).abs().amax(dim=(1, 2, 3, 4)) > 0).all()
    assert ((one - other)[:, -1].abs().amax(dim=(1, 2, 3)) > 0).all()


def test_the_initial_state_is_that_of_an_episode_that_begins() -> None:
    net = network(CONFIGS["motion"])
    observation, first = segments()
    first[:, 0] = True
    torch.testing.assert_close(net(observation, first, any_state(net))[0], net(observation, first, net.initial_state(5))[0])
    assert net.state_shapes == {"hidden": (8,), "cell": (8,), "xy": (KEYPOINTS, 2)}
    assert network(CONFIGS["without_motion"]).state_shapes == {"hidden": (8,), "cell": (8,)}


def test_the_code_is_places_presence_motion_and_features() -> None:
    net = network(CONFIGS["motion"])
    observation, first = segments()
    state = any_state(net)
    code = net.encode(observation, first, state)
    before = torch.cat([state["xy"][:, None], observation["xy"][:, :-1]], dim=1)
    motion = np.where(first[..., None, None], 0, observation["xy"] - before)
    parts = [
        thermometer(observation["xy"], 4).flatten(2),
        observation["presence"],
        thermometer(torch.as_tensor(motion, dtype=torch.float32) / 0.25, 4).flatten(2),
        observation["features"].flatten(2),
    ]
    torch.testing.assert_close(code, torch.cat(parts, dim=-1))


def test_an_episode_begins_without_motion() -> None:
    net = network(CONFIGS["motion"])
    observation, first = segments()
    state = any_state(net)
    motion = slice(KEYPOINTS * 2 * 4 + KEYPOINTS, KEYPOINTS * 2 * 4 + KEYPOINTS + KEYPOINTS * 2 * 4)
    still = net.encode(observation, first, state)[..., motion][first].unflatten(-1, (KEYPOINTS, 2, 4))
    assert (still == torch.tensor([1.0, 1.0, 0.0, 0.0])).all()


def test_the_state_remembers_where_the_keypoints_were() -> None:
    observation, first = segments()
    _, after = (net := network(CONFIGS["motion"]))(observation, first, any_state(net))
    assert torch.equal(after["xy"], observation["xy"][:, -1])


def test_the_state_is_a_copy_that_what_becomes_of_the_observation_does_not_change() -> None:
    net = network(CONFIGS["motion"])
    observation, first = segments()
    _, after = net(observation, first, any_state(net))
    before = after["xy"].clone()
    # Vector environments of Gymnasium may write every observation into the same memory.
    observation["xy"].zero_()
    assert torch.equal(after["xy"], before)


@configs
def test_logits_are_values_plus_advantages_over_their_mean(config: NetworkConfig) -> None:
    net = network(config)
    streams: dict[str, list[np.ndarray]] = {"value": [], "advantage": []}
    for name, found in streams.items():
        for head in net.get_submodule(name).children():
            head.register_forward_hook(lambda module, inputs, output, found=found: found.append(output.detach().numpy()))
    observation, first = segments()
    # In one stretch, so that every head is run once.
    logits = net(observation, torch.zeros_like(first), any_state(net))[0].detach().numpy()
    assert [len(found) for found in streams.values()] == [config.critics] * 2
    for critic, (value, flat) in enumerate(zip(streams["value"], streams["advantage"], strict=True)):
        advantage = flat.reshape(5, 9, ACTIONS, config.atoms)
        assert np.ptp(advantage) > 0
        mean = sum(advantage[:, :, action] for action in range(ACTIONS)) / ACTIONS
        for action in range(ACTIONS):
            np.testing.assert_allclose(logits[:, :, critic, action], value + advantage[:, :, action] - mean, atol=1e-5)
        # Advantages are zero on average, so that the mean over actions is the value.
        np.testing.assert_allclose(logits[:, :, critic].mean(axis=2), value, atol=1e-5)


def test_critics_have_values_of_their_own() -> None:
    net = network(CONFIGS["motion"])
    observation, first = segments()
    logits = net(observation, first, any_state(net))[0]
    assert (logits[:, :, 0] - logits[:, :, 1]).abs().max() > 0.01


def test_the_expectation_is_the_mean_of_the_atoms_under_the_softmax() -> None:
    net = network(NetworkConfig(**SMALL, value_range=(-2.0, 6.0)))
    assert net.support.tolist() == [-2, 0, 2, 4, 6]
    logits = torch.log(torch.tensor([[0.5, 0.5, 0, 0, 0], [0, 0, 0, 0, 1], [0.1, 0.2, 0.3, 0.2, 0.2]]) + 1e-30)
    wanted = [-1, 6, 0.1 * -2 + 0.3 * 2 + 0.2 * 4 + 0.2 * 6]
    np.testing.assert_allclose(net.expectation(logits).numpy(), wanted, rtol=1e-6)


def test_one_atom_is_the_value_itself() -> None:
    logits = torch.randn(2, 3, 2, 4, 1)
    assert torch.equal(network(CONFIGS["one_atom"]).expectation(logits), logits[..., 0])


def test_features_are_seen_unless_they_are_not_to_be() -> None:
    observation, first = segments()
    other = observation | {"features": observation["features"] + 1}
    for config, sees in [(CONFIGS["motion"], True), (CONFIGS["without_features"], False)]:
        net = network(config)
        state = any_state(net)
        assert torch.equal(net(observation, first, state)[0], net(other, first, state)[0]) is not sees
    del observation["features"]
    net = network(CONFIGS["motion"], depth=0)
    assert net(observation, first, any_state(net))[0].shape == (5, 9, 2, ACTIONS, 5)


def test_every_parameter_learns() -> None:
    net = network(CONFIGS["motion"])
    observation, first = segments()
    net(observation, first, any_state(net))[0].square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in net.parameters())


def test_the_support_is_no_part_of_what_is_kept() -> None:
    assert "support" not in network(CONFIGS["motion"]).state_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bins": 1}, "bins must be at least 2; got 1"),
        ({"motion_range": -0.1}, "motion_range must not be negative; got -0.1"),
        ({"embedding": 0}, "embedding must be at least 1; got 0"),
        ({"hidden": 0}, "hidden must be at least 1; got 0"),
        ({"critics": 0}, "critics must be at least 1; got 0"),
        ({"atoms": 0}, "atoms must be at least 1; got 0"),
        ({"value_range": (1.0, 1.0)}, r"value_range must rise; got \(1.0, 1.0\)"),
    ],
)
def test_mistakes_in_the_configuration_get_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}$"):
        NetworkConfig(**changes)
