"""The page as a person meets it: opened from disk in a headless Chromium, with no network and no server.

Every test fails on a console error, an uncaught exception, a dialog, or a request for anything but a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffalign.gallery import Column, Comparison, Curve, PairRow, Row, Sample, SummaryLine
from diffalign.gallery.demo import DEMO_ROLES, TRAINED_ON, demo_pairs, demo_rows, write_demo
from diffalign.gallery.write import write_gallery

pytestmark = pytest.mark.browser

ROWS = 60
HOSTILE = '</script><img src=x onerror="window.broken=1"><script>window.broken=1</script> \u2028 <b>bold</b> javascript:alert(1)'


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_demo(tmp_path_factory.mktemp("demo") / "gallery", ROWS).as_uri()


@dataclass(frozen=True)
class Plain:
    value: int = 0
    size: int = 4

    def pixels(self) -> np.ndarray:
        return np.full((self.size, self.size, 3), self.value, np.uint8)


def visit(page: Any, address: str) -> None:
    """Open anew: going from one #address of a page to another would not load it again."""
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector("main section:not([hidden]) > *")


def shown_rows(page: Any) -> list[int]:
    """Numbers of the rows on the page, in order."""
    return [int(n) for n in page.eval_on_selector_all(".item[data-column='0']", "items => items.map(item => item.dataset.row)")]


def gain(row: Row, column: int, score: str = TRAINED_ON) -> float:
    base, aligned = row.samples[0], row.samples[column]
    assert base is not None
    assert aligned is not None
    return aligned.scores[score] - base.scores[score]


def test_it_opens_from_disk_with_summary_settings_and_tabs(page: Any, demo: str) -> None:
    visit(page, demo)
    assert page.title() == "Invented shapes: base, DPO and KTO"
    assert page.locator("#tabs a").all_inner_texts() == ["Compare 60", "Pairs 60", "Training 7"]
    assert page.locator("#settings div").all_inner_texts()[1] == "steps\n20"
    assert page.locator(".summary .badge").all_inner_texts() == ["trained", "same reward", "held out", "guard"]
    assert page.locator(".summary tbody tr").count() == 8
    assert page.locator(".rows-head .column-name").all_inner_texts() == ["base", "dpo", "kto"]
    assert shown_rows(page) == list(range(24))
    first = next(demo_rows(1))
    assert page.locator(".item img").first.get_attribute("alt") == first.prompt
    assert page.locator(".item").nth(1).get_attribute("aria-label") == f"dpo: {first.prompt}"


def test_what_a_prompt_came_with_is_small_beside_it(page: Any, tmp_path: Path) -> None:
    both = (Sample(Plain(1), {"a.b": 1.0}), Sample(Plain(2), {"a.b": 2.0}))
    rows = [Row("edited", 0, both, condition=Plain(200, 400)), Row("made", 1, both)]
    comparison = Comparison([Column("base"), Column("dpo")], rows)
    address = write_gallery(tmp_path / "gallery", comparison, [PairRow("p", *both, 0.5, condition=Plain(9, 400))], title="t").as_uri()
    for tab, prompts in (("", ["edited"]), ("#pairs", ["p"])):
        visit(page, address + tab)
        shown = page.locator("section:not([hidden]) .row:has(.condition)")
        assert shown.locator(".prompt-text").all_inner_texts() == prompts
        box = shown.locator(".prompt .condition img").bounding_box()
        assert (box["width"], box["height"]) == (96, 96)


def test_sorting_by_the_change_of_a_score_in_a_column(page: Any, demo: str) -> None:
    rows = list(demo_rows(ROWS))
    visit(page, demo)
    page.get_by_label("Judged by").select_option("sharpness.score")
    page.get_by_label("Model", exact=True).select_option("kto")
    for order, sign in (("gain", -1), ("loss", 1)):
        page.get_by_label("Order").select_option(order)
        expected = sorted(range(ROWS), key=lambda n: (sign * round(gain(rows[n], 2, "sharpness.score"), 6), n))
        assert shown_rows(page) == expected[:24]
    page.get_by_label("Order").select_option("data")
    assert shown_rows(page) == list(range(24))


