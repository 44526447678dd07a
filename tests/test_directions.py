"""Both directions on the bundled shapes model, judged by the world's exact verifier: aligned goes up, labels swapped goes down."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import PIL.Image
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from reward_models.worlds import load_world

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders: chosen shows its caption, rejected shows another caption of the same task."""
    world, folder = load_world("shapes"), tmp_path_factory.mktemp("renders")
    (folder / "chosen").mkdir()
    (folder / "rejected").mkdir()
    prompts = world.prompts("train", 400, 1)
    for index, prompt in enumerate(prompts):
        other = Random(index).choice([other for other in prompts if other.task == prompt.task and other.text != prompt.text])
        wrong = world.render(other.text, 10_000 + index)
        if world.verify(prompt.text, wrong)["score"] > 0.9:
            continue  # a paraphrase: no worse
        PIL.Image.fromarray(world.render(prompt.text, index)).save(folder / "chosen" / f"{index}.png")
        PIL.Image.fromarray(wrong).save(folder / "rejected" / f"{index}.png")
        (folder / "chosen" / f"{index}.txt").write_text(prompt.text, encoding="utf-8")
    return folder


def change_of(renders: Path, run: Path, **pair: Any) -> dict[str, float]:
    """How shapes.score changed on held-out prompts, after 40 steps of Diffusion-DPO. Without guidance, so that the policy alone decides."""
    config = run.with_suffix(".yaml")
    values = {
        "run": str(run),
        "model": {"source": "bundled:shapes", "device": "cpu"},
        "pair": {"source": {"importer": "two_folders", "path": str(renders)}, **pair},
        "encode": {},
        "train": {"objective": {"name": "diffusion_dpo", "beta": 500}, "tracker": None, "steps": 40,
                  "batch_size": 16, "learning_rate": 2e-5, "warmup_steps": 5},
        "evaluate": {"prompts": {"world": "shapes", "split": "heldout", "count": 96}, "steps": 10, "guidance": 1, "rewards": ["shapes"]},
    }  # fmt: skip
    config.write_text(json.dumps(values), encoding="utf-8")
    result = CliRunner().invoke(app, ["run", str(config)])
    assert result.exit_code == 0, (result.output, result.exception)
    report = json.loads((run / "evaluation/report.json").read_text(encoding="utf-8"))
    return report["models"]["aligned"]["scores"]["shapes.score"]


def test_aligned_goes_up_and_swapped_goes_down(renders: Path, tmp_path: Path) -> None:
    """With these 383 pairs 81 % of the samples improved (change +0.08), with labels swapped 23 % (−0.07)."""
    aligned, swapped = change_of(renders, tmp_path / "aligned"), change_of(renders, tmp_path / "swapped", swap_labels=True)
    assert aligned["base"] == swapped["base"]
    assert aligned["change"] > 0 and aligned["win_low"] > 0.5
    assert swapped["high"] < 0 and swapped["win_high"] < 0.5
