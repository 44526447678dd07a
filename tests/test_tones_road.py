"""The tones world's own parts on one road: wrong captions by rule, two judges' limits, SFT before DPO, the Fréchet distance."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from obeying import obey
from tiny_timed import save_tiny_tango
from typer.testing import CliRunner

from diffalign.data.records import ASKED, STRATEGY, read_candidates, read_preferences, read_scores
from pipelines.cli import app
from reward_models.worlds import tones

pytestmark = pytest.mark.integration

GROUPS, OWN, WRONG = 6, 3, 4
# Each judge drops pairs that the other keeps.
LIMITS = {
    "tones.score": {"minimum_winner": 0.6, "minimum_loser": 0.55, "minimum_gap": 0.05, "maximum_gap": 0.35},
    "centroid.score": {"minimum_gap": -1000.0, "maximum_gap": 1000.0},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tones")
    config: dict[str, Any] = {
        "run": str(folder / "run"),
        "model": {"backbone": "tango", "source": str(save_tiny_tango(folder)), "device": "cpu"},
        "generate": {
            "prompts": {"world": "tones", "count": GROUPS}, "samples_per_prompt": OWN, "steps": 1, "long_prompts": "truncate",
            "perturbed": {"world": "tones", "count": WRONG},
        },
        "score": {"rewards": {"tones": {}, "centroid": {}}},
        "pair": {"rule": "own_vs_rest", "by": "tones.score", "thresholds": LIMITS},
        "encode": {"long_prompts": "truncate"},
        "train": {
            "objective": {"name": "diffusion_dpo", "beta": 500.0}, "steps": 3, "sft_steps": 2, "batch_size": 2, "learning_rate": 1e-9,
            "tracker": None,
        },
        "evaluate": {
            "prompts": {"world": "tones", "split": "heldout", "count": 10}, "steps": 1, "long_prompts": "truncate", "fidelity": "tones",
            "size": [16384], "allow_other_size": True,
        },
        "gallery": {},
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as monkeypatch:
        obey(monkeypatch, tones, slips=True)  # what weights of chance make holds nothing; evaluation is theirs
        result = CliRunner().invoke(app, ["run", str(path)])
    assert result.exit_code == 0, (result.output, result.exception)
    return folder / "run"


def test_the_samples_of_wrong_captions_are_wrong_by_rule(run: Path) -> None:
    """A render of what was asked of the model is true to that, and never to the group's own caption."""
    made = list(read_candidates(run / "candidates"))
    wrong = [each for each in made if STRATEGY in each.tags]
    assert len(made) == len(wrong) + GROUPS * OWN and len(wrong) > 3 * GROUPS
    for place, each in enumerate(wrong):
        asked = each.tags[ASKED]
        assert tones.parse(asked) in tones.perturb(each.prompt)[each.tags[STRATEGY]]
        rendered = tones.render(asked, place)
        assert (tones.verify(asked, rendered)["overall"], tones.verify(each.prompt, rendered)["overall"]) == (1.0, 0.0)


def test_pairs_are_those_within_both_judges_limits_and_say_what_was_wrong(run: Path) -> None:
    made = {each.candidate_id: each for each in read_candidates(run / "candidates")}
    scores, allowed = read_scores(run / "scores"), {judge: {} for judge in LIMITS}  # judge → pair → what was wrong
    for group in sorted({each.group_id for each in made.values()}):
        members = sorted((name for name in made if made[name].group_id == group), key=lambda name: (-scores["tones.score"][name], name))
        best = next(name for name in members if STRATEGY not in made[name].tags)
        for other in members:
            if scores["tones.score"][best] > scores["tones.score"][other]:
                for judge, limits in LIMITS.items():
                    if is_within(limits, scores[judge][best], scores[judge][other]):
                        allowed[judge][best, other] = made[other].tags.get(STRATEGY)
    kept = {each.samples: each.context for each in read_preferences(run / "preferences")}
    one, other = allowed.values()
    assert kept == {pair: wrong for pair, wrong in one.items() if pair in other}
    assert len(kept) >= 4 and all(set(mine) - set(kept) for mine in (one, other))
    assert {wrong for wrong in kept.values() if wrong} <= set(tones.STRATEGIES) and len(set(kept.values())) > 2


def is_within(limits: dict[str, float], winner: float, loser: float) -> bool:
    low, high = limits["minimum_gap"], limits["maximum_gap"]
    return winner >= limits.get("minimum_winner", winner) and loser >= limits.get("minimum_loser", loser) and low <= winner - loser <= high


def test_dpo_begins_at_ln_2_after_the_steps_of_sft(run: Path) -> None:
    steps = [json.loads(line) for line in (run / "train/metrics.jsonl").read_text().splitlines()]
    assert [step["loss"] == pytest.approx(math.log(2), abs=1e-4) for step in steps] == [False, False, True]
    assert "rewards/margins" not in steps[1] and steps[2]["rewards/margins"] == pytest.approx(0, abs=1e-3)


def test_the_report_has_the_distance_from_renders_and_the_gallery_plays(run: Path) -> None:
    found = json.loads((run / "evaluation/report.json").read_text())["fidelity"]
    assert found["world"] == "tones" and found["samples"] == 10 and 0 < found["floor"] < found["base"]
    assert found["models"]["aligned"]["aligned"] == pytest.approx(found["base"], rel=0.05)  # so small a rate changes little
    assert (run / "gallery/index.html").is_file() and len(
        list((run / "gallery").rglob("*.flac")) + list((run / "gallery").rglob("*.wav"))
    ) > 0