@pytest.mark.parametrize("tab", ["compare", "pairs"])
def test_sorting_by_prompt_and_by_task(page: Any, demo: str, tab: str) -> None:
    rows = list(demo_rows(ROWS)) if tab == "compare" else list(demo_pairs(ROWS))
    visit(page, f"{demo}#{tab}")
    order = page.locator(f"#page-{tab}").get_by_label("Order")
    order.select_option(label="Prompt, A to Z")
    assert shown_rows(page) == sorted(range(ROWS), key=lambda n: (rows[n].prompt, n))[:24]
    order.select_option(label="Task, A to Z")
    assert page.url.endswith("order=tag.task")
    expected = sorted(range(ROWS), key=lambda n: (rows[n].tags["task"], n))
    assert shown_rows(page) == expected[:24] != list(range(24))
    visit(page, page.url)
    assert shown_rows(page) == expected[:24]


def test_rows_without_a_model_beside_the_base_are_sorted_too(page: Any, tmp_path: Path) -> None:
    prompts = [("b", {"task": "two"}), ("c", {}), ("a", {"task": "one"}), ("B", {"task": "two"})]
    rows = [Row(prompt, 0, (Sample(Plain(), {"s.a": 1.0}),), tags) for prompt, tags in prompts]
    visit(page, write_gallery(tmp_path / "gallery", Comparison([Column("base")], rows), title="x").as_uri())
    for order, expected in (("prompt", [2, 0, 3, 1]), ("tag.task", [2, 0, 3, 1]), ("data", [0, 1, 2, 3])):
        page.get_by_label("Order").select_option(order)
        assert shown_rows(page) == expected


def test_sorting_by_disagreement_of_the_scores(page: Any, demo: str) -> None:
    rows = list(demo_rows(ROWS))
    visit(page, demo + "#compare?order=disagreement")
    changes = np.array([[gain(row, 1, score) for score in DEMO_ROLES] for row in rows])
    units = changes / changes.std(axis=0)
    disagreement = np.minimum(units.max(axis=1).clip(0), -units.min(axis=1).clip(None, 0))
    assert disagreement[shown_rows(page)] == pytest.approx(np.sort(disagreement)[::-1][:24], abs=1e-3)


def test_filtering_by_words_tag_and_outcome(page: Any, demo: str) -> None:
    rows = list(demo_rows(ROWS))
    visit(page, demo)
    page.get_by_label("Prompt contains").fill("CIRCLE  red")
    expected = [n for n, row in enumerate(rows) if "circle" in row.prompt and "red" in row.prompt]
    page.wait_for_function("n => document.querySelector('.count').textContent.startsWith(n + ' of')", arg=len(expected))
    assert shown_rows(page) == expected[:24]

    page.get_by_role("button", name="Clear filters").click()
    page.get_by_label("task", exact=True).select_option("two")
    better = [n for n, row in enumerate(rows) if row.tags["task"] == "two" and gain(row, 1) > 0]
    assert page.locator(".chip", has_text="Better").inner_text() == f"▲ Better {len(better)}"
    page.locator(".chip", has_text="Better").click()
    assert shown_rows(page) == better[:24]
    assert page.locator(".count").inner_text() == f"{len(better)} of 60 rows"

    page.get_by_label("Prompt contains").fill("there is no such prompt")
    page.get_by_text("No row fits these filters.").wait_for()
    page.get_by_role("button", name="Clear filters").click()
    assert shown_rows(page) == list(range(24))


