"""The tables of README and docs, made from benchmarks/results and the zoo: `python -m kpagent.benchmarks.tables README.md`.

A page marks the place of a table with `<!-- figures: BENCHMARK PREFIX [PREFIX ...] -->` and `<!-- end -->`; every figure of
the benchmark whose name begins with one of the prefixes gets a row. `<!-- methods: BENCHMARK FIGURE [FIGURE ...] -->` marks
a table with a row for each dataset and method and a column for each figure, `<!-- atari100k -->` our scores above those that
were published, `<!-- ablations -->` those of KeyQN with one thing otherwise, `<!-- exploration -->` random options and
random actions side by side, `<!-- zoo -->` what the headers of the shipped weights say.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kpagent.benchmarks.atari100k import ABLATIONS, LABELS
from kpagent.benchmarks.exploration import EXPLORED
from kpagent.benchmarks.exploration import LABELS as PLAYED
from kpagent.benchmarks.literature import GAMES, PUBLISHED
from kpagent.files import write_text
from kpagent.perception.zoo import shipped

PLACE = re.compile(r"(<!-- figures: (\S+)([^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)
METHODS = re.compile(r"(<!-- methods: (\S+)([^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)
ATARI100K = re.compile(r"(<!-- atari100k -->\n).*?(<!-- end -->)", re.DOTALL)
ABLATED = re.compile(r"(<!-- ablations -->\n).*?(<!-- end -->)", re.DOTALL)
EXPLORATION = re.compile(r"(<!-- exploration -->\n).*?(<!-- end -->)", re.DOTALL)
ZOO = re.compile(r"(<!-- zoo -->\n).*?(<!-- end -->)", re.DOTALL)


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

    def methods(place: re.Match[str]) -> str:
        opening, benchmark, columns, end = place.groups()
        result = json.loads((results / f"{benchmark}.json").read_text(encoding="utf-8"))
        return f"{opening}{render_methods(result, columns.split())}{end}"

    def atari100k(place: re.Match[str]) -> str:
        result = json.loads((results / "atari100k.json").read_text(encoding="utf-8"))
        rendered = render_ablations(result) if place[1].startswith("<!-- abl") else render_atari100k(result)
        return f"{place[1]}{rendered}{place[2]}"

    def exploration(place: re.Match[str]) -> str:
        result = json.loads((results / "exploration.json").read_text(encoding="utf-8"))
        return f"{place[1]}{render_exploration(result)}{place[2]}"

    page = EXPLORATION.sub(exploration, ABLATED.sub(atari100k, ATARI100K.sub(atari100k, page)))
    page = ZOO.sub(lambda place: f"{place[1]}{render_zoo(shipped())}{place[2]}", PLACE.sub(table, page))
    return METHODS.sub(methods, page)


def render(result: dict[str, Any], prefixes: list[str]) -> str:
    """One result as a Markdown table, and where it was measured."""
    rows = ["| figure | measured | 95% interval | unit |", "|---|---|---|---|"]
    for name, figure in result["figures"].items():
        if name.startswith(tuple(prefixes)) or not prefixes:
            low_high = " to ".join(_number(value) for value in figure.get("ci95", []))
            rows.append(f"| {name} | {_number(figure['value'])} | {low_high} | {figure['unit']} |")
    return "\n".join([*rows, "", _measured(result), ""])


def render_methods(result: dict[str, Any], columns: list[str]) -> str:
    """A row for each dataset and method that has such figures, the mean over seeds and their range in each column."""
    figures = result["figures"]
    rows = [f"| | | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for path in dict.fromkeys(name.rpartition("/")[0] for name in figures):
        found = [figures.get(f"{path}/{column}") for column in columns]
        if any(found):
            cells = [_with_range(figure) if figure else "" for figure in found]
            rows.append(f"| {path.replace('/', ' | ')} | {' | '.join(cells)} |")
    return "\n".join([*rows, "", _measured(result), ""])


def render_atari100k(result: dict[str, Any]) -> str:
    """Scores by method and game: ours, the mean over seeds and their range, and below them what others published."""
    figures = result["figures"]
    rows = [f"| | {' | '.join(GAMES)} | seeds | a run |", "|---" * (3 + len(GAMES)) + "|"]
    for method in (method for method in LABELS if any(name.split("/")[1] == method for name in figures)):
        scores = {game: figures.get(f"{game}/{method}/return") for game in GAMES}
        cells = [_with_range(figure) if figure else "" for figure in scores.values()]
        counts = [len(figure["per_seed"]) for figure in scores.values() if figure]
        fewest, most = min(counts), max(counts)
        seeds = str(most) if fewest == most else f"{fewest} to {most}"
        # Not the time on the clock: most runs had others beside them.
        seconds = [figures[f"{game}/{method}/cpu_s"]["value"] for game, figure in scores.items() if figure]
        minutes = f"{sum(seconds) / len(seconds) / 60:.0f} min of one core, "
        spent = f"{minutes if method != 'random' else ''}measured here"
        rows.append(f"| **{LABELS[method]}** | {' | '.join(cells)} | {seeds} | {spent} |")
    for published in PUBLISHED.values():
        cells = [_number(published.scores[game]) for game in GAMES]
        rows.append(f"| {published.label}, {published.source} | {' | '.join(cells)} | | {published.cost or ''} |")
    return "\n".join([*rows, "", _measured(result), ""])


def render_ablations(result: dict[str, Any]) -> str:
    """Scores of KeyQN, and of KeyQN with one thing otherwise, on the games where both were measured."""
    figures = result["figures"]
    rows = ["| KeyQN | game | score | seeds |", "|---|---|---|---|"]
    games = [game for game in GAMES if any(f"{game}/{method}/return" in figures for method in ABLATIONS)]
    for method in ("keyqn", *ABLATIONS):
        for game in games:
            figure = figures.get(f"{game}/{method}/return")
            if figure:
                label = ABLATIONS[method].label if method in ABLATIONS else "as it is"
                rows.append(f"| {label} | {game} | {_with_range(figure)} | {len(figure['per_seed'])} |")
    return "\n".join([*rows, "", _measured(result), ""])


def render_exploration(result: dict[str, Any]) -> str:
    """Random options and random actions by game, and below them what holds for both."""
    figures = result["figures"]
    games = [game for game in EXPLORED if f"{game}/options/return" in figures]
    played = {
        "return": "return",
        "return_std": "deviation",
        "return_p5": "5%",
        "return_p50": "50%",
        "return_p95": "95%",
        "cells": "cells",
        "first_room_cells": "in the first room",
        "rooms": "rooms",
        "key_rate": "key taken",
    }
    rows = [f"| game | | {' | '.join(played.values())} |", "|---" * (2 + len(played)) + "|"]
    for game in games:
        for method, label in PLAYED.items():
            found = [figures.get(f"{game}/{method}/{name}") for name in played]
            rows.append(f"| {game} | {label} | {' | '.join(_with_range(each) if each else '' for each in found)} |")
    both = {
        "ratio": "ratio of returns",
        "cells_ratio": "of cells",
        "first_room_cells_ratio": "of those in the first room",
        "avatar_share": "keypoint on the avatar",
        "options/interactions_per_s": "interactions/s",
    }
    rows += ["", f"| game | {' | '.join(both.values())} | seeds |", "|---" * (2 + len(both)) + "|"]
    for game in games:
        found = [figures.get(f"{game}/{name}") for name in both]
        seeds = len(figures[f"{game}/options/return"]["per_seed"])
        rows.append(f"| {game} | {' | '.join(_with_range(each) if each else '' for each in found)} | {seeds} |")
    return "\n".join([*rows, "", _measured(result), ""])


def render_zoo(headers: Mapping[str, Mapping[str, Any]]) -> str:
    """The shipped weights as a table, a picture of each and the command that trains it."""
    rows = [
        "| name | environment | K | steps | precision@200 | recall@200 | objects tracked | switches per 1,000 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    pictures = []
    for name, header in headers.items():
        about = header["provenance"]
        found = about["tracking"]
        figures = [found[figure] for figure in ("precision@200", "recall@200", "tracked_fraction", "switches")]
        steps = f"{about['pretraining']['training']['steps']:,}"
        cells = [f"`{name}`", about["env"], header["config"]["num_keypoints"], steps, *map(_number, figures)]
        rows.append(f"| {' | '.join(map(str, cells))} |")
        pictures += ["", f"### {name}", "", f"![Keypoints of {name}](images/zoo/{name}.png)", "", "```sh"]
        pictures += [*about["command"].split(" && "), "```"]
    return "\n".join([*rows, *pictures, ""])


def _measured(result: Mapping[str, Any]) -> str:
    where = result["machine"]
    note = f"`{result['command']}`, {result['date'][:10]}, {where['cores']} cores of {where['processor']}"
    return f"{note}{', ' + where['gpu'] if where['gpu'] else ''}."


def _with_range(figure: Mapping[str, Any]) -> str:
    """A figure, and the range of its seeds where there are several."""
    seeds = figure.get("per_seed", [])
    spread = f" ({_number(min(seeds))} to {_number(max(seeds))})" if len(seeds) > 1 else ""
    return f"{_number(figure['value'])}{spread}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    results = Path(__file__).resolve().parent / "results"
    for path in map(Path, sys.argv[1:]):
        write_text(path, fill(path.read_text(encoding="utf-8"), results))
