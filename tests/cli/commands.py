"""Commands in tests, run as a user's shell would."""

from __future__ import annotations

import pytest

from kpagent.cli import main


class Command:
    """`kpagent` with the words that all calls of a test file begin with."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def run(self, *arguments: str) -> int:
        """The exit code."""
        with pytest.raises(SystemExit) as end:
            main([*self.words, *arguments])
        assert isinstance(end.value.code, int) or end.value.code is None
        return end.value.code or 0

    def refused(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        """The one line with which the command refuses."""
        capsys.readouterr()
        assert self.run(*arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("kpagent: ")
        assert error.count("\n") == 1
        return error