def test_the_address_holds_the_view_and_what_it_does_not_know_is_ignored(page: Any, demo: str) -> None:
    visit(page, demo)
    page.get_by_label("Order").select_option("gain")
    page.get_by_role("button", name="Next →").first.click()
    page.get_by_role("button", name="View").click()
    page.locator(".checks .chip", has_text="sharpness.score").click()  # what is shown of the rows turns no page
    address = page.url
    assert address.endswith("#compare?show=shapes.overall&show=sharpness.score&page=2&order=gain")
    before = shown_rows(page)
    visit(page, address)
    assert shown_rows(page) == before
    assert page.locator(".cell").nth(4).locator("dt").all_inner_texts() == ["shapes.overall", "sharpness.score"]

    page.locator(".skip").focus()
    page.keyboard.press("Enter")  # to the content, and not to another view
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.url == address
    page.locator("#tabs a", has_text="Training").click()
    page.wait_for_selector(".chart")
    page.go_back()
    page.wait_for_selector("#page-compare:not([hidden])")
    assert shown_rows(page) == before
    visit(page, demo + "#compare?order=constructor&page=99&per=7&score=%00&column=__proto__&row=999999&q=%E0%A4%A&tag.task=x&size=</b>")
    assert shown_rows(page) == list(range(48, 60))


def test_differences_have_a_sign_and_an_arrow(page: Any, demo: str) -> None:
    visit(page, demo)
    texts = page.eval_on_selector_all(".rows-body .cell", "cells => cells.map(cell => cell.querySelector('dd').innerText)")
    for number, row in enumerate(demo_rows(24)):
        for column in (0, 1, 2):
            text = texts[3 * number + column]
            change = round(gain(row, column), 2)
            if column == 0:
                assert "▲" not in text and "▼" not in text and "=" not in text
            elif change:
                assert ("▲" if change > 0 else "▼") in text
                assert f"{'+' if change > 0 else '−'}{abs(change):.2f}" in text
            else:
                assert "=" in text
    visit(page, demo + "#compare?show=sharpness.score")  # a guard: its arrow says where it went, and no colour that this is good or bad
    changes = page.locator(".rows-body .change")
    assert set(changes.evaluate_all("nodes => nodes.map(node => node.className)")) == {"change same"}
    assert {text[0] for text in changes.all_inner_texts()} >= {"▲", "▼"}


def write_many_scores(folder: Path) -> str:
    """Two models, the eleven scores of a run on the shapes world, in the order in which their folders are read."""
    dimensions = ("objects", "count", "colour", "shape", "position", "fidelity", "overall", "score")
    roles = {"contrast.score": "guard", "saturation.score": "guard"} | {f"shapes.{name}": "same reward" for name in dimensions}
    roles |= {"shapes.score": "trained", "sharpness.score": "guard"}
    rows = [
        Row("a picture of a yellow ring left of a green square", seed, tuple(Sample(Plain(value), dict.fromkeys(roles, value / 9))
            for value in (3, 7)), {"split": "heldout", "task": "position"}) for seed in range(30)
    ]  # fmt: skip
    summary = [SummaryLine(score, 0.33, 0.77, 0.44, 0.4, 0.48, "aligned", 1.0) for score in roles]
    settings = {"steps": "20", "guidance": "3.0", "scheduler": "the model's own", "size": "64 × 64", "seed": "0"}
    comparison = Comparison((Column("base", "bundled:shapes"), Column("aligned")), rows, settings, summary)
    pairs = [PairRow(row.prompt, row.samples[1], row.samples[0], 0.4, (), row.tags) for row in rows if row.samples[0] and row.samples[1]]
    return write_gallery(folder, comparison, pairs, title="bundled:shapes: diffusion_dpo", roles=roles).as_uri()


def names_in_summary(page: Any) -> list[str]:
    return page.locator(".summary .score-name:visible").all_inner_texts()


def names_under_a_picture(page: Any) -> list[str]:
    return page.locator(".rows-body:visible .cell").first.locator("dt").all_inner_texts()


