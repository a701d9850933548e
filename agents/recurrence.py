"""An LSTM along segments in which episodes may begin."""

from __future__ import annotations

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
"""Parts of a recurrent state, each (B, ...)."""

FEW = 4
"""Rows up to which going row by row costs less than a call for each stretch."""


def unroll(lstm: nn.LSTM, inputs: Tensor, first: Tensor, state: State) -> tuple[Tensor, State]:
    """The outputs of every row, and the state after the last.

    Args:
        lstm: of one layer, with the batch first.
        inputs: (B, T, E).
        first: (B, T) bool, the state is zero before this row.
        state: `hidden` and `cell` before the first row, (B, H) each; other parts take no part.

    Returns:
        (B, T, H), and `hidden` and `cell` as float32.
    """
    hidden, cell = state["hidden"], state["cell"]
    few = inputs.shape[1] <= FEW and not torch.is_grad_enabled()
    outputs = []
    for start, end in [(row, row + 1) for row in range(inputs.shape[1])] if few else _stretches(first):
        keep = (~first[:, start]).to(inputs.dtype).unsqueeze(1)
        hidden, cell = hidden * keep, cell * keep
        if few:
            hidden, cell = torch.lstm_cell(inputs[:, start], (hidden, cell), *lstm.all_weights[0])
            output = hidden.unsqueeze(1)
        else:
            output, (hidden_, cell_) = lstm(inputs[:, start:end], (hidden[None], cell[None]))
            hidden, cell = hidden_[0], cell_[0]
        outputs.append(output)
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    return output, {"hidden": hidden.float(), "cell": cell.float()}


def _stretches(first: Tensor) -> list[tuple[int, int]]:
    """Runs of rows between which some state is reset."""
    begins = [0, *(torch.nonzero(first[:, 1:].any(dim=0)).flatten() + 1).tolist()]
    return list(zip(begins, [*begins[1:], first.shape[1]], strict=True))
