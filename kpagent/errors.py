"""The one error that means: the user can put this right, and its message says how."""

from __future__ import annotations


class UsageError(ValueError):
    """A mistake in an argument, a path, an environment or a file.

    Its message is one line that says what was wrong and what would be right. The command prints it without a traceback
    and ends with exit code 2.
    """
