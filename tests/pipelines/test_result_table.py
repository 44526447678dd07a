from __future__ import annotations

import json
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_road import make_config

import pipelines.cli
from pipelines.result_table import _formatter, result_table
from pipelines.stage import open_stage

# base, change, low, high, share of wins, role: the widest that scores of 0 to 1, and a guard of some hundreds, become.
SCORES = {
    "sharpness.score": (904.02, -12.5, -112.5, 87.5, 0.48, "guard"),
    "pick_score.score": (0.2134, -0.0002, -0.0003, -0.0001, 0.5, "held out"),
    "shapes.two_objects": (0.5, 0.08, 0.05, 0.11, 0.625, "same reward"),
    "shapes.overall": (0.574, 0.00021, -0.0004, 0.0008, 1.0, "trained"),
}
ROWS = {
    "shapes.overall *": "0.57400 0.57421 +0.00021 [−0.00040, +0.00080] 100 %",
    "shapes.two_objects": "0.500 0.580 +0.080 [+0.050, +0.110] 62 %",
    "pick_score.score": "0.21340 0.21320 −0.00020 [−0.00030, −0.00010] 50 %",
    "sharpness.score": "904 892 −12 [−112, +88] 48 %",
}

CAPTION = "* trained on it; intervals over 120 clusters of prompts that mean the same"


def report_of(*models: str, **renamed: str) -> dict[str, Any]:
    scores = {
        renamed.get(name.partition(".")[0], name): row_of(*numbers[:4]) | {"win_rate": numbers[4], "role": numbers[5]}
        for name, numbers in SCORES.items()
    }
    return {
        "base": "base",
        "prompts": 250,
        "clusters": 120,
        "trained_on": ["shapes.overall"],
        "models": {name: {"scores": scores} for name in models},
    }


def lines_of(report: dict[str, Any], width: int = 80) -> list[str]:
    console = Console(width=width, file=StringIO(), record=True)
    console.print(result_table(report))
    return console.export_text().splitlines()


def rows_of(lines: list[str]) -> list[str]:
    """Lines with one space between the words, without rules."""
    return [" ".join(line.split()) for line in lines if "─" not in line]


def test_one_model_is_whole_at_80_columns() -> None:
    lines = lines_of(report_of("aligned"))
    assert max(map(len, lines)) <= 80
    assert rows_of(lines) == [
        "aligned against base: 250 prompts, same seeds",
        "score base aligned change 95 % interval wins",
        *(f"{name} {numbers}" for name, numbers in ROWS.items()),
        CAPTION,
    ]


def test_two_models_are_whole_at_80_columns() -> None:
    lines = lines_of(report_of("aligned", "dpo_beta5000_lora16"))
    assert max(map(len, lines)) <= 80
    expected = ["250 prompts, same seeds", "score base aligned change 95 % interval wins"]
    for name, numbers in ROWS.items():
        expected += [name, f"aligned {numbers}", f"dpo_beta5000_lora16 {numbers}"]
    assert rows_of(lines) == [*expected, CAPTION]


def test_a_name_that_is_too_long_goes_on_below_and_loses_nothing() -> None:
    name = "pick_score_of_a_very_large_model.score"
    lines = lines_of(report_of("aligned", pick_score=name))
    assert max(map(len, lines)) <= 80
    at = next(place for place, line in enumerate(lines) if line.startswith("pick_score"))
    assert lines[at].split()[0] + lines[at + 1].split()[0] == name
    assert " ".join(lines[at].split()[1:]) == ROWS["pick_score.score"]


@pytest.mark.parametrize("terminal", [True, False])
def test_neither_a_narrow_terminal_nor_a_pipe_loses_a_digit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    config = make_config(
        tmp_path, Path("nobody/nothing"), train={"steps": 1, "objective": "ipo"}, evaluate={"prompts": {"texts": ["a red circle"]}}
    )
    with open_stage(config, "evaluate", settings={}) as stage:
        (stage.path / "report.json").write_text(json.dumps(report_of("aligned")))
    output = StringIO()
    monkeypatch.setattr(pipelines.cli, "Console", partial(Console, file=output, width=40, force_terminal=terminal, color_system=None))
    pipelines.cli._show_result(config)
    rows = rows_of(output.getvalue().splitlines())
    for name, numbers in ROWS.items():
        at = next(place for place, row in enumerate(rows) if row.endswith(f" {numbers}"))
        first = rows[at].removesuffix(f" {numbers}")
        assert first == name or (terminal and first + rows[at + 1] == name)


def row_of(base: float, change: float, low: float, high: float) -> dict[str, Any]:
    return {"base": base, "aligned": base + change, "change": change, "low": low, "high": high}


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        (row_of(0.5, 0.08, 0.05, 0.11), ["0.500", "+0.080"]),
        (row_of(0.49, -0.0002, -0.0003, 0.0001), ["0.49000", "−0.00020"]),
        (row_of(7904.0, 0.4, -0.4, 4.0), ["7904.0", "+0.4"]),
        (row_of(450.0, 0.0, 0.0, 0.0), ["450", "+0"]),
        (row_of(0.0, 0.0, 0.0, 0.0), ["0", "+0"]),
        (row_of(20.0, 1e-9, -1e-9, 2e-9), ["20.000", "+0.000"]),
    ],
)
def test_numbers_show_the_digits_that_matter(row: dict[str, float], shown: list[str]) -> None:
    show = _formatter(row)
    assert [show(row["base"]), show(row["change"], sign=True)] == shown
