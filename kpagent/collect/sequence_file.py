"""The form of a file of sequences, on which those who write one and those who read one agree.

One HDF5 file holds all sequences, one after the other:

| dataset | shape and type | what |
|---|---|---|
| `frames` | (F, S, S, 3) uint8 | RGB |
| `lengths` | (N,) int64 | frames of each sequence; they add up to F |
| `actions` | (F, A) float32, optional | the action taken on frame t, which leads to frame t + 1 |
| `rewards` | (F,) float32, optional | what followed that action |
| `truth` | (F, P, 2) float32, optional | true coordinates (x, y), as `kpagent.keypoints` has them; NaN where not known |
| `keyframes` | (F,) bool, optional, from format 2 | whether the frame is a keyframe of its sequence |
| `labels` | (N,) int64, optional | the class of each sequence |

The attribute `header` is JSON (`sequence_making.Provenance` and more), `digest` a SHA-256 of header and contents. Every
chunk, and every piece of HDF5's own bookkeeping, carries a checksum: damage is found when it is read, without reading the
whole file first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kpagent.errors import UsageError

FORMAT = 2
"""What is written."""
READABLE = (1, 2)
"""What is read: 2 is 1 with `keyframes`."""

PER_FRAME = ("frames", "actions", "rewards", "truth", "keyframes")
"""Datasets with a row for each frame."""
PER_SEQUENCE = ("lengths", "labels")
"""Datasets with a row for each sequence."""
TYPES = {
    "frames": "uint8",
    "actions": "float32",
    "rewards": "float32",
    "truth": "float32",
    "keyframes": "bool",
} | dict.fromkeys(PER_SEQUENCE, "int64")
"""Type of each dataset."""
FORMS = {
    "frames": "(F, S, S, 3)",
    "actions": "(F, A)",
    "rewards": "(F,)",
    "truth": "(F, P, 2)",
    "keyframes": "(F,)",
} | dict.fromkeys(PER_SEQUENCE, "(N,)")
"""Shape of each dataset."""
PIECE_BYTES = 16_000_000
"""Read or written at a time, where all of a dataset is."""

_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)


def fits(name: str, shape: tuple[int, ...] | None) -> bool:
    """Whether a dataset of this name may have this shape."""
    if shape is None or len(shape) != FORMS[name].count(",") + (not FORMS[name].endswith(",)")):
        return False
    if 0 in shape[1:]:
        return False
    if name == "frames":
        return shape[1] == shape[2] and shape[3] == 3
    return name != "truth" or shape[2] == 2


def combine_digests(header: Mapping[str, Any], digests: Mapping[str, Any]) -> str:
    """The digest of a file, SHA-256, from its header and the digests of its datasets, by name."""
    whole = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(digests):
        whole.update(f"{name}:{digests[name].hexdigest()};".encode())
    return whole.hexdigest()


def piece_rows(row_shape: tuple[int, ...], kind: str) -> int:
    """Rows that `PIECE_BYTES` hold, of a shape and a type."""
    return max(PIECE_BYTES // max(int(np.prod(row_shape)) * np.dtype(kind).itemsize, 1), 1)


@contextlib.contextmanager
def damage_of(path: Path) -> Iterator[None]:
    """What HDF5 says of a file that it cannot read, as one line that names the file."""
    try:
        yield
    except UsageError:
        raise
    except _DAMAGE as error:
        reason = " ".join(str(error).split())
        if "truncated" in reason:
            raise UsageError(f"{path} is cut short: {reason}") from error
        raise UsageError(f"{path} is damaged and cannot be read: {reason}") from error
