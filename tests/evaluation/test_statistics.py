"""Intervals and p-values agree with exact distributions, with SciPy, and with simulations."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca.evaluation.paper import AGIEVAL_WINS
from orca.evaluation.statistics import (
    RESAMPLES,
    Interval,
    draw_spread,
    macro_average,
    macro_ratio,
    macro_share,
    mcnemar,
    paired_difference,
    resampled_means,
    share,
)


def binomial_quantile(n: int, p: float, share: float) -> float:
    """Smallest k / n whose cumulative probability reaches ``share``."""
    total = 0.0
    for k in range(n + 1):
        total += math.comb(n, k) * p**k * (1 - p) ** (n - k)
        if total >= share:
            return k / n
    raise AssertionError


@pytest.mark.parametrize(("right", "n"), [(70, 254), (5, 20), (349, 684)])
def test_the_interval_of_an_accuracy_is_that_of_a_binomial_number(right: int, n: int) -> None:
    """Resampling items that are right or wrong draws from a binomial distribution."""
    found = macro_average([np.repeat([1.0, 0.0], [right, n - right])])
    assert found.value == right / n
    assert found.low == pytest.approx(binomial_quantile(n, right / n, 0.025), abs=1.5 / n)
    assert found.high == pytest.approx(binomial_quantile(n, right / n, 0.975), abs=1.5 / n)


def test_the_interval_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).gamma(2.0, size=120)
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=RESAMPLES, rng=3
    ).confidence_interval
    found = macro_average([values])
    width = found.high - found.low
    assert found.low == pytest.approx(expected.low, abs=0.03 * width)
    assert found.high == pytest.approx(expected.high, abs=0.03 * width)


def test_equal_rows_may_be_drawn_as_one() -> None:
    """Same mean and variance as drawing n - 1 rows one by one: p (1 - p) / (n - 1)."""
    values = np.repeat([1.0, 0.0], [30, 70])
    means = resampled_means(values, 100_000, np.random.default_rng(0))[:, 0]
    assert means.shape == (100_000,)
    assert means.mean() == pytest.approx(0.3, abs=0.001)
    assert means.var() == pytest.approx(0.3 * 0.7 / 99, rel=0.02)


def test_columns_of_an_item_stay_together() -> None:
    values = np.random.default_rng(0).normal(size=(50, 1)) * [1.0, -2.0]
    means = resampled_means(values, 500, np.random.default_rng(0))
    np.testing.assert_allclose(means[:, 1], -2 * means[:, 0])
    assert means[:, 0].std() > 0.05


def test_each_task_counts_the_same_whatever_its_size() -> None:
    tasks = [np.ones(10), np.zeros(990)]
    assert macro_average(tasks) == Interval(0.5, 0.5, 0.5)


def test_many_different_values_are_drawn_in_blocks_of_bounded_size() -> None:
    values = np.random.default_rng(0).normal(size=3_000)
    means = resampled_means(values, 2_000, np.random.default_rng(0))[:, 0]
    assert len(means) == 2_000 and len(set(means.tolist())) > 1_900
    assert means.std() == pytest.approx(values.std() / math.sqrt(3_000), rel=0.1)


@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=30).map(np.array),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 5),
)
def test_an_interval_lies_in_the_range_of_values_and_is_the_same_again(
    tasks: list[np.ndarray], seed: int
) -> None:
    found = macro_average(tasks, seed)
    least, most = np.mean([t.min() for t in tasks]), np.mean([t.max() for t in tasks])
    assert least - 1e-9 <= found.low <= found.high <= most + 1e-9
    assert least - 1e-9 <= found.value <= most + 1e-9
    assert macro_average(tasks, seed) == found
    if all(t.min() == t.max() for t in tasks):
        assert found.low == pytest.approx(found.high)


def test_the_macro_average_is_covered_as_often_as_promised() -> None:
    """Three tasks of other sizes and difficulties, 400 times."""
    rng = np.random.default_rng(5)
    truth = [(0.25, 250), (0.6, 150), (0.45, 400)]
    covered = 0
    for seed in range(400):
        found = macro_average([(rng.random(n) < p).astype(float) for p, n in truth], seed)
        covered += found.low <= np.mean([p for p, _ in truth]) <= found.high
    assert 0.925 <= covered / 400 <= 0.975  # 0.95 with a standard error of 0.011


@pytest.mark.parametrize("p", [0.1, 0.5, 0.72])
def test_resamples_of_five_items_vary_as_five_items_do(p: float) -> None:
    """Over all outcomes; were five drawn and not four, it would be 4/5 of p (1 - p) / 5."""
    rng = np.random.default_rng(7)
    expected = 0.0
    for right in range(6):
        chance = math.comb(5, right) * p**right * (1 - p) ** (5 - right)
        values = np.repeat([1.0, 0.0], [right, 5 - right])
        expected += chance * resampled_means(values, 20_000, rng).var()
    assert expected == pytest.approx(p * (1 - p) / 5, rel=0.03)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_of_a_share_is_wilsons(right: int, n: int, low: float, high: float) -> None:
    """The examples of Newcombe, Two-sided confidence intervals for the single proportion (1998)."""
    found = share(np.repeat([1.0, 0.0], [right, n - right]))
    assert (found.value, found.low, found.high) == pytest.approx((right / n, low, high), abs=1e-4)


@pytest.mark.parametrize("n", [3, 5, 10, 20, 30])
def test_the_interval_of_a_share_covers_95_per_cent_however_few_items_there_are(n: int) -> None:
    """Exact sums over binomial outcomes, of accuracies of 0.05 to 0.95."""
    found = [share(np.repeat([1.0, 0.0], [k, n - k])) for k in range(n + 1)]
    covered = [
        sum(
            math.comb(n, k) * p**k * (1 - p) ** (n - k)
            for k, one in enumerate(found)
            if one.low <= p <= one.high
        )
        for p in np.arange(0.05, 0.951, 0.01)
    ]
    assert 0.945 <= np.mean(covered) <= 0.965 and min(covered) > 0.83
    assert all(one.high - one.low > 0 for one in found)


def test_several_draws_narrow_an_interval_by_what_they_tell() -> None:
    """From nothing, where the draws of an item are alike, to as if each were another item."""
    alike = np.repeat([1.0, 0.0], [12, 28])
    mixed, apart = np.full(40, 0.3), np.repeat([1.0, 0.0], [48, 112])
    for found, same in (
        (share(alike, draws=4), share(alike)),
        (share(mixed, draws=4), share(apart)),
    ):
        assert (found.low, found.high) == pytest.approx((same.low, same.high))


def test_where_all_answers_are_alike_the_average_has_a_width_too() -> None:
    assert macro_share([np.zeros(5), np.zeros(15)]) == share(np.zeros(20))
    assert macro_share([np.ones(4)]) == share(np.ones(4))


def test_a_paired_difference_of_one_task_is_bonett_and_prices() -> None:
    """Their formula: proportions of items won and lost with one more of each."""
    for won, lost, n in [(4, 0, 5), (0, 0, 5), (30, 12, 200), (5, 5, 10)]:
        changes = np.repeat([1.0, -1.0, 0.0], [won, lost, n - won - lost])
        found, p_value = paired_difference([changes])
        p, q = (won + 1) / (n + 2), (lost + 1) / (n + 2)
        half = 1.959964 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
        assert found.value == (won - lost) / n
        assert found.low == pytest.approx(max(-1, p - q - half))
        assert found.high == pytest.approx(min(1, p - q + half))
        assert (p_value is None) == (n < 30)


@pytest.mark.parametrize("change", [0.0, 1.0])
def test_tasks_whose_items_all_changed_alike_are_as_one_task(change: float) -> None:
    """A bootstrap would say that a difference of three items is known exactly."""
    tasks = [np.full(n, change) for n in (1, 1, 3)]
    assert paired_difference(tasks) == paired_difference([np.concatenate(tasks)])
    interval, _ = paired_difference(tasks)
    assert interval.high - interval.low > 0.5


def test_draws_of_an_item_are_no_new_items() -> None:
    """With the items as clusters 95 % are covered; with every answer as an item far fewer."""
    rng = np.random.default_rng(6)
    together = apart = 0
    for seed in range(400):
        difficulty = rng.beta(0.4, 0.4, size=120)  # mean 0.5; most items nearly always or never
        answers = (rng.random((120, 4)) < difficulty[:, None]).astype(float)
        clusters = macro_average([answers.mean(axis=1)], seed)
        answered = macro_average([answers.reshape(-1)], seed)
        together += clusters.low <= 0.5 <= clusters.high
        apart += answered.low <= 0.5 <= answered.high
    assert 0.925 <= together / 400 <= 0.975
    assert apart / 400 < 0.85


def test_spread_is_the_standard_deviation_of_the_macro_average_over_draws() -> None:
    first = np.array([[1.0, 0, 1], [1, 0, 0]])  # 1, 0, 0.5
    second = np.array([[1.0, 1, 0]])
    assert draw_spread([first, second]) == pytest.approx(np.std([1, 0.5, 0.25], ddof=1))
    assert draw_spread([first[:, :1], second[:, :1]]) is None


def test_spread_leaves_out_what_did_not_come() -> None:
    scores = np.array([[1.0, 0.0, np.nan], [np.nan, 1.0, np.nan]])
    assert draw_spread([scores]) == pytest.approx(np.std([1, 0.5], ddof=1))
    assert draw_spread([scores[:, [0, 2]]]) is None


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_two_sided_test_of_a_fair_coin(won: int, lost: int) -> None:
    """The definition, over all outcomes that are no likelier than the one seen."""
    tosses = won + lost
    seen = math.comb(tosses, won)
    ways = sum(ways for k in range(tosses + 1) if (ways := math.comb(tosses, k)) <= seen)
    assert mcnemar(won, lost) == pytest.approx(float(Fraction(ways, 2**tosses)), rel=1e-12)


@pytest.mark.parametrize(("won", "lost"), [AGIEVAL_WINS, (0, 0), (59, 121), (1, 9), (1400, 1300)])
def test_mcnemar_is_that_of_scipy(won: int, lost: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(won, won + lost, 0.5).pvalue if won + lost else 1.0
    assert mcnemar(won, lost) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 5) == 2 / 32
    assert mcnemar(1, 9) == mcnemar(9, 1) == 2 * 11 / 1024
    assert mcnemar(3, 3) == 1


def test_a_paired_difference_is_narrower_than_that_of_two_samples() -> None:
    """Two runs that agree on most items: only the items that changed make the interval wide."""
    rng = np.random.default_rng(0)
    first = (rng.random(500) < 0.5).astype(float)
    second = first.copy()
    second[:20] = 1 - second[:20]
    difference, _ = paired_difference([first - second])
    both = 1.96 * math.sqrt(np.var(first - second) / 500)
    assert difference.high - difference.low == pytest.approx(2 * both, rel=0.05)
    one = macro_average([first])
    assert difference.high - difference.low < 0.5 * (one.high - one.low)


def test_the_bootstrap_p_value_follows_mcnemars_and_its_sign_does_not_matter() -> None:
    for won, lost in [(30, 30), (40, 25), (60, 30)]:
        changes = np.repeat([1.0, -1.0, 0.0], [won, lost, 400])
        interval, p_value = paired_difference([changes])
        mirrored, same = paired_difference([-changes])
        assert p_value is not None
        assert p_value == pytest.approx(mcnemar(won, lost), abs=0.05)
        assert same == pytest.approx(p_value, abs=0.02)
        assert interval.value == pytest.approx(-mirrored.value)
        assert (interval.low > 0) == (p_value < 0.05)


def test_runs_that_do_not_differ_have_p_1_and_others_never_p_0() -> None:
    interval, p_value = paired_difference([np.zeros(30), np.zeros(5)])
    assert interval.value == 0 and p_value == 1.0
    cancelling = np.tile([1 - 2 / 3, 1 / 3 - 2 / 3], 15)  # each two add up to 3e-17
    assert paired_difference([cancelling, np.zeros(5)])[1] > 0.9
    assert paired_difference([np.ones(30)])[1] == 2 / (RESAMPLES + 1)


def test_the_ratio_of_totals_has_the_width_that_the_delta_method_gives() -> None:
    rng = np.random.default_rng(2)
    reference = rng.integers(6, 11, size=400).astype(float)
    candidate = np.clip(reference - rng.integers(0, 4, size=400), 1, 10)
    found = macro_ratio([np.stack([candidate, reference], axis=1)])
    ratio = candidate.sum() / reference.sum()
    error = np.std(candidate - ratio * reference) / reference.mean() / math.sqrt(400)
    assert found.value == ratio
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert found.low < ratio < found.high


def test_tasks_of_one_item_vary_as_all_items_do() -> None:
    """23 tasks of one item are 23 items: the interval covers what it should, and has a width."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(150):
        tasks = [rng.binomial(1, 0.4, 1).astype(float) for _ in range(23)]
        found = macro_share(tasks)
        assert 0 <= found.low < found.value < found.high <= 1
        covered.append(found.low <= 0.4 <= found.high)
    assert 0.88 < np.mean(covered) <= 1
    change, _ = paired_difference([np.array([x]) for x in (1.0, 0.0, -1.0, 1.0, 0.0)])
    assert change.value == pytest.approx(0.2)
    assert change.low < 0.2 < change.high
