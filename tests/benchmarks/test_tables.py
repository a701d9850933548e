import json
from pathlib import Path

import pytest

from kpagent.benchmarks.tables import fill, render_ablations, render_atari100k, render_methods
from kpagent.perception.zoo import shipped

ROOT = Path(__file__).resolve().parents[2]


def test_readme_holds_the_figures_of_the_results() -> None:
    for path in (ROOT / "README.md", ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "atari100k.md"):
        page = path.read_text(encoding="utf-8")
        assert fill(page, ROOT / "benchmarks" / "results") == page
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("keypoints", "robustness", "speed", "pairs"):
        assert f"<!-- figures: {name} " in page
    assert "<!-- atari100k -->" in page


def test_the_page_of_the_zoo_says_what_the_headers_say() -> None:
    page = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    assert fill(page, ROOT / "benchmarks" / "results") == page
    headers = shipped()
    assert len(headers) >= 7
    for name, header in headers.items():
        found, command = header["provenance"]["tracking"], header["provenance"]["command"]
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        cells = [cell.strip() for cell in row.split("|")]
        assert cells[2:4] == [header["provenance"]["env"], str(header["config"]["num_keypoints"])]
        assert [float(cell) for cell in cells[5:7]] == pytest.approx([found["precision@200"], found["recall@200"]], rel=0.01)
        assert all(part in page for part in command.split(" && "))
        assert (ROOT / "docs" / "images" / "zoo" / f"{name}.png").exists()


def test_each_method_with_such_figures_has_a_row_with_the_range_over_seeds() -> None:
    result = {
        "command": "kpagent bench tracking",
        "date": "2026-01-02T03:04:05Z",
        "machine": {"cores": 2, "processor": "P", "gpu": None},
        "figures": {
            "pong/transporter/recall@200": {"value": 0.9, "unit": "", "per_seed": [0.8, 1.0]},
            "pong/jakab/recall@1": {"value": 0.5, "unit": "", "per_seed": [0.5]},
            "pong/pixels/switches": {"value": 2, "unit": "", "per_seed": [2]},
        },
    }
    rows = render_methods(result, ["recall@1", "recall@200"]).splitlines()
    assert rows[:5] == [
        "| | | recall@1 | recall@200 |",
        "|---|---|---|---|",
        "| pong | transporter |  | 0.9 (0.8 to 1) |",
        "| pong | jakab | 0.5 |  |",
        "",
    ]


def test_ablations_have_a_table_of_their_own() -> None:
    figures = {
        f"pong/{method}/{figure}": {"value": value, "unit": "", "per_seed": [value]}
        for method, score in (("keyqn", 18.0), ("keyqn_no_motion", 7.0))
        for figure, value in (("return", score), ("cpu_s", 600.0))
    }
    measured = {"cores": 2, "processor": "P", "gpu": None}
    result = {"command": "kpagent bench atari100k", "date": "2026-01-02T03:04:05Z", "machine": measured, "figures": figures}
    assert render_ablations(result).splitlines()[2:4] == [
        "| as it is | pong | 18 | 1 |",
        "| without the move since the last observation | pong | 7 | 1 |",
    ]
    rows = render_atari100k(result).splitlines()
    assert rows[2] == "| **KeyQN** |  |  |  | 18 |  | 1 | 10 min of one core, measured here |"
    assert not any("the move" in row for row in rows)


def test_a_row_names_the_fewest_and_the_most_seeds_and_no_time_where_nothing_is_learned() -> None:
    seeds = {"breakout": [1.0], "frostbite": [1.0, 2.0], "pong": [1.0, 2.0, 3.0]}
    figures = {
        f"{game}/{method}/{figure}": {"value": 60.0, "unit": "", "per_seed": values}
        for game, values in seeds.items()
        for method in ("keyqn", "random")
        for figure in ("return", "cpu_s")
    }
    measured = {"cores": 2, "processor": "P", "gpu": None}
    result = {"command": "kpagent bench atari100k", "date": "2026-01-02T03:04:05Z", "machine": measured, "figures": figures}
    learned, random = render_atari100k(result).splitlines()[2:4]
    assert learned.endswith("| 1 to 3 | 1 min of one core, measured here |")
    assert random.endswith("| 1 to 3 | measured here |")


def test_a_table_has_the_figures_asked_for_and_no_others(tmp_path: Path) -> None:
    result = {
        "command": "kpagent bench toy",
        "date": "2026-01-02T03:04:05Z",
        "machine": {"cores": 2, "processor": "P", "gpu": None},
        "figures": {
            "a/b": {"value": 1234.5, "unit": "s", "ci95": [1000.0, 2000.0]},
            "a/c": {"value": 0.012345, "unit": ""},
            "d": {"value": 1.0, "unit": ""},
        },
    }
    (tmp_path / "toy.json").write_text(json.dumps(result))
    page = "before\n<!-- figures: toy a/ -->\nold\n<!-- end -->\nafter"
    filled = fill(page, tmp_path).splitlines()
    assert "| a/b | 1,234 | 1,000 to 2,000 | s |" in filled
    assert "| a/c | 0.0123 |  |  |" in filled
    assert not any(line.startswith("| d") for line in filled)
    assert "old" not in filled
    assert filled[0] == "before"
    assert filled[-1] == "after"
    assert "`kpagent bench toy`, 2026-01-02, 2 cores of P." in filled
    assert fill("\n".join(filled), tmp_path) == "\n".join(filled)
