import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kpagent.evaluation.scores import human_normalized, interquartile_mean, mean_interval, stratified_bootstrap

finite = st.floats(-1e4, 1e4, allow_nan=False)


def test_a_random_player_has_0_a_human_1_and_in_between_it_is_linear() -> None:
    random, human = np.array([1.7, -20.7]), np.array([30.5, 14.6])
    scores = np.stack([random, human, (random + human) / 2, 2 * human - random])
    np.testing.assert_allclose(human_normalized(scores, random, human), [[0.0] * 2, [1.0] * 2, [0.5] * 2, [2.0] * 2])
    assert human_normalized(16.1, 1.7, 30.5) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("score", "random", "human"),
    [
        (np.zeros((3, 2)), np.zeros(3), np.ones(3)),
        (np.zeros((3, 2)), np.zeros(2), np.ones(1)),
        (np.zeros((3, 2)), np.zeros((3, 2)), np.ones((3, 2))),
        (1.0, 5.0, 5.0),
        (1.0, np.zeros(2), np.ones(2)),
    ],
)
def test_scales_that_do_not_fit_are_refused(score: np.ndarray, random: np.ndarray, human: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must"):
        human_normalized(score, random, human)


def test_the_interquartile_mean_of_few_numbers_by_hand() -> None:
    assert interquartile_mean([[100, 1], [3, -100]]) == 2  # 1 and 3 are the middle half of four
    assert interquartile_mean([5]) == 5
    assert interquartile_mean([0, 0, 9]) == 3  # a quarter of three, rounded down, is none
    assert interquartile_mean(range(8)) == 3.5


@given(st.lists(finite, min_size=1, max_size=60))
def test_the_interquartile_mean_is_that_of_a_slow_loop(values: list[float]) -> None:
    left_out = len(values) // 4
    middle = sorted(values)[left_out : len(values) - left_out]
    assert interquartile_mean(values) == pytest.approx(sum(middle) / len(middle), abs=1e-6)


def test_the_bootstrap_draws_runs_within_each_game() -> None:
    # Runs of a game are alike, games are not: whatever is drawn within games, the mean stays.
    scores = np.tile([0.0, 10.0, 50.0], (4, 1))
    assert stratified_bootstrap(scores, lambda s: float(s.mean())) == (20.0, 20.0)

    seen: list[np.ndarray] = []

    def spy(sample: np.ndarray) -> float:
        seen.append(sample)
        return 0.0

    games = np.arange(12.0).reshape(4, 3)
    stratified_bootstrap(games, spy, resamples=200)
    for sample in seen:
        assert sample.shape == (4, 3)
        assert (sample % 3 == [0, 1, 2]).all()
    drawn = np.stack(seen)
    for game in range(3):
        assert set(drawn[:, :, game].ravel()) == set(games[:, game])
    # Each game draws runs of its own.
    assert (drawn[..., 0] // 3 != drawn[..., 1] // 3).any()


def test_the_interval_of_the_mean_of_one_game_is_that_of_scipy() -> None:
    runs = np.random.default_rng(1).normal(3, 2, size=(30, 1))
    low, high = stratified_bootstrap(runs, lambda s: float(s.mean()), resamples=20_000)
    kept = stats.bootstrap(
        (runs[:, 0],), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert (low, high) == pytest.approx((kept.low, kept.high), abs=0.03)


def test_the_interval_of_many_runs_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(3), 0
    for trial in range(150):
        low, high = stratified_bootstrap(rng.normal([0.0, 5.0], 1.0, size=(25, 2)), np.mean, resamples=300, seed=trial)
        hits += low <= 2.5 <= high
    assert 0.86 <= hits / 150 <= 0.99


def test_one_seed_gives_one_interval_that_holds_the_statistic() -> None:
    scores = np.random.default_rng(4).normal(size=(5, 4))
    low, high = stratified_bootstrap(scores, seed=7)
    assert low < interquartile_mean(scores) < high
    assert (low, high) == stratified_bootstrap(scores, seed=7) != stratified_bootstrap(scores, seed=8)


def test_the_t_interval_is_that_of_scipys_test_and_of_the_tables() -> None:
    # Student's t of 2 degrees of freedom is 4.303 at 97.5%; the sample's deviation is 1, √3 runs.
    assert mean_interval([1, 2, 3]) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)
    runs = np.random.default_rng(5).normal(size=9)
    expected = stats.ttest_1samp(runs, 0).confidence_interval()
    assert mean_interval(runs) == pytest.approx((expected.low, expected.high))


def test_what_is_no_table_of_scores_is_refused() -> None:
    with pytest.raises(ValueError, match="run by game"):
        stratified_bootstrap([1.0, 2.0])
    with pytest.raises(ValueError, match="at least 1"):
        stratified_bootstrap([[1.0]], resamples=0)
    with pytest.raises(ValueError, match="two runs"):
        mean_interval([1.0])
    with pytest.raises(ValueError, match="at least one score"):
        interquartile_mean([])
    for refused in (interquartile_mean, mean_interval, lambda s: stratified_bootstrap([s])):
        with pytest.raises(ValueError, match="finite"):
            refused([1.0, float("nan")])
