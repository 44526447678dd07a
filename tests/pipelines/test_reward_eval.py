"""reward-eval: its measures by hand and against plain loops, an oracle and a coin, and the command on runs of both kinds."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_backbone import Loader, fake_config, loader  # noqa: F401 (a fixture)
from tiny_preference_sets import save_pickapic
from typer.testing import CliRunner

from diffalign.data.records import Preference, read_preferences
from pipelines import reward_eval
from pipelines.cli import app
from pipelines.config import Config
from pipelines.generate import run as generate
from pipelines.pair import run as pair
from pipelines.progress import Progress
from pipelines.reward_metrics import (
    Comparisons,
    best_of,
    blocks_of,
    calibration,
    fitted_temperature,
    kendall,
    measured,
    right_order,
    right_with_ties,
    tie_threshold,
)
from pipelines.score import run as score

QUIET = Progress(silent=True)
LN2 = math.log(2)


def comparisons(gaps: Any, wins: Any, prompts: Any = None) -> Comparisons:
    gaps = np.array(gaps, np.float64)
    return Comparisons(
        np.array([f"p{place}" for place in range(len(gaps))] if prompts is None else prompts), np.array(wins, np.float64), gaps
    )


# The measures ------------------------------------------------------------------------------------------


def test_pairs_in_order_by_hand() -> None:
    given = comparisons([2, -1, 0, 3, -2], [1, 1, 1, 0.2, 0.4])
    assert right_order(given).tolist() == [1, 0, 0.5, 0, 1]
    assert len(comparisons([1, 1], [0.5, 1]).decided.gaps) == 1


def test_ties_by_hand() -> None:
    """Gaps 0.1 and −0.2 were judged ties: a threshold of 0.2 has four of five right; 0.3 would lose the third again."""
    given = comparisons([0.1, -0.2, 0.3, 1.0, -2.0], [0.5, 0.5, 1, 1, 1])
    assert right_with_ties(given, 0.0).tolist() == [0, 0, 1, 1, 0]
    assert right_with_ties(given, 0.2).tolist() == [1, 1, 1, 1, 0]
    assert right_with_ties(given, 0.3).tolist() == [1, 1, 0, 1, 0]
    assert tie_threshold(given) == 0.2
    assert tie_threshold(comparisons([0.1, 5], [1, 1])) == 0.0, "without ties nothing is one"
    assert tie_threshold(comparisons([], [])) == 0.0


def test_the_threshold_is_the_best_of_all() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        gaps = random.integers(-5, 6, 40) / 4
        wins = random.choice([0, 0.3, 0.5, 1], 40)
        given = comparisons(gaps, wins)
        accuracy = {threshold: right_with_ties(given, threshold).mean() for threshold in sorted({0.0, *np.abs(gaps).tolist()})}
        best = max(accuracy.values())
        assert tie_threshold(given) == min(threshold for threshold, value in accuracy.items() if value == best)


def test_kendall_is_the_count_of_pairs() -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        one, other = random.integers(0, 4, (2, 7)).astype(float)
        signs = [(np.sign(one[i] - one[j]), np.sign(other[i] - other[j])) for i, j in combinations(range(7), 2)]
        agreed = sum(a * b for a, b in signs)
        expected = agreed / math.sqrt(sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs))
        assert kendall(one.tolist(), other.tolist()) == pytest.approx(expected)
    assert kendall([3, 2, 1], [9, 5, 1]) == pytest.approx(1) and kendall([3, 2, 1], [1, 5, 9]) == pytest.approx(-1)
    assert math.isnan(kendall([1, 1], [1, 2])) and math.isnan(kendall([1, 2], [3, 3]))


def test_best_of_is_the_mean_over_all_subsets() -> None:
    random = np.random.default_rng(2)
    truth, scores = random.random(6), np.array([3.0, 1, 3, 2, 1, 1])
    for count in range(1, 7):
        chosen = []
        for subset in combinations(range(6), count):
            best = max(scores[list(subset)])
            chosen.append(np.mean([truth[place] for place in subset if scores[place] == best]))
        assert best_of(truth, scores, count) == pytest.approx(np.mean(chosen))
    assert best_of(truth, truth, 6) == truth.max() and best_of(truth, -truth, 6) == truth.min()


def test_the_temperature_that_made_the_votes_is_found_and_calibrated() -> None:
    random = np.random.default_rng(3)
    gaps = random.normal(0, 5, 20_000)
    wins = (random.random(20_000) < 1 / (1 + np.exp(-gaps / 3))).astype(float)
    fitted = calibration(comparisons(gaps, wins))
    assert fitted is not None and fitted.temperature == pytest.approx(3, rel=0.05)
    assert fitted.error.value < 0.01 and fitted.error.low <= fitted.error.value <= fitted.error.high
    assert (
        all(abs(each.confidence - each.accuracy) < 0.03 for each in fitted.bins) and sum(each.comparisons for each in fitted.bins) == 20_000
    )
    swapped = random.random(20_000) < 0.5
    turned = calibration(comparisons(np.where(swapped, -gaps, gaps), np.where(swapped, 1 - wins, wins)))
    assert (
        turned is not None
        and turned.temperature == pytest.approx(fitted.temperature)
        and turned.error.value == pytest.approx(fitted.error.value)
    )


def test_calibration_by_hand() -> None:
    """Gaps of ±1, three of four right: T = 1 / ln 3 gives the confidence 3/4, exactly, and the entropy of that coin."""
    fitted = calibration(comparisons([1, 1, -1, 1], [1, 1, 0, 0]))
    assert fitted is not None
    assert fitted.temperature == pytest.approx(1 / math.log(3), rel=1e-5)
    assert fitted.entropy == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert fitted.error.value == pytest.approx(0, abs=1e-5)
    (only,) = fitted.bins
    assert (only.comparisons, only.confidence, only.accuracy) == (4, pytest.approx(0.75), 0.75)
    # Two sizes: one T cannot be right about both. Size 1 is right 3 of 4 times, size 3 as well: errors of opposite signs.
    gaps, wins = [1, 1, 1, 1, 3, 3, 3, 3], [1, 1, 1, 0, 1, 1, 1, 0]
    fitted = calibration(comparisons(gaps, wins))
    assert fitted is not None and fitted.temperature is not None
    sure = [1 / (1 + math.exp(-gap / fitted.temperature)) for gap in (1, 3)]
    assert fitted.error.value == pytest.approx((abs(0.75 - sure[0]) + abs(0.75 - sure[1])) / 2)


def test_a_reward_that_says_nothing_or_the_opposite_has_no_temperature() -> None:
    assert fitted_temperature(comparisons([1, 1], [1, 0])) is None and fitted_temperature(comparisons([0, 0], [1, 1])) is None
    opposite = calibration(comparisons([1, 2, 3], [0, 0, 0]))
    assert opposite is not None and opposite.temperature is None and opposite.entropy == pytest.approx(LN2)
    assert (opposite.bins[0].confidence, opposite.bins[0].accuracy, opposite.error.value) == (0.5, 0.5, 0)
    assert calibration(comparisons([], [])) is None


def test_intervals_are_over_prompts() -> None:
    """One prompt asked a hundred times is one prompt: its answers say as little as one."""
    repeated = measured(np.array([0.0] * 100 + [1.0] * 100), np.array(["a"] * 100 + ["b"] * 100))
    single = measured(np.array([0.0] * 100 + [1.0] * 100), np.arange(200))
    assert repeated is not None and single is not None
    assert (repeated.value, repeated.low, repeated.high) == (0.5, 0, 1) and single.high - single.low < 0.2
    assert measured(np.array([]), np.array([])) is None
    random = np.random.default_rng(4)
    values, prompts = random.random(60_000), np.repeat(np.arange(30_000), 2)
    many = measured(values, prompts)
    assert many is not None and blocks_of(prompts).max() == 9_999
    assert many.high - many.low == pytest.approx(2 * 1.96 * values.std() / 60_000**0.5, rel=0.1)


# The report --------------------------------------------------------------------------------------------


def random_set(seed: int = 0, prompts: int = 60, samples: int = 5) -> tuple[list[Preference], dict[str, dict[str, float]]]:
    """Lists by a hidden quality of whole numbers, and pairs by it with ties; scores: that quality, its opposite, and a coin."""
    random = np.random.default_rng(seed)
    preferences, scores = [], {name: {} for name in ("oracle.score", "opposite.score", "coin.score")}
    for prompt in range(prompts):
        quality = random.integers(0, 8, samples).astype(float)
        ids = [f"g{prompt}-{place}" for place in range(samples)]
        for name, values in (("oracle", quality), ("opposite", -quality), ("coin", random.normal(size=samples))):
            scores[f"{name}.score"] |= dict(zip(ids, values.tolist(), strict=True))
        best_first = sorted(range(samples), key=lambda place: -quality[place])
        ranked, worth = tuple(ids[place] for place in best_first), tuple(quality[best_first].tolist())
        preferences.append(Preference(f"g{prompt}", f"prompt {prompt}", ranked, "list", scores=worth, source="people"))
        first, second = random.choice(samples, 2, replace=False)
        wins = 0.5 + 0.5 * np.sign(quality[first] - quality[second])
        preferences.append(Preference(f"g{prompt}", f"prompt {prompt}", (ids[first], ids[second]), win_probability=float(wins)))
    return preferences, scores


def test_an_oracle_has_one_and_a_coin_one_half() -> None:
    preferences, scores = random_set()
    report = reward_eval.report_of(preferences, scores, truth="people")
    assert (report["prompts"], report["comparisons"], report["lists"]) == (60, 60 * 11, 60) and 20 < report["ties"] < 150
    oracle, opposite, coin = (report["rewards"][f"{name}.score"] for name in ("oracle", "opposite", "coin"))
    for key in ("accuracy", "accuracy_with_ties", "kendall"):
        assert oracle[key] == {"value": pytest.approx(1), "low": pytest.approx(1), "high": pytest.approx(1)}
    assert oracle["tie_threshold"] == 0 and oracle["calibration"]["error"]["value"] < 0.01
    assert opposite["accuracy"]["value"] == 0 and opposite["kendall"]["value"] == pytest.approx(-1)
    assert coin["accuracy"]["low"] < 0.5 < coin["accuracy"]["high"] and abs(coin["accuracy"]["value"] - 0.5) < 0.06
    assert abs(coin["kendall"]["value"]) < 0.12
    curve = oracle["best_of"]
    assert [point["count"] for point in curve] == [1, 2, 3, 4, 5] and all(point["prompts"] == 60 for point in curve)
    assert all(point["chosen"]["value"] == pytest.approx(point["oracle"], abs=0.02) for point in curve)
    assert all(point["random"] == pytest.approx(curve[0]["chosen"]["value"]) == pytest.approx(0.5, abs=0.03) for point in curve)
    assert 0.4 < coin["best_of"][4]["chosen"]["value"] < 0.6 < curve[4]["chosen"]["value"]
    assert opposite["best_of"][4]["chosen"]["value"] < 0.2


def test_what_each_kind_of_judgement_compares() -> None:
    pairs = [Preference("g", "p", ("a", "b")), Preference("g", "p", ("a", "c"), win_probability=0.3)]
    ranked = Preference("h", "q", ("d", "e", "f"), "list", scores=(2.0, 1.0, 1.0))
    labelled = [Preference("i", "r", (name,), "labelled", labels=(label,)) for name, label in (("x", 1), ("y", 0), ("z", 0))]
    found = [(each.prompt, each.first, each.second, each.wins) for each in reward_eval.judged_pairs([*pairs, ranked, *labelled])]
    assert found == [("p", "a", "b", 1), ("p", "a", "c", 0.3), ("q", "d", "e", 1), ("q", "d", "f", 1), ("q", "e", "f", 0.5),
                     ("r", "x", "y", 1), ("r", "x", "z", 1)]  # fmt: skip
    with pytest.raises(ValueError, match="the judgements compare no two samples of a prompt"):
        reward_eval.report_of([labelled[0]], {"a.score": {}}, truth="people")


def test_what_has_no_score_is_left_out_and_counted() -> None:
    preferences, scores = random_set(prompts=6)
    del scores["oracle.score"]["g0-0"]
    own = reward_eval.report_of(preferences, scores, truth="people")["rewards"]["oracle.score"]
    assert own["unscored"] + own["comparisons"] == 66 and own["unscored"] >= 4 and own["lists"] == 5
    none = reward_eval.report_of(preferences, {"none.score": {}}, truth="people")["rewards"]["none.score"]
    assert (none["comparisons"], none["accuracy"], none["kendall"], none["best_of"], none["calibration"]) == (0, None, None, [], None)


def test_both_sides_of_the_pairs_with_a_winner_have_their_means() -> None:
    """b beats a by its votes, c ties with a: 1 and 4 on the better side, 3 and 2 on the other."""
    pairs = [Preference("g", "p", ("a", "b"), win_probability=0.2), Preference("g", "p", ("a", "c"), win_probability=0.5)]
    pairs.append(Preference("h", "q", ("d", "e")))
    scores = {"a": 3.0, "b": 1.0, "c": 100.0, "d": 4.0, "e": 2.0}
    own = reward_eval.report_of(pairs, {"r.score": scores}, truth="people")["rewards"]["r.score"]
    assert own["of_the_better"]["value"] == 2.5 and own["of_the_other"]["value"] == 2.5 and own["accuracy"]["value"] == 0.5


def test_the_reward_that_made_the_preferences_is_marked() -> None:
    preferences, scores = random_set(prompts=6)
    made = [replace(row, source="0.5·oracle.score + 1·coin.score") for row in preferences]
    report = reward_eval.report_of(made, scores, truth="the run")
    assert [name for name, own in report["rewards"].items() if own["made_the_preferences"]] == ["oracle.score", "coin.score"]
    cells = reward_eval.rows(report)
    assert all(len(row) == len(reward_eval.COLUMNS) for row in cells)
    assert cells[-1][-3:] == ["–", "–", "0.693"] and float(cells[0][-1]) < 0.693, "the opposite is no better than a coin"
    assert (
        cells[0][0] == "oracle.score *"
        and cells[-1][0] == "opposite.score"
        and "* the preferences were made by it" in reward_eval.page(report)
    )


# The command -------------------------------------------------------------------------------------------


def scored_run(folder: Path) -> Config:
    config = fake_config(folder, score={"rewards": {"sharpness": {}, "contrast": {}}}, pair={"by": "contrast.score", "rule": "ranked_list"})
    generate(config, progress=QUIET)
    score(config, progress=QUIET)
    return config


def test_on_the_preferences_of_a_run(tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    config = scored_run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"preferences is not complete, .*first: diffalign pair CONFIG"):
        reward_eval.run(config, progress=QUIET)
    pair(config, progress=QUIET)
    report = reward_eval.run(config, progress=QUIET)
    assert (report["prompts"], report["comparisons"], report["lists"], report["truth"]) == (6, 36, 6, "the preferences of the run")
    contrast, sharpness = report["rewards"]["contrast.score"], report["rewards"]["sharpness.score"]
    assert contrast["accuracy"]["value"] == contrast["kendall"]["value"] == 1.0 and contrast["made_the_preferences"]
    assert sharpness["accuracy"]["value"] < 1 and not sharpness["made_the_preferences"]
    folder = config.run / "reward_eval"
    assert json.loads((folder / "report.json").read_text()) == report
    text = (folder / "README.md").read_text()
    assert "| contrast.score * | 1.000 [1.000, 1.000] |" in text and "## Best of K by sharpness.score" in text
    config = scored_run(tmp_path / "bare").model_copy(update={"score": None})
    pair(config, progress=QUIET)
    assert set(reward_eval.run(config, progress=QUIET)["rewards"]) == {"contrast.score", "sharpness.score"}


def test_on_an_imported_set_with_its_ties(tmp_path: Path) -> None:
    path = save_pickapic(tmp_path / "set", 10)
    file = tmp_path / "config.yaml"
    source = {"importer": "pickapic", "path": str(path)}
    file.write_text(json.dumps({"run": str(tmp_path / "run"), "model": {"source": "fake/model"}, "score": {"rewards": {"contrast": {}}},
                                "pair": {"source": source}}))  # fmt: skip
    runner = CliRunner()
    failed = runner.invoke(app, ["reward-eval", str(file)])
    assert failed.exit_code == 1 and "first: diffalign score CONFIG" in failed.stderr
    for command in ("score", "reward-eval"):
        result = runner.invoke(app, [command, str(file)])
        assert result.exit_code == 0, (result.output, result.exception)
    assert "contrast.score" in result.stdout and "10 comparisons (2 ties) and 0 lists" in result.stdout and "page: " in result.stdout
    report = json.loads((tmp_path / "run" / "reward_eval" / "report.json").read_text())
    assert (report["comparisons"], report["ties"], report["truth"]) == (10, 2, "the judgements that came with the set")
    assert report["rewards"]["contrast.score"]["kendall"] is None
    assert not (tmp_path / "run" / "preferences").exists() or read_preferences(tmp_path / "run" / "preferences")


def test_without_scores_it_says_which_command_makes_them(tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    config = scored_run(tmp_path / "run")
    pair(config, progress=QUIET)
    more = config.model_copy(update={"score": config.score.model_copy(update={"rewards": {"saturation": {}}}) if config.score else None})
    with pytest.raises(ValueError, match=r"saturation is not complete, .*first: diffalign score CONFIG"):
        reward_eval.run(more, progress=QUIET)
