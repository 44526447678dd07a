"""The page of a comparison: order, marks and every number of a method, from numbers of our own."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffalign import __version__
from pipelines.compare_drift import drift_of
from pipelines.compare_marks import marks
from pipelines.compare_page import commit_of, family, rows, write_page
from pipelines.compare_picture import COLUMNS, draw_curves, draw_methods
from pipelines.compare_result import cost_of, join, lasting
from pipelines.config_file import bundled_configs

OVERALL, SCORE = "shapes.overall", "shapes.score"


def change(value: float, reach: float = 0.02, role: str = "same reward", base: float = 0.5) -> dict[str, Any]:
    interval = {"change": value, "low": value - reach, "high": value + reach}
    return {"base": base, **interval, "win_rate": 0.5 + value, "win_low": 0.48, "win_high": 0.6, "role": role}


def method(objective: str, overall: float, against: float | None, **others: Any) -> dict[str, Any]:
    scores = {OVERALL: change(overall, role="trained"), SCORE: change(overall / 2), "jpeg_size.score": change(-0.3, role="held out"),
              "saturation.score": change(0.01, role="guard"), "shapes.count": change(0.01)}  # fmt: skip
    found = {
        "objective": objective, "grid": [{"mean": 0.8}, {"mean": 0.7}], "beta": 500.0, "learning_rate": 5e-5,
        "failures": {}, "scores": scores,
        "seeds": {seed: {OVERALL: overall + shift, SCORE: shift} for seed, shift in (("1", -0.002), ("2", 0.002))},
        "guards": {"saturation": {"relative": -0.04}, "sharpness": {"relative": None}}, "seconds": 61.4, "seconds_per_step": 0.3456,
        "groups": 2940.0, "win_adv": -0.0032, "lose_adv": 0.0071, **others,
    }  # fmt: skip
    faced = difference(0.0) | {"win_rate": 0.5 + overall}
    return (
        found if against is None else found | {"against": {OVERALL: difference(against), SCORE: faced, "saturation.score": change(-0.03)}}
    )


def difference(value: float) -> dict[str, Any]:
    """Of two seeds that differ little."""
    return change(value) | {"prompt_error": 0.01, "seeds": {"1": value - 0.002, "2": value + 0.002}}


RESULT = {
    "prompts": 200, "clusters": 109, "scores": [OVERALL, SCORE], "select": SCORE, "against": "diffusion_dpo", "target": 0.05,
    "own_data": False, "made": [{"command": "diffalign compare a.yaml", "commit": "abc"}],
    "methods": {
        "worse": method("capo", -0.06, -0.09, beta=None, grid=[{"mean": 0.8}]),
        "diffusion_dpo": method("diffusion_dpo", 0.03, None),
        "smpo": method("smpo", 0.1, 0.07, cost=1.5, steps={"75": {OVERALL: 0.02}, "150": {OVERALL: 0.09}}, steps_to_target=150),
        "simpo": method("simpo", 0.04, 0.01, steps={"75": {OVERALL: 0.01}, "150": {OVERALL: 0.04}}, steps_to_target=None),
        "kto": {"objective": "kto", "grid": [], "failures": {"kto": "all pairs were\nfiltered out"}},
    },
}  # fmt: skip


GROUND = {"model": "tiny", "evaluate": {"steps": 20}}


def test_the_best_is_first_and_what_is_clear_is_marked() -> None:
    methods = RESULT["methods"]
    assert [row[0] for row in rows(RESULT)] == ["smpo", "simpo", "diffusion_dpo", "worse"]
    assert marks(RESULT) == {"worse": {OVERALL: "▼"}, "smpo": {OVERALL: "▲"}, "simpo": {}}
    assert [family(methods[name]) for name in ("smpo", "simpo", "worse")] == ["pairs", "pairs, no reference", "lists"]
    assert rows(RESULT)[0] == [
        "smpo", "▲ +0.100 [+0.080, +0.120]", "+0.050 [+0.030, +0.070]", "+0.070 [+0.050, +0.090]",
        "55 %", "500", "5e-05", "1.50", "0.346", "61",
    ]  # fmt: skip


def test_the_page_has_every_number_and_both_pictures(tmp_path: Path) -> None:
    write_page(RESULT, tmp_path / "README.md")
    page = (tmp_path / "README.md").read_text()
    for line in (
        "| 1 | 🔵 **`smpo`** | ▲ **+0.100** <sub>+0.080 … +0.120</sub> | +0.050 <sub>+0.030 … +0.070</sub> "
        "| +0.070 <sub>+0.050 … +0.090</sub> | 55 % <sub>48 … 60</sub> | 60 % <sub>48 … 60</sub> |",
        "| 3 | 🔵 `diffusion_dpo` | +0.030 <sub>+0.010 … +0.050</sub> | +0.015 <sub>−0.005 … +0.035</sub> "
        "| – | 52 % <sub>48 … 60</sub> | – |",
        "|  | method | `shapes.overall` | `shapes.score` | `shapes.overall` − `diffusion_dpo`'s | wins | wins over `diffusion_dpo` |",
        "| 4 | 🟢 `worse` <sub>capo</sub> | ▼ −0.060 <sub>−0.080 … −0.040</sub> | −0.030 <sub>−0.050 … −0.010</sub> "
        "| −0.090 <sub>−0.110 … −0.070</sub> | 47 % <sub>48 … 60</sub> | 44 % <sub>48 … 60</sub> |",
        "| method | β | lr | points | cost | s / step | seconds | rows | win_adv | lose_adv | steps to +0.05 | seconds to +0.05 |",
        "| `smpo` | 500 | 5e-05 | 2 | 1.50 | 0.346 | 61 | 2940 | −0.0032 | +0.0071 | 150 | 52 |",
        "| `worse` | – | 5e-05 | 1 | – | 0.346 | 61 | 2940 | −0.0032 | +0.0071 |  |  |",
        "| `simpo` | 500 | 5e-05 | 2 | – | 0.346 | 61 | 2940 | −0.0032 | +0.0071 | – | – |",
        "| method | `saturation` | over `diffusion_dpo`'s |",
        "| `smpo` | +2.0 % <sub>−2.0 … +6.0</sub> | −6.0 % <sub>−10.0 … −2.0</sub> |",
        "| `diffusion_dpo` | +2.0 % <sub>−2.0 … +6.0</sub> | – |",
        "| method | `jpeg_size.score` | `shapes.count` |",
        "| `simpo` | **−0.300** | +0.010 |",
        "- `kto`: all pairs were filtered out",
        "🔵 pairs · 🟠 pairs, no reference · 🟢 lists  ",
        "# at commit abc\ndiffalign compare a.yaml",
    ):
        assert f"\n{line}\n" in page, line
    assert "Of the methods 3 had 2 and 1 had 1 points (below)" in page and "same grid" not in page
    assert "above the base's, and wins over `diffusion_dpo` of those above its sample of the same prompt and seeds, a tie" in page
    assert "4 methods, 2 seeds each, on 200 held-out prompts that say 109 things" in page and "(`shapes.overall` 0.500," in page
    assert json.loads((tmp_path / "compare.json").read_text()) == RESULT
    for picture in ("methods.png", "curve.png"):
        assert f"]({picture})" in page and np.asarray(Image.open(tmp_path / picture)).std() > 5


def test_the_page_has_accuracy_and_fidelity_where_they_were_measured(tmp_path: Path) -> None:
    """A method joined from an earlier comparison has none."""
    write_page(RESULT, tmp_path / "README.md")
    assert "accuracy" not in (page := (tmp_path / "README.md").read_text()) and "Fréchet" not in page
    frechet = {"world": "tones", "base": 1.5, "floor": 0.01, "seeds": {"1": 1.0, "2": 1.25}}
    known = {**RESULT["methods"]["smpo"], "rewards/accuracies": 0.71, "frechet": frechet}
    write_page(RESULT | {"methods": {**RESULT["methods"], "smpo": known}}, tmp_path / "README.md")
    page = (tmp_path / "README.md").read_text()
    assert "| rows | accuracy | win_adv |" in page and "| 2940 | 71 % | −0.0032 |" in page and "| 2940 | – | −0.0032 |" in page
    assert "over `diffusion_dpo`'s | Fréchet distance |" in page and " | 1.12 <sub>1 … 1.25</sub> |" in page
    assert "is 1.5 for the base and 0.01 for other renders" in page


def test_the_last_line_of_curves_ends_where_they_do(tmp_path: Path) -> None:
    curve = [(f"method {index}", RESULT["methods"]["smpo"]) for index in range(COLUMNS + 1)]
    draw_curves(RESULT, curve, tmp_path / "curve.png")
    picture = np.asarray(Image.open(tmp_path / "curve.png").convert("L"))
    height, width = picture.shape
    last, line = picture[int(0.6 * height) : int(0.85 * height)], picture[int(0.1 * height) : int(0.4 * height)]
    assert (last[:, width // 3 :] == 255).all() and (last[:, : width // 6] < 255).any() and (line[:, width // 3 :] < 255).any()


def test_without_curves_or_a_rival_the_page_does_not_speak_of_them(tmp_path: Path) -> None:
    alone = RESULT | {"against": None, "methods": {"diffusion_dpo": RESULT["methods"]["diffusion_dpo"]}}
    write_page(alone, tmp_path / "README.md")
    page = (tmp_path / "README.md").read_text()
    assert (
        "All had 2 points." in page
        and not (tmp_path / "curve.png").exists()
        and "curve.png" not in page
        and "steps to" not in page
        and "▲" not in page
        and "wins over" not in page
    )
    assert "|  | method | `shapes.overall` | `shapes.score` | wins |" in page


def test_methods_of_an_earlier_comparison_join_the_table() -> None:
    methods = RESULT["methods"]
    old = RESULT | {"methods": {name: methods[name] for name in ("diffusion_dpo", "smpo", "kto")}}
    new = RESULT | {"methods": {name: methods[name] for name in ("diffusion_dpo", "worse")}, "made": [{"command": "b", "commit": "def"}]}
    joined = join(new, old)
    assert joined["methods"] == {name: methods[name] for name in ("diffusion_dpo", "smpo", "kto", "worse")}
    assert [made["commit"] for made in joined["made"]] == ["abc", "def"]
    again = join(new | {"methods": new["methods"] | {"smpo": methods["simpo"]}}, old)
    assert again["methods"]["smpo"] == methods["simpo"]  # what was compared again is the newer


def test_what_rests_on_another_ground_does_not_join() -> None:
    moved, other_base = deepcopy(RESULT), deepcopy(RESULT)
    moved["methods"]["diffusion_dpo"]["scores"][OVERALL]["change"] += 0.01
    other_base["methods"]["worse"]["scores"][OVERALL]["base"] += 0.01
    for earlier, message in (
        (RESULT | {"prompts": 400}, "has prompts 400 and this one 200"),
        (moved, "has change of diffusion_dpo"),
        (other_base, "has base "),
        ({"prompts": 200}, "no compare.json of this version"),
        (RESULT | {"ground": {**GROUND, "evaluate": {"steps": 50}}}, r"has evaluate\.steps 50 and this one 20, so one table"),
        (RESULT | {"ground": {**GROUND, "model": "other"}}, "has model 'other' and this one 'tiny'"),
    ):
        with pytest.raises(ValueError, match=message):
            join(RESULT | {"ground": GROUND}, earlier)
    assert join(RESULT | {"ground": GROUND}, RESULT)["ground"] == GROUND  # of an earlier version, which kept none: its numbers alone
    limited = {**GROUND, "evaluate": {"steps": 20, "max_unanswered": 50, "batch_size": 8}}  # by which no number is another
    assert join(RESULT | {"ground": GROUND}, RESULT | {"ground": limited})["ground"] == GROUND
    asked = [{**GROUND, "generate": {"perturbed": {"count": 2, "at_once": at_once}}} for at_once in (4, 8)]
    join(RESULT | {"ground": asked[0]}, RESULT | {"ground": asked[1]})


def test_a_page_that_is_written_anew_names_each_command_once() -> None:
    before = RESULT | {"made": [{"command": "a", "commit": "abc"}]}
    joined = join(RESULT | {"made": [{"command": "b", "commit": "def"}]}, before)
    again = join(RESULT | {"made": [{"command": "b", "commit": "def"}]}, joined)
    assert again["made"] == joined["made"] and [made["command"] for made in joined["made"]] == ["a", "b"]


def test_the_page_says_what_was_made_otherwise(tmp_path: Path) -> None:
    own = {"grid": [[1, 1], [3, 1]], "validation": {"world": "shapes", "count": 200, "file": None}, "seeds": [1, 2], "steps": 150}
    grounds = {
        "diffusion_dpo": own, "worse": own, "smpo": {**own, "grid": [[1, 1]], "validation": None},
        "simpo": {**own, "seeds": [1], "steps": 300},
    }  # fmt: skip
    methods = {name: {**each, "ground": grounds[name]} for name, each in RESULT["methods"].items() if name in grounds}
    write_page(RESULT | {"methods": methods}, tmp_path / "README.md")
    page = (tmp_path / "README.md").read_text()
    assert "- `smpo`: grid 1×1, not grid 1×1, 3×1; chosen on nothing, not chosen on world shapes, count 200\n" in page
    assert "- `simpo`: seeds 1, not seeds 1, 2; steps 300, not steps 150\n" in page and "- `worse`" not in page
    del methods["worse"]["ground"]
    write_page(RESULT | {"methods": methods}, tmp_path / "README.md")
    assert "- `worse`: not kept by its earlier comparison\n" in (tmp_path / "README.md").read_text()
    write_page(RESULT, tmp_path / "README.md")
    assert "not quite comparable" not in (tmp_path / "README.md").read_text()


def test_the_page_says_where_a_better_point_may_lie_and_what_was_not_kept(tmp_path: Path) -> None:
    def points(means: list[float | None], *settings: tuple[float | None, float]) -> list[dict[str, Any]]:
        return [{"beta": beta, "learning_rate": rate, "mean": mean} for mean, (beta, rate) in zip(means, settings, strict=True)]

    tried = [(500.0, 5e-5), (150.0, 5e-5), (500.0, 1e-4)]
    grids = {
        "diffusion_dpo": points([0.7, 0.8, 0.6], *tried), "smpo": points([0.9, 0.8, 0.7], (500.0, 5e-5), (1500.0, 5e-5), (150.0, 2.5e-5)),
        "worse": points([None, None], (None, 5e-5), (None, 1e-4)), "simpo": points([0.5], (500.0, 5e-5)),
    }  # fmt: skip
    methods = {name: {**RESULT["methods"][name], "grid": grid} for name, grid in grids.items()}
    write_page(RESULT | {"methods": methods}, tmp_path / "README.md")
    page = (tmp_path / "README.md").read_text()
    assert "| `diffusion_dpo` | 500 ↑ | 5e-05 ↓ | 3 |" in page and "| `smpo` | 500 | 5e-05 ↑ | 3 |" in page
    assert "| `simpo` | 500 | 5e-05 | 1 |" in page and "↑ and ↓ where the largest or the smallest that was tried is the best" in page
    assert "- `worse`: what each point of its grid gave was not kept\n" in page and "- `smpo`" not in page
    assert "the same training" not in page


def test_the_page_says_which_methods_are_one_here(tmp_path: Path) -> None:
    methods = RESULT["methods"] | {"flow_dpo": method("diffusion_dpo", 0.03, 0.0)}
    write_page(RESULT | {"methods": methods}, tmp_path / "README.md")
    told = "Different names, and on this data the same training, to the last digit: `diffusion_dpo` = `flow_dpo`.\n"
    assert told in (tmp_path / "README.md").read_text()


def test_drift_is_shown_where_it_is_from_the_base(tmp_path: Path) -> None:
    """A result that has not kept its reference is as the project's config of the name; any other name is of the base."""
    kept = {name: RESULT["methods"][name] for name in ("diffusion_dpo", "smpo", "worse", "simpo")}
    methods = kept | {
        "mine": {**kept["smpo"], "reference": "ema"}, "curry_dpo": {**kept["smpo"], "reference": "initial"},
        "adpo_on_policy-order=2": kept["worse"], "sft": {key: value for key, value in kept["worse"].items() if not key.endswith("_adv")},
    }  # fmt: skip
    write_page(RESULT | {"methods": methods}, tmp_path / "README.md")
    page = (tmp_path / "README.md").read_text()
    table = page.split("## Settings")[1].split("## Looks")[0].splitlines()
    shown = {line.split("`")[1]: line.split(" | ")[8:10] for line in table if line.startswith("| `")}
    known, unknown = ["−0.0032", "+0.0071"], ["–", "–"]
    assert [shown[name] for name in ("diffusion_dpo", "smpo", "worse", "simpo", "curry_dpo")] == [known] * 5
    assert [shown[name] for name in ("mine", "adpo_on_policy-order=2", "sft")] == [unknown] * 3
    assert "does not say how far a method went: – for `mine` (ema), `adpo_on_policy-order=2` (on_policy).\n" in page
    write_page(RESULT, tmp_path / "README.md")
    assert "how far a method went" not in (tmp_path / "README.md").read_text()


