"""What HDF5 writes through, since it cannot be told of a full disk."""

from __future__ import annotations

import io
from typing import Any


class GuardedFile(io.RawIOBase):
    """A file that keeps its first error to itself: HDF5, told of a full disk, later crashes the process as it ends.

    Args:
        raw: what is written to, unbuffered.

    Attributes:
        error: the first, or None; nothing was written from there on.
    """

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__()
        self.error: OSError | None = None
        self._raw = raw

    def write(self, data: Any) -> int:
        """Write all of `data`, or as much as goes; say that all was written."""
        view = memoryview(data).cast("B")
        try:
            written = 0
            while self.error is None and written < len(view):
                written += self._raw.write(view[written:])
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Make the file `size` bytes long."""
        try:
            return self._raw.truncate(size)
        except OSError as error:
            self.error = self.error or error
        return 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place in the file."""
        return self._raw.seek(offset, whence)

    def readinto(self, buffer: Any) -> int | None:
        """Read from there."""
        return self._raw.readinto(buffer)