@pytest.mark.parametrize(("tab", "lowest"), [("compare", 800 - 240), ("pairs", 620)])
def test_pictures_begin_above_the_fold_and_the_other_scores_are_a_click_away(page: Any, tmp_path: Path, tab: str, lowest: int) -> None:
    address = write_many_scores(tmp_path / "gallery")
    page.set_viewport_size({"width": 1280, "height": 800})
    visit(page, f"{address}#{tab}")
    assert page.locator(".item:visible").first.bounding_box()["y"] <= lowest  # on Compare the whole first row is on the screen
    assert names_under_a_picture(page) == ["shapes.score", "shapes.overall"]
    assert page.get_by_label("Split").count() == page.get_by_label("Task").count() == 0  # all rows are alike in them
    page.locator(".list-top:visible").get_by_role("button", name="All 11 scores").click()
    assert len(names_under_a_picture(page)) == 11 and names_under_a_picture(page)[0] == "shapes.score"
    assert page.url.endswith(f"#{tab}?show=all")
    visit(page, page.url)
    assert len(names_under_a_picture(page)) == 11
    page.locator(".list-top:visible").get_by_role("button", name="Main scores").click()
    assert names_under_a_picture(page) == ["shapes.score", "shapes.overall"] and page.url.endswith(f"#{tab}")


def test_the_summary_shows_what_was_trained_on_and_unfolds(page: Any, tmp_path: Path) -> None:
    address = write_many_scores(tmp_path / "gallery")
    visit(page, address)
    assert names_in_summary(page) == ["shapes.score", "shapes.overall"]
    assert page.locator(".summary .badge:visible").all_inner_texts() == ["trained", "same reward"]
    page.get_by_role("button", name="Next →").first.click()
    page.locator(".summary").get_by_role("button", name="All 11 scores").click()
    assert page.url.endswith("#compare?page=2&summary=all") and shown_rows(page) == list(range(24, 30))
    visit(page, page.url)
    expected = [f"shapes.{name}" for name in ("score", "objects", "count", "colour", "shape", "position", "fidelity", "overall")]
    assert names_in_summary(page) == [*expected, "contrast.score", "saturation.score", "sharpness.score"]
    assert page.locator(".summary .badge:visible").all_inner_texts() == ["trained", *["same reward"] * 7, *["guard"] * 3]
    tones = page.eval_on_selector_all(".summary .change", "nodes => nodes.map(node => node.className)")
    assert tones == ["change up"] * 8 + ["change same"] * 3  # more of a guard is not better
    page.locator(".summary").get_by_role("button", name="Main scores").click()
    assert names_in_summary(page) == ["shapes.score", "shapes.overall"]


def test_which_scores_are_shown_first(page: Any, demo: str) -> None:
    visit(page, demo)

    def main(**roles: str | None) -> list[str]:
        names = [name.replace("_", ".") for name in roles]
        return page.evaluate("table => gallery.roles.main(table)", {"scores": names, "roles": list(roles.values())})

    assert main(a="guard", b="held out", c="trained") == ["c", "b", "a"]  # few: all of them
    assert main(a="guard", b="held out", c="trained", d="trained") == ["c", "d"]
    assert main(a_x="trained", a_overall="same reward", b_overall="held out", c="guard") == ["a.x", "a.overall"]
    every = dict.fromkeys(("s_a", "s_b", "s_c", "s_overall", "s_score"), "trained")  # trained on a reward, not on one dimension
    assert main(**every) == ["s.a", "s.overall", "s.score"]
    assert main(a="guard", b="held out", c="held out", d="guard") == ["b", "c"]  # nothing was trained on
    assert main(a=None, b=None, c=None, d=None) == ["a", "b", "c"]
    assert main(a="guard", b="guard", c="guard", d="guard") == ["a", "b", "c"]