def test_drift_that_was_measured_after_training_is_shown_whatever_the_reference(tmp_path: Path) -> None:
    known = RESULT["methods"]["smpo"]
    moving = {**known, "reference": "on_policy", "drift_pairs": 100.0}
    assert drift_of("mine", moving) == {"win_adv": -0.0032, "lose_adv": 0.0071}
    for methods, told in (
        ({"smpo": known, "mine": moving}, "`lose_adv` of `mine` are from the base, over 100 pairs and 16 draws, the same for all; those"),
        ({"mine": moving}, "`lose_adv` are from the base, over 100 pairs and 16 draws, the same for all.\n"),
    ):
        write_page(RESULT | {"methods": methods}, tmp_path / "README.md")
        page = (tmp_path / "README.md").read_text()
        assert told in page and "how far a method went" not in page


def test_the_pictures_leave_out_drift_from_a_reference_that_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr("pipelines.compare_picture._scatter", lambda axes, title, series, places: drawn.update(series))
    methods = [("smpo", RESULT["methods"]["smpo"]), ("mine", {**RESULT["methods"]["worse"], "reference": "on_policy"})]
    draw_methods(RESULT, methods, tmp_path / "methods.png")
    assert drawn["winners"][0] == [-0.0032, None] and drawn["losers"][0] == [0.0071, None]


