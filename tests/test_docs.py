"""The pages that users read: what they show compiles, runs or parses, and their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kpagent.cli import _parse
from kpagent.perception.zoo import SHIPPED

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
MARK = re.compile(r"<!-- (test(?:: weights)?) -->\n\Z")
LINK = re.compile(r"\[[^\]\[]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    mark: str
    body: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        mark = MARK.search(text[: found.start()])
        body = re.sub(f"^{found['indent']}", "", found["body"], flags=re.MULTILINE)
        line = text.count("\n", 0, found.start("body")) + 1
        yield Block(page, line, found["language"], mark[1] if mark else "", body)


BLOCKS = [block for page in PAGES for block in blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
COMMANDS = [
    pytest.param(line, id=f"{block}:{line}")
    for block in BLOCKS
    if block.language in ("bash", "sh")
    for line in block.body.replace("\\\n", " ").splitlines()
    if line.startswith("kpagent ")
]


def test_blocks_are_found_with_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n\n<!-- test -->\n```python\na = 1\n```\n\n1. b\n\n   ```sh\n   kpagent zoo\n   ```\n")
    assert list(blocks(page)) == [
        Block(page, 5, "python", "test", "a = 1\n"),
        Block(page, 11, "sh", "", "kpagent zoo\n"),
    ]


def test_every_fence_is_part_of_a_block() -> None:
    for page in PAGES:
        assert page.read_text(encoding="utf-8").count("```") == 2 * sum(block.page == page for block in BLOCKS), page


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.body, str(block), "exec")


@pytest.mark.usefixtures("short_start")
@pytest.mark.parametrize("block", [block for block in PYTHON if block.mark], ids=str)
def test_marked_python_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if block.mark == "test: weights" and not (SHIPPED / "pong.safetensors").is_file():
        pytest.fail("the weights called pong, which this block needs, are not shipped")
    monkeypatch.chdir(tmp_path)
    exec(compile(block.body, str(block), "exec"), {"__name__": "page"})


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    _parse(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_exist(page: Path) -> None:
    targets = [target.partition("#")[0] for target in LINK.findall(page.read_text(encoding="utf-8"))]
    local = [target for target in targets if target and "://" not in target and not target.startswith("mailto:")]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_the_readme_leads_to_every_page() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in readme] == []