def test_a_telephone_folds_the_filters(page: Any, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    visit(page, write_many_scores(tmp_path / "gallery"))
    order = page.get_by_label("Order")
    assert not order.is_visible()
    assert page.locator(".item").first.bounding_box()["y"] + 100 < 844
    page.get_by_text("Filter and sort").click()
    order.select_option("gain")
    assert page.url.endswith("#compare?order=gain")


def test_the_lightbox_answers_its_keys_and_gives_the_focus_back(page: Any, demo: str) -> None:
    rows = list(demo_rows(ROWS))
    visit(page, demo)
    page.locator(".item[data-row='1'][data-column='2']").click()
    prompt = page.locator(".lightbox-prompt")
    panes = page.locator(".pane:visible")
    assert panes.count() == 3
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert prompt.inner_text() == rows[3].prompt
    page.keyboard.press("ArrowLeft")
    assert prompt.inner_text() == rows[2].prompt
    assert page.url.endswith("?row=2")

    page.keyboard.press("2")
    assert panes.locator(".column-name").all_inner_texts() == ["dpo"]
    own, under, name = (page.locator(f".pane:visible .{part}") for part in ("own", "under", "while-base"))
    page.keyboard.down(" ")
    assert under.is_visible() and name.is_visible() and name.inner_text() == "base"
    assert own.evaluate("node => getComputedStyle(node).visibility") == "hidden"
    page.keyboard.up(" ")
    assert own.evaluate("node => getComputedStyle(node).visibility") == "visible"
    assert not under.is_visible()
    page.keyboard.press("9")  # no such column
    page.keyboard.press("2")  # once more: all again
    assert panes.count() == 3

    for _ in range(14):  # more than the lightbox has controls
        page.keyboard.press("Tab")
        assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)")
    for _ in range(14):  # more than the lightbox has controls
        page.keyboard.press("Shift+Tab")
        assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    assert page.evaluate("document.activeElement.dataset.row + ' ' + document.activeElement.dataset.column") == "2 2"
    assert "row=" not in page.url


def test_the_lightbox_walks_past_the_page_and_the_list_follows(page: Any, demo: str) -> None:
    visit(page, demo + "#compare?per=12")
    page.locator(".item[data-row='11'][data-column='0']").click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    assert shown_rows(page) == list(range(12, 24))
    assert page.evaluate("document.activeElement.dataset.row") == "12"
    visit(page, demo + "#compare?order=gain&row=40")
    assert page.locator(".lightbox-prompt").inner_text() == list(demo_rows(ROWS))[40].prompt


def test_the_slider_moves_by_keyboard_and_by_drag(page: Any, demo: str) -> None:
    visit(page, demo + "#compare?row=5")
    page.keyboard.press("s")
    right = page.locator(".layer.right")
    slider = page.get_by_label("Divider, percent from the left")
    assert right.evaluate("node => getComputedStyle(node).clipPath") == "inset(0px 0px 0px 50%)"
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert right.evaluate("node => getComputedStyle(node).clipPath") == "inset(0px 0px 0px 60%)"
    assert page.url.endswith("row=5")  # the arrows were the slider's

    box = page.locator(".slide .view").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 60, steps=4)
    page.mouse.up()
    assert float(slider.input_value()) == pytest.approx(25, abs=1)
    page.keyboard.press("ArrowRight")  # after a drag the keys turn rows again
    assert page.url.endswith("row=6")
    page.keyboard.press("2")
    assert page.get_by_label("Right of the slider").input_value() == "1"
    page.keyboard.press("s")
    assert page.locator(".pane:visible").count() == 3


def test_zoom_and_pan_are_the_same_in_every_column(page: Any, demo: str) -> None:
    visit(page, demo + "#compare?row=5")
    page.wait_for_selector(".pane:visible .own img")

    def transforms() -> list[str]:
        return page.eval_on_selector_all(".pane:not([hidden]) .own > *", "nodes => nodes.map(node => getComputedStyle(node).transform)")

    box = page.locator(".pane:visible .view").nth(1).bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.5)
    page.mouse.wheel(0, -240)
    page.wait_for_function("() => document.querySelector('.stage').classList.contains('zoomed')")
    assert len(set(transforms())) == 1
    scale, shift = (float(part) for part in (transforms()[0][7:].split(",")[0], transforms()[0].split(",")[4]))
    assert scale == pytest.approx(math.exp(240 / 300), rel=1e-3)
    assert shift == pytest.approx(-0.25 * box["width"] * (scale - 1), rel=0.02)  # what is under the pointer stays there
    before = transforms()[0]
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.6, steps=3)
    page.mouse.up()
    assert len(set(transforms())) == 1
    assert transforms()[0] != before
    page.keyboard.press("0")
    assert set(transforms()) == {"matrix(1, 0, 0, 1, 0, 0)"}