def test_the_committed_result_has_the_drift_of_every_method_from_the_base() -> None:
    methods = json.loads((bundled_configs() / "methods/compare.json").read_text())["methods"]
    assert [name for name, method in methods.items() if None in drift_of(name, method).values()] == []
    for moving in ("adpo_ema", "adpo_on_policy", "curry_dpo"):
        unmeasured = {key: value for key, value in methods[moving].items() if key != "drift_pairs"}
        assert set(drift_of(moving, unmeasured).values()) == {None}


def test_without_a_git_that_answers_the_version_stands_for_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = tmp_path / "git"
    git.write_text("#!/bin/sh\nexit 128\n")  # as where the checkout is of another user
    git.chmod(0o755)
    for path in (tmp_path, tmp_path / "nowhere"):
        monkeypatch.setenv("PATH", str(path))
        assert commit_of() == f"of version {__version__}"


def test_what_a_training_costs() -> None:
    new, old = {"forwards_per_step": 16.0, "backwards_per_step": 8.0}, {"groups": 9.0}
    assert cost_of([new, new]) == 32 and cost_of([new, old]) is None and cost_of([]) is None


def test_a_target_is_reached_where_the_curve_stays() -> None:
    curve = {50: 0.01, 75: 0.06, 100: 0.04, 125: 0.05, 150: 0.09}
    assert lasting(curve, 0.05) == 125 and lasting(curve, 0.01) == 50 and lasting(curve, 0.1) is None
    assert lasting(curve | {150: 0.049}, 0.05) is None and lasting({}, 0.05) is None


def test_the_page_says_whose_the_curve_is(tmp_path: Path) -> None:
    for seeds, words in (({}, "of the first seed alone"), ({"curve_seeds": 3}, "in the mean of 3 seeds")):
        methods = {name: each | (seeds if "steps" in each else {}) for name, each in RESULT["methods"].items()}
        write_page(RESULT | {"methods": methods}, tmp_path / "README.md")
        assert f"stays +0.05 above the base's or more, {words}, – where it never does" in (tmp_path / "README.md").read_text()
