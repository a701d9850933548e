"""README's tables, made from benchmarks/results: `python -m kpagent.benchmarks.tables README.md`.

A page marks the place of a table with `<!-- figures: BENCHMARK PREFIX [PREFIX ...] -->` and `<!-- end -->`; every figure of
the benchmark whose name begins with one of the prefixes gets a row.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from kpagent.files import write_text

PLACE = re.compile(r"(<!-- figures: (\S+)([^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(page: str, results: Path) -> str:
    """The page with every marked table as the results have it now.

    Args:
        page: Markdown.
        results: folder of the JSON files.
    """

    def table(place: re.Match[str]) -> str:
        opening, benchmark, prefixes, end = place.groups()
        result = json.loads((results / f"{benchmark}.json").read_text(encoding="utf-8"))
        return f"{opening}{render(result, prefixes.split())}{end}"

    return PLACE.sub(table, page)


def render(result: dict[str, Any], prefixes: list[str]) -> str:
    """One result as a Markdown table, and where it was measured."""
    rows = ["| figure | measured | 95% interval | unit |", "|---|---|---|---|"]
    for name, figure in result["figures"].items():
        if name.startswith(tuple(prefixes)) or not prefixes:
            low_high = " to ".join(_number(value) for value in figure.get("ci95", []))
            rows.append(f"| {name} | {_number(figure['value'])} | {low_high} | {figure['unit']} |")
    where = result["machine"]
    note = f"`{result['command']}`, {result['date'][:10]}, {where['cores']} cores of {where['processor']}"
    return "\n".join([*rows, "", f"{note}{', ' + where['gpu'] if where['gpu'] else ''}.", ""])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    results = Path(__file__).resolve().parent / "results"
    for path in map(Path, sys.argv[1:]):
        write_text(path, fill(path.read_text(encoding="utf-8"), results))
