import json
from pathlib import Path

from kpagent.benchmarks.tables import fill

ROOT = Path(__file__).resolve().parents[2]


def test_readme_holds_the_figures_of_the_results() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert fill(page, ROOT / "benchmarks" / "results") == page
    for name in ("keypoints", "speed", "pairs"):
        assert f"<!-- figures: {name} " in page


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