def test_hostile_text_is_shown_and_never_run(page: Any, tmp_path: Path) -> None:
    samples = (Sample(Plain(), {HOSTILE: 1.0}, HOSTILE), Sample(Plain(9), {HOSTILE: 2.0}, HOSTILE))
    rows = [Row(HOSTILE, 2**63, samples, {HOSTILE: HOSTILE}), Row("__proto__", 1, samples, {"__proto__": "constructor"})]
    comparison = Comparison((Column("base", HOSTILE), Column(HOSTILE)), rows, {HOSTILE: HOSTILE})
    pairs = [PairRow(HOSTILE, *samples, 1.0, (HOSTILE,), {HOSTILE: HOSTILE})]
    curves = [Curve(HOSTILE, [(0, 1.0), (1, 2.0)], HOSTILE)]
    address = write_gallery(tmp_path / "gallery", comparison, pairs, curves, title=HOSTILE, roles={HOSTILE: "trained"}).as_uri()
    for tab in ("compare", "compare?row=0", "pairs", "pairs?row=0", "training", f"compare?q={HOSTILE}&{HOSTILE}={HOSTILE}", HOSTILE):
        visit(page, f"{address}#{tab}")
        page.wait_for_timeout(50)
        assert page.evaluate("window.broken") is None
        assert page.locator("img[src=x], b:not(.legend b), main script").count() == 0
        assert HOSTILE.split(" \u2028")[0] in page.locator("h1").text_content()
    visit(page, address)
    assert page.locator(".prompt-text").first.text_content() == HOSTILE
    assert page.locator(".seed").first.inner_text() == f"seed {2**63}"
    assert page.locator(".item img").first.get_attribute("alt") == HOSTILE


def test_ten_thousand_samples_open_without_loading_them(page: Any, tmp_path: Path) -> None:
    picture = Plain(100, 2)

    def rows() -> Iterator[Row]:
        for index in range(5000):
            scores = [{"a.b": float((index * 7919) % 5000)}, {"a.b": 2500.0}]
            yield Row(f"prompt number {index}", index, tuple(Sample(picture, score) for score in scores))

    address = write_gallery(tmp_path / "gallery", Comparison((Column("base"), Column("dpo")), rows()), title="many").as_uri()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    visit(page, address)
    page.wait_for_selector(".item img")
    assert [url for url in asked if "/data/compare/" in url] == [address.replace("index.html", "data/compare/0000.js")]
    images = page.eval_on_selector_all("img", "images => images.map(image => image.loading + ' ' + image.decoding)")
    assert images == ["lazy async"] * 48
    assert len([url for url in asked if url.endswith(".webp")]) <= 48
    page.get_by_label("Order").select_option("gain")
    assert shown_rows(page)[0] == 0  # base 0, aligned 2500: the largest gain
    assert len(shown_rows(page)) == 24
    page.get_by_label("Prompt contains").fill("4999")
    page.wait_for_function("() => document.querySelectorAll('.item').length === 2")
    assert page.locator(".place").first.is_hidden()


def test_missing_samples_and_scores_are_said(page: Any, tmp_path: Path) -> None:
    row = Row("p", 0, (Sample(Plain(), {"a": float("nan"), "b": 1.0}), None, Sample(Plain(), {"a": 1.0})))
    comparison = Comparison((Column("base"), Column("x"), Column("y")), [row])
    visit(page, write_gallery(tmp_path / "gallery", comparison, title="t").as_uri())
    page.wait_for_selector(".item img")
    cells = page.locator(".rows-body .cell")
    assert cells.nth(0).locator("dd").all_inner_texts() == ["–", "1.00"]
    assert cells.nth(1).inner_text() == "no sample"
    assert cells.nth(2).locator("dd").all_inner_texts() == ["1.00", "–"]
    cells.nth(1).locator("button").click()
    assert page.locator(".pane").nth(1).locator(".own").inner_text() == "no sample"


