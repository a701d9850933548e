from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kpagent.agents.recurrence import FEW, State, unroll

INPUTS, HIDDEN = 5, 3


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def slow(lstm: nn.LSTM, inputs: np.ndarray, first: np.ndarray, state: State) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The equations of an LSTM (Hochreiter and Schmidhuber 1997, with forget gates), one segment and one row at a time."""
    from_input, from_hidden, *biases = (part.detach().numpy() for part in lstm.all_weights[0])
    hidden, cell = (state[name].detach().numpy().copy() for name in ("hidden", "cell"))
    outputs = np.empty((*first.shape, HIDDEN))
    for segment, row in np.ndindex(first.shape):
        if first[segment, row]:
            hidden[segment] = cell[segment] = 0
        gates = from_input @ inputs[segment, row] + from_hidden @ hidden[segment] + sum(biases)
        enter, keep, new, show = np.split(gates, 4)
        cell[segment] = sigmoid(keep) * cell[segment] + sigmoid(enter) * np.tanh(new)
        hidden[segment] = sigmoid(show) * np.tanh(cell[segment])
        outputs[segment, row] = hidden[segment]
    return outputs, {"hidden": hidden, "cell": cell}


def an_lstm() -> nn.LSTM:
    lstm = nn.LSTM(INPUTS, HIDDEN, batch_first=True)
    with torch.no_grad():
        for part in lstm.parameters():
            part.copy_(torch.randn_like(part))
    return lstm


def a_state(batch: int) -> State:
    return {"hidden": torch.randn(batch, HIDDEN), "cell": torch.randn(batch, HIDDEN)}


@given(
    seed=st.integers(0, 2**16),
    batch=st.integers(1, 4),
    length=st.integers(1, 2 * FEW + 1),
    share=st.sampled_from([0.0, 0.2, 1.0]),
    training=st.booleans(),
)
def test_outputs_are_those_of_the_equations(seed: int, batch: int, length: int, share: float, training: bool) -> None:
    torch.manual_seed(seed)
    lstm, state = an_lstm(), a_state(batch)
    inputs, first = torch.randn(batch, length, INPUTS), torch.rand(batch, length) < share
    with nullcontext() if training else torch.no_grad():
        outputs, after = unroll(lstm, inputs, first, state)
    wanted, wanted_after = slow(lstm, inputs.numpy(), first.numpy(), state)
    np.testing.assert_allclose(outputs.detach(), wanted, atol=1e-5)
    assert set(after) == {"hidden", "cell"}
    for name, part in after.items():
        np.testing.assert_allclose(part.detach(), wanted_after[name], atol=1e-5)


@pytest.mark.parametrize("length", [1, FEW, FEW + 1, 12])
def test_row_by_row_is_what_the_stretches_give(length: int) -> None:
    lstm, begun = an_lstm(), a_state(6)
    inputs, first = torch.randn(6, length, INPUTS), torch.rand(6, length) < 0.3
    stretches, after = unroll(lstm, inputs, first, begun)
    rows, state = [], begun
    with torch.no_grad():
        for row in range(length):
            output, state = unroll(lstm, inputs[:, row : row + 1], first[:, row : row + 1], state)
            rows.append(output)
    torch.testing.assert_close(torch.cat(rows, dim=1), stretches.detach())
    for name, part in after.items():
        torch.testing.assert_close(state[name], part.detach())


def gradient(lstm: nn.LSTM, inputs: Tensor, first: Tensor, row: int) -> Tensor:
    inputs = inputs.clone().requires_grad_()
    output, _ = unroll(lstm, inputs, first, a_state(len(inputs)))
    (found,) = torch.autograd.grad(output[:, row].square().sum(), inputs)
    return found.abs().sum(dim=-1)


def test_gradients_flow_back_to_the_beginning_of_the_episode_and_no_further() -> None:
    first = torch.zeros(2, 6, dtype=torch.bool)
    first[1, 3] = True
    reached = gradient(an_lstm(), torch.randn(2, 6, INPUTS), first, 4) > 0
    assert reached.tolist() == [[True] * 5 + [False], [False] * 3 + [True] * 2 + [False]]


def test_the_state_that_was_given_is_left_alone_and_other_parts_of_it_take_no_part() -> None:
    state = a_state(2) | {"xy": torch.randn(2, 4, 2)}
    before = {name: part.clone() for name, part in state.items()}
    for length in (2, FEW + 2):
        with torch.no_grad():
            _, after = unroll(an_lstm(), torch.randn(2, length, INPUTS), torch.ones(2, length, dtype=torch.bool), state)
        assert set(after) == {"hidden", "cell"}
        assert all(torch.equal(part, before[name]) for name, part in state.items())


def test_under_autocast_the_state_is_float32_all_the_same() -> None:
    lstm, state = an_lstm(), a_state(2)
    inputs, first = torch.randn(2, 3, INPUTS), torch.zeros(2, 3, dtype=torch.bool)
    exact, _ = unroll(lstm, inputs, first, state)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough, after = unroll(lstm, inputs, first, state)
    assert {part.dtype for part in after.values()} == {torch.float32}
    torch.testing.assert_close(rough.float(), exact.detach(), atol=0.05, rtol=0)
