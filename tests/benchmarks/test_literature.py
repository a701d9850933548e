from pathlib import Path

import pytest

from kpagent.benchmarks.literature import GAMES, PUBLISHED, normalized

# Transporter Figure 6, typed again from the page, a row a game: KeyQN, SimPLe, Rainbow, PPO, Human, Random.
FIGURE_6 = """
breakout   19.3 (4.5)     12.7 (3.8)     3.3 (0.1)     5.9 (3.3)      31.8     1.7
frostbite  388.3 (142.1)  254.7 (4.9)    140.1 (2.7)   174.0 (40.7)   4334.7   65.2
ms_pacman  999.4 (145.4)  762.8 (331.5)  364.3 (20.4)  496.0 (379.8)  15693.0  307.3
pong       10.8 (5.7)     5.2 (9.7)      -19.5 (0.2)   -20.5 (0.6)    9.3      -20.7
seaquest   236.7 (22.2)   370.9 (128.2)  206.3 (17.1)  370.0 (103.3)  20182.0  68.4
"""
# The table of today's field, a column a game.
LATER = {
    "human": "30.5 / 4334.7 / 6951.6 / 14.6 / 42054.7",
    "simple": "16.4 / 237 / 1480 / 12.8 / 683",
    "der": "1.9 / 867 / 1204 / -19.3 / 354",
    "drq_eps": "19.8 / 1014 / 1218 / -9.1 / 352",
    "spr": "19.6 / 1171 / 1318 / -5.4 / 558",
    "iris": "83.7 / 259 / 999 / 14.6 / 661",
    "efficientzero": "414 / 296 / 1281 / 20.1 / 1100",
    "diamond": "132.5 / 274 / 1958 / 20.4 / 551",
    "dreamerv3_2024": "9.7 / 3377 / 1521 / -5.0 / 962",
    "bbf": "370.6 / 2385 / 2008 / 16.7 / 1233",
    "simulus": "148.9 / 258 / 1283 / 19.9 / 1800",
}


def test_figure_6_is_as_printed() -> None:
    columns = ("keyqn_2019", "simple_2019", "rainbow", "ppo", "human_2019", "random")
    for line in FIGURE_6.strip().splitlines():
        game, *cells = line.split()
        scores = [float(cell) for cell in cells if not cell.startswith("(")]
        deviations = [float(cell.strip("()")) for cell in cells if cell.startswith("(")]
        assert [PUBLISHED[name].scores[game] for name in columns] == scores
        found = [PUBLISHED[name].deviations for name in columns[:4]]
        assert [deviation and deviation[game] for deviation in found] == deviations


@pytest.mark.parametrize(("name", "row"), LATER.items())
def test_later_figures_are_as_published(name: str, row: str) -> None:
    assert list(PUBLISHED[name].scores.values()) == [float(cell) for cell in row.split("/")]


def test_every_entry_names_its_source_and_has_every_game_that_the_zoo_knows() -> None:
    weights = {path.stem for path in (Path(__file__).resolve().parents[2] / "kpagent" / "weights").glob("*.safetensors")}
    assert set(GAMES) <= weights
    assert len({entry.label for entry in PUBLISHED.values()}) == len(PUBLISHED)
    for entry in PUBLISHED.values():
        assert tuple(entry.scores) == GAMES
        assert any(digit in entry.source for digit in ("2019", "202"))
        assert (entry.own is None) == (not entry.learns)


def test_scores_are_normalised_by_random_and_human() -> None:
    assert set(normalized(PUBLISHED["random"].scores).values()) == {0.0}
    assert set(normalized(PUBLISHED["human"].scores).values()) == {1.0}
    # By hand: (19.3 - 1.7) / (30.5 - 1.7) and (10.8 + 20.7) / (14.6 + 20.7).
    found = normalized({"breakout": 19.3, "pong": 10.8})
    assert found == pytest.approx({"breakout": 0.6111, "pong": 0.8924}, abs=1e-4)
