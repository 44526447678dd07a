"""Wrong captions by each world's rules, made by a model that does as it is told: which pairs are left, what they say; they train."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from obeying import obey
from tiny_timed import save_tiny_tango, save_tiny_wan
from typer.testing import CliRunner

from diffalign.data.records import ASKED, STRATEGY, read_candidates, read_preferences
from pipelines.cli import app
from pipelines.strategies import Perturbed
from reward_models import load_reward
from reward_models.worlds import load_world

pytestmark = pytest.mark.integration

GROUPS, OWN, WRONG = 8, 2, 3
NOTHING = "nothing"  # an edit that changes nothing, as a language model may write one
ROADS: dict[str, tuple[str, tuple[str, ...], str]] = {  # world → backbone, strategies (none: all), a guard as the second judge
    "shapes": ("stable_diffusion", ("colour", "count", "side"), "contrast"),
    "motion": ("wan", ("motion", "order"), "flicker"),
    "tones": ("tango", (), "loudness"),
}


def add_an_edit_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Perturbed.wrong

    def and_nothing(self: Perturbed, prompt: str, *arguments: Any) -> list[tuple[str, str]]:
        return [*wrong(self, prompt, *arguments), (NOTHING, prompt)]

    monkeypatch.setattr(Perturbed, "wrong", and_nothing)


@pytest.mark.parametrize("name", ROADS)
def test_every_loser_fails_its_caption_and_an_edit_of_nothing_makes_no_pair(
    name: str, tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, strategies, guard = ROADS[name]
    source = {"shapes": lambda folder: tiny_pipeline, "motion": save_tiny_wan, "tones": save_tiny_tango}[name](tmp_path)
    world, run = load_world(name), tmp_path / "run"
    obey(monkeypatch, world)
    add_an_edit_of_nothing(monkeypatch)
    config = {
        "run": str(run),
        "model": {"backbone": backbone, "source": str(source), "device": "cpu"},
        "generate": {
            "prompts": {"world": name, "count": GROUPS}, "samples_per_prompt": OWN, "steps": 1, "long_prompts": "truncate",
            "perturbed": {"count": WRONG, "strategies": list(strategies)},
        },
        "score": {"rewards": {name: {}, guard: {}}},
        "pair": {
            "rule": "own_vs_rest", "by": f"{name}.overall",
            "thresholds": {f"{name}.score": {"minimum_gap": 0.01}, f"{guard}.score": {"minimum_winner": -1e3}},
        },
        "encode": {"long_prompts": "truncate"},
        "train": {"objective": {"name": "diffusion_dpo", "beta": 100.0}, "steps": 1, "batch_size": 2, "tracker": None},
    }  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    result = CliRunner().invoke(app, ["run", str(path)])
    assert result.exit_code == 0, (result.output, result.exception)

    made = {each.candidate_id: each for each in read_candidates(run / "candidates")}
    pairs, judge = list(read_preferences(run / "preferences")), load_reward(name)
    for pair in pairs:
        winner, loser = (made[sample] for sample in pair.samples)
        assert STRATEGY not in winner.tags and pair.context == loser.tags[STRATEGY] and pair.context in (strategies or world.STRATEGIES)
        assert judge([pair.prompt, pair.prompt], [winner.media, loser.media])["overall"] == [1.0, 0.0]
        assert judge([loser.tags[ASKED]], [loser.media])["overall"] == [1.0]
    kinds = Counter(each.tags.get(STRATEGY) for each in made.values())
    assert kinds[None] == GROUPS * OWN and kinds.pop(NOTHING) == GROUPS
    groups = {pair.group_id for pair in pairs}
    assert Counter(pair.context for pair in pairs) == {
        kind: sum(each.group_id in groups for each in made.values() if each.tags.get(STRATEGY) == kind) for kind in kinds if kind
    }
    assert set(strategies) <= set(kinds) and len(groups) > GROUPS // 2
    # The other own samples and the edits of nothing, all true: gap 0.
    summary = json.loads((run / "preferences/stage.json").read_text())["summary"]
    assert summary["pairs_dropped"] == {"ties": GROUPS * OWN}
    assert summary["strategies"] == {"": GROUPS * OWN, NOTHING: GROUPS, **{kind: count for kind, count in kinds.items() if kind}}
    [step] = [json.loads(line) for line in (run / "train/metrics.jsonl").read_text().splitlines()]
    assert step["loss"] == pytest.approx(math.log(2), abs=1e-6)
    named = f"pair.strategies=['', {pairs[0].context}, nought]"
    told = CliRunner().invoke(app, ["pair", str(path), named, "--redo"])
    assert "pair.strategies has 'nought', and no candidate is of it; there are '', " in " ".join(told.output.split()), told.output