def test_pairs_sort_filter_and_histogram(page: Any, demo: str) -> None:
    pairs = list(demo_pairs(ROWS))
    gaps = [round(pair.gap, 9) for pair in pairs]
    visit(page, demo + "#pairs")
    assert page.locator("#page-pairs .rows-head .column-name").all_inner_texts() == ["chosen", "rejected"]
    page.locator("#page-pairs").get_by_label("Order").select_option("large")
    assert shown_rows(page)[:24] == sorted(range(ROWS), key=lambda n: (-gaps[n], n))[:24]
    page.locator("#page-pairs").get_by_label("Flag").select_option("is.tie")
    assert sorted(shown_rows(page)) == [n for n, pair in enumerate(pairs) if "tie" in pair.flags]
    assert page.locator(".rows-body .flag").first.inner_text() == "⚑ tie"
    page.locator("#page-pairs").get_by_label("Flag").select_option("")
    bars = page.locator(".bin:not([disabled])")
    label = bars.last.get_attribute("aria-label")
    bars.last.click()
    assert len(shown_rows(page)) == int(label.split(": ")[1].split(" of ")[0])
    low = float(label.split(" to ")[0])
    assert all(gaps[n] >= low for n in shown_rows(page))
    bars.last.click()
    assert page.locator(".count:visible").inner_text() == "60 pairs"


def test_training_charts_read_values_smooth_and_scale(page: Any, tmp_path: Path) -> None:
    curves = [
        Curve("a", [(0, 1.0), (10, 0.5), (20, 0.25)], "loss"),
        Curve("b", [(0, 2.0), (10, float("nan")), (20, -1.0)], "loss"),
        Curve("c", [(0, 3.0), (20, 4.0)], "accuracy"),
    ]
    visit(page, write_gallery(tmp_path / "gallery", None, curves=curves, title="t").as_uri())
    assert page.locator(".chart h2").all_inner_texts() == ["loss", "accuracy"]
    plot = page.locator(".plot-area").first
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.52, box["y"] + 100)
    tips = page.locator(".tip")
    assert tips.nth(0).inner_text().split("\n") == ["step 10", "a", "0.5", "b", "–"]
    assert tips.nth(1).inner_text().split("\n") == ["step 10", "c", "3"]
    page.mouse.move(0, 0)
    assert not tips.nth(0).is_visible()
    plot.focus()
    page.keyboard.press("ArrowLeft")
    assert tips.nth(0).inner_text().startswith("step 20")
    straight = page.locator("path.line").first.get_attribute("d")
    page.get_by_label("Smooth").check()
    assert page.locator("path.raw").count() == 3
    assert page.locator("path.line:not(.raw)").first.get_attribute("d") != straight
    page.get_by_label("Log scale").check()
    assert page.get_by_text("left out").first.is_visible()
    assert page.url.endswith("#training?smooth=1&log=1")


@pytest.mark.parametrize("width", [390, 768, 1600])
def test_no_width_scrolls_sideways_and_nothing_moves_while_it_loads(page: Any, demo: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    page.add_init_script(
        "window.shift = 0; new PerformanceObserver(list => list.getEntries().forEach(entry => { window.shift += entry.value; }))"
        ".observe({type: 'layout-shift', buffered: true});"
    )
    for tab in ("compare", "pairs", "training", "compare?row=3"):
        visit(page, f"{demo}#{tab}")
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("window.shift") < 0.02, tab


def test_the_page_needs_its_data_and_says_so(page: Any, tmp_path: Path) -> None:
    folder = write_demo(tmp_path / "gallery", 4).parent
    (folder / "data/compare.js").write_text("galleryData('compare', null);", "ascii")
    visit(page, (folder / "index.html").as_uri())
    page.get_by_text("data/compare.js did not load").wait_for()
    page.goto(write_gallery(tmp_path / "empty", None, title="t").as_uri())
    page.get_by_text("This gallery is empty").wait_for()
