"""The statistics of a comparison: what intervals and marks do where nothing differs, and where something does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import t as student

from pipelines.bootstrap import bootstrap_intervals, holm, p_value, standard_error
from pipelines.compare_marks import _pooled, marks, p_values
from pipelines.report import compare

PROMPTS = 60


def test_seeds_of_training_are_resampled_beside_the_clusters() -> None:
    """By a naive loop; the training without a score of a prompt has no part in it."""
    values = np.random.default_rng(0).random((12, 3, 2))
    values[4, 1] = np.nan
    clusters = np.array(list("abcabcdeeeea"))
    draw, seeds, means = np.random.default_rng(7), np.random.default_rng((7, 1)), []
    for _ in range(50):
        rows = [row for name in draw.integers(5, size=5) for row in range(12) if clusters[row] == "abcde"[name]]
        cells = values[rows][:, seeds.integers(3, size=3)].reshape(-1, 2)
        means.append(np.nanmean(cells, axis=0))
    expected = np.quantile(means, [0.025, 0.975], axis=0)
    assert bootstrap_intervals(values, clusters, seed=7, resamples=50) == pytest.approx(expected, rel=1e-12)


def test_one_training_has_the_interval_that_it_had() -> None:
    values = np.random.default_rng(0).random((20, 1))
    assert np.array_equal(bootstrap_intervals(values[:, None], seed=2), bootstrap_intervals(values, seed=2))
    assert compare(np.zeros((20, 1)), values, "trained", trainings=1) == compare(np.zeros((20, 1)), values, "trained")


def test_trainings_that_differ_widen_the_interval() -> None:
    """Three trainings with two samples of each prompt, of changes 0, 1 and 2: from the lowest to the highest; as one model, a point."""
    aligned = np.repeat(np.array([[0.0, 0, 1, 1, 2, 2]]), PROMPTS, 0)
    apart, as_one = (compare(np.zeros((PROMPTS, 6)), aligned, "trained", trainings=count) for count in (3, 1))
    assert apart is not None and as_one is not None
    assert (apart.change, apart.low, apart.high) == (1, 0, 2) and (as_one.change, as_one.low, as_one.high) == (1, 1, 1)
    assert apart.win_low == 0.5 and apart.win_high == 1


def covered(trainings: int, of_seeds: float, of_prompts: float) -> float:
    draw, hits = np.random.default_rng(5), 0
    for _ in range(300):
        values = of_seeds * draw.normal(size=(1, trainings)) + of_prompts * draw.normal(size=(PROMPTS, 1))
        low, high = bootstrap_intervals(values[..., None], resamples=400)[:, 0]
        hits += low <= 0 <= high
    return hits / 300


def test_intervals_hold_the_truth_as_often_as_the_page_says() -> None:
    """Where prompts scatter more, 95 %; where trainings do, 75 % of three and not 95: the standard errors are 0.013 and 0.025."""
    assert covered(3, 0.05, 1.0) == pytest.approx(0.95, abs=0.035)
    assert covered(3, 1.0, 0.01) == pytest.approx(0.75, abs=0.06)


def test_p_value_by_hand() -> None:
    assert p_value(2.776445 * 0.5, [(0.25, 4)]) == pytest.approx(0.05, rel=1e-5)  # t of 4 degrees at 97.5 %
    # 1/4 with 4 degrees and 3/4 with 2: 1 / (1/64 + 9/32) = 64/19 degrees; 3.0 standard errors. A variance of 0 has no part.
    assert p_value(3.0, [(0.25, 4), (0.75, 2), (0.0, 1)]) == pytest.approx(2 * student.sf(3.0, 64 / 19))
    assert (p_value(0.0, [(0.0, 5)]), p_value(0.1, [(0.0, 5)])) == (1, 0)
    values = np.random.default_rng(0).normal(size=400)
    assert standard_error(values) == pytest.approx(values.std() / 20, rel=0.05)


def test_holm_by_hand() -> None:
    """Of four at 5 %: 0.01 ≤ 1/80, 0.016 ≤ 1/60, 0.03 > 1/40, and so 0.04 ≤ 1/20 does not count any more."""
    assert holm([0.04, 0.01, 0.03, 0.016]) == 0.016
    assert holm([0.02, 0.5, 0.5]) == -1 and holm([]) == -1 and holm([0.05]) == 0.05


def table(draw: np.random.Generator, *, of_seeds: float, strong: float = 0.0, methods: int = 26, seeds: int = 3,
          wild: Sequence[float] = (), fall: float = 0.0) -> dict[str, object]:  # fmt: skip
    """A comparison with a rival, none better but the first by `strong`; prompts alone have a standard error of 0.1 in a difference.

    wild   so many times as far the seeds of the last methods differ; they are worse by `fall`
    """
    scatter = of_seeds * np.array([*[1.0] * (methods - len(wild)), *wild])
    rival = of_seeds * draw.normal(size=seeds)
    found: dict[str, object] = {"rival": {"seeds": {seed: {"s": value} for seed, value in enumerate(rival)}}}
    for number in range(methods):
        own = scatter[number] * draw.normal(size=seeds) + strong * (number == 0) - fall * (number >= methods - len(wild))
        differences = own - rival + 0.1 * draw.normal()
        change = {"change": differences.mean(), "prompt_error": 0.1, "seeds": dict(enumerate(differences))}
        found[f"method {number}"] = {"seeds": {seed: {"s": value} for seed, value in enumerate(own)}, "against": {"s": change}}
    return {"scores": ["s"], "clusters": 100, "methods": found}


@pytest.mark.parametrize("of_seeds", [0.0, 0.1, 0.3])
def test_where_nothing_differs_a_table_has_a_mark_in_one_of_twenty_at_most(of_seeds: float) -> None:
    """Standard error of the share, of 400 tables: 0.011."""
    draw = np.random.default_rng(11)
    wrong = np.mean([any(marks(table(draw, of_seeds=of_seeds)).values()) for _ in range(400)])
    assert wrong <= 0.07


OBSERVED = (5.2, 3.5, 2.2, 2.1, 1.5)  # of five in configs/methods: aot, simpo, dmpo, apo_down, adpo_on_policy


def test_methods_that_scatter_more_are_no_reason_for_false_marks() -> None:
    """Standard error of the share, of 300 tables: 0.013."""
    draw = np.random.default_rng(5)
    wrong = np.mean([any(marks(table(draw, of_seeds=0.12, methods=56, wild=OBSERVED)).values()) for _ in range(300)])
    assert wrong <= 0.07


def test_methods_that_collapse_do_not_hide_the_others() -> None:
    """Standard error of the share, of 300 tables: 0.027; with all methods in the pool it is 0.20."""
    draw = np.random.default_rng(5)
    tables = [table(draw, of_seeds=0.12, methods=56, wild=(4.0,) * 5, fall=1.3, strong=0.5) for _ in range(300)]
    assert np.mean([marks(each)["method 0"] == {"s": "▲"} for each in tables]) >= 0.27


def test_the_variance_of_seeds_is_that_of_the_methods_but_the_wild_ones() -> None:
    """By hand: variances 2, 2, 2, 6 and 5000; χ² of one degree is 0.455 in the middle and 6.63 at 1 %, so one of 29 or less is kept."""
    groups = [[0.0, 2.0], [1.0, 3.0], [5.0, 7.0], [0.0, 12**0.5], [0.0, 100.0], [1.0]]
    assert _pooled(groups) == pytest.approx((3.0, 4))
    assert _pooled([[0.0, 2.0]] * 30) == pytest.approx((2.0, 20)) and _pooled([[1.0], []]) == (0, 0)
    assert _pooled([[1.0, 1.0]] * 3) == (0, 3)


def test_a_strong_difference_is_marked_and_it_alone() -> None:
    draw = np.random.default_rng(3)
    for sign, mark in ((1, "▲"), (-1, "▼")):
        found = marks(table(draw, of_seeds=0.03, strong=sign * 0.8))
        assert found.pop("method 0") == {"s": mark} and not any(found.values())


def test_one_training_is_tested_over_prompts_alone() -> None:
    one = table(np.random.default_rng(0), of_seeds=0.5, methods=1, seeds=1)
    change = one["methods"]["method 0"]["against"]["s"]["change"]  # type: ignore[index]
    assert p_values(one)["method 0"]["s"] == pytest.approx(2 * student.sf(abs(change) / 0.1, 99))
    old = table(np.random.default_rng(0), of_seeds=0.0, strong=0.5)
    del old["methods"]["method 3"]["against"]["s"]["prompt_error"]  # type: ignore[index]
    assert "method 3" not in p_values(old) and len(p_values(old)) == 25
