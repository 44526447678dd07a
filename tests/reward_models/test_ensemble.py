"""ensemble against plain loops over candidates and rewards."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diffalign.data.modalities.audio import Audio
from diffalign.data.modalities.image import Image
from reward_models import load_reward
from reward_models.ensemble import RULES, Ensemble

PROMPTS = ["a", "b", "a", "a", "b", "c", "a"]
PARTS = ("contrast", "brightness", "saturation")


@pytest.fixture(scope="module")
def images() -> list[Image]:
    """The last is the first again: a tie of all rewards."""
    random = np.random.default_rng(0)
    found = [Image.from_pixels(random.integers(0, 40 * (place + 1), (8, 8, 3), dtype=np.uint8)) for place in range(6)]
    return [*found, found[0]]


def against_all(own: int, places: list[int], points: Callable[[int, int], float]) -> float:
    others = [other for other in places if other != own]
    return float(np.mean([points(own, other) for other in others])) if others else 0.5


def by_loops(rule: str, scores: dict[str, list[float]], weights: dict[str, float]) -> list[float]:
    found = []
    total = sum(abs(weight) for weight in weights.values())
    for own, prompt in enumerate(PROMPTS):
        places = [place for place, other in enumerate(PROMPTS) if other == prompt]

        def normal(name: str, own: int = own, places: list[int] = places) -> float:
            values = [scores[name][place] for place in places]
            if rule == "standard":
                return (scores[name][own] - np.mean(values)) / np.std(values) if np.std(values) else 0.0
            return (scores[name][own] - min(values)) / (max(values) - min(values)) if max(values) > min(values) else 0.5

        def sides(one: int, other: int) -> list[tuple[float, float]]:
            """(weight, 1, 0 or −1) of each reward: what it says of one against another."""
            return [(abs(w), float(np.sign(w * (scores[name][one] - scores[name][other])))) for name, w in weights.items()]

        def wins(one: int, other: int) -> float:
            said = sides(one, other)
            if rule == "win_fraction":
                return sum(weight * {1: 1.0, 0: 0.5, -1: 0.0}[side] for weight, side in said) / total
            if rule == "agreement":
                better, worse = any(side > 0 for _, side in said), any(side < 0 for _, side in said)
                return 0.5 if better == worse else float(better)
            return next((1.0 if side > 0 else 0.0 for _, side in said if side), 0.5)

        mean = rule in ("standard", "min_max")
        found.append(sum(w * normal(name) for name, w in weights.items()) / total if mean else against_all(own, places, wins))
    return found


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("weights", [None, {"saturation.score": -2, "contrast.score": 0.5}])
def test_it_is_a_loop_over_candidates(rule: str, weights: dict[str, float] | None, images: list[Image]) -> None:
    alone = {name: load_reward(name)(PROMPTS, images)["score"] for name in PARTS}
    reward = load_reward("ensemble", of=list(PARTS), rule=rule, weights=weights)
    found = reward(PROMPTS, images)
    given = dict.fromkeys(PARTS, 1.0) if weights is None else {name.partition(".")[0]: value for name, value in weights.items()}
    np.testing.assert_allclose(found["score"], by_loops(rule, alone, given), atol=1e-12)
    assert len(set(found["score"])) > (1 if rule == "agreement" else 2)
    assert {name: found[f"{name}_score"] for name in PARTS} == alone
    assert reward.dimensions == ("score", "contrast_score", "brightness_score", "saturation_score") and reward.groupwise


def test_rules_by_hand() -> None:
    """Three candidates, two rewards: the first puts them 3 2 1, the second 1 3 2 (more is better)."""
    scores, weights = np.array([[3.0, 2, 1], [1, 3, 2]]), np.array([1.0, 1])
    assert RULES["win_fraction"](scores, weights).tolist() == [0.5, 0.75, 0.25]
    assert RULES["agreement"](scores, weights).tolist() == [0.5, 0.75, 0.25]
    assert RULES["lexicographic"](scores, weights).tolist() == [1, 0.5, 0]
    assert RULES["lexicographic"](np.array([[1.0, 1, 0], [1, 2, 9]]), weights).tolist() == [0.5, 1, 0]
    assert RULES["min_max"](scores, weights).tolist() == [0.5, 0.75, 0.25]
    np.testing.assert_allclose(RULES["standard"](scores, weights), np.array([0, 1, -1]) * np.sqrt(1.5) / 2, atol=1e-12)
    # φ of Syn-Pic at K = 4 and one reward: 1, 2/3, 1/3, 0.
    np.testing.assert_allclose(RULES["win_fraction"](np.array([[9.0, 5, 2, 1]]), np.array([1.0])), [1, 2 / 3, 1 / 3, 0])
    for rule in RULES.values():
        assert rule(np.array([[7.0]]), np.array([1.0]))[0] in (0.0, 0.5)


def test_one_model_can_be_used_twice_and_groupwise_rewards_take_part(images: list[Image]) -> None:
    of = {"fine": {"reward": "jpeg_size", "quality": 90}, "coarse": {"reward": "jpeg_size", "quality": 10},
          "inner": {"reward": "ensemble", "of": ["contrast"], "rule": "min_max"}}  # fmt: skip
    found = Ensemble(of)(PROMPTS, images)
    assert found["fine_score"] == load_reward("jpeg_size", quality=90)(PROMPTS, images)["score"] != found["coarse_score"]
    assert found["inner_score"] == load_reward("ensemble", of=["contrast"], rule="min_max")(PROMPTS, images)["score"]


def test_a_part_without_a_score_needs_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    part = SimpleNamespace(name="x", revision="1", dimensions=("mean", "nearest"))
    monkeypatch.setattr("reward_models.ensemble.load_reward", lambda name, **settings: part)
    with pytest.raises(ValueError, match="'dino_similarity', which has no dimension 'score' but mean, nearest; say with weights"):
        Ensemble(["dino_similarity"])
    assert Ensemble(["dino_similarity"], weights={"dino_similarity.nearest": -1}).dimensions[1:] == (
        "dino_similarity_mean", "dino_similarity_nearest"
    )  # fmt: skip


def test_revision_names_rule_weights_and_parts() -> None:
    plain = Ensemble(["contrast", "brightness"])
    assert plain.revision.startswith("standard/contrast.score: 1, brightness.score: 1/")
    others = [
        Ensemble(["contrast", "brightness"], rule="min_max"),
        Ensemble(["contrast", "brightness"], weights={"contrast.score": 1}),
        Ensemble({"contrast": None, "brightness": {"reward": "jpeg_size"}}),
        Ensemble({"contrast": None, "brightness": {"reward": "jpeg_size", "quality": 9}}),
    ]
    assert len({plain.revision, *(each.revision for each in others)}) == 5


def test_a_medium_that_a_part_cannot_score_is_refused(images: list[Image]) -> None:
    with pytest.raises(ValueError, match="reward 'contrast' scores image, but item 1 is audio"):
        Ensemble(["contrast"])(["a", "b"], [images[0], Audio.from_waveform(np.zeros((1, 100)), 8000)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"of": []}, r"of = \[\]; give rewards"),
        ({"of": "contrast"}, "of = 'contrast'; give rewards"),
        ({"of": ["contrast"], "rule": "mean"}, "rule = 'mean'.*; choose one of: standard, min_max, win_fraction"),
        (
            {"of": ["contrast"], "weights": {"contrast": 1}},
            r"a weight for 'contrast' \(did you mean 'contrast.score'\?\); its rewards have: ",
        ),
        ({"of": ["contrast"], "weights": {"contrast.score": 0}}, r"weights = {'contrast.score': 0}; give finite numbers other than 0"),
        ({"of": ["contrast"], "weights": {"contrast.score": float("nan")}}, "give finite numbers other than 0"),
        ({"of": ["contrasts"]}, r"unknown reward 'contrasts' \(did you mean 'contrast'\?\)"),
        ({"of": {"a b": {"reward": "contrast"}}}, "a reward named 'a b'; its scores are columns"),
        ({"of": ["ensemble"]}, "not 'ensemble'"),
        ({"of": {"jpeg_size": {"qualiti": 3}}}, r"no setting 'qualiti' \(did you mean 'quality'\?\)"),
    ],
)
def test_a_wrong_setting_is_named_with_its_fix(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_reward("ensemble", **settings)
