"""Every family, and every reward with weights, has a test of its numbers against another's computation, which the oldest versions run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from diffalign.backbones import BACKBONES
from reward_models import REWARD_MODELS, settings_of

ROOT = Path(__file__).parents[1]
# Written out in tests of their own, against numbers made by hand: there is no other library or release of them.
WITHOUT_WEIGHTS = {
    "shapes", "motion", "tones", "implicit", "ensemble", "frame_score", "sharpness", "saturation", "contrast", "brightness", "jpeg_size",
    "movement", "flicker", "loudness", "rms", "clipping", "centroid", "silence",
}  # fmt: skip

OF_A_FAMILY = "test_predict_is_what_the_pipeline_s_steps_take"


@pytest.fixture(scope="module")
def marked() -> dict[str, list[str]]:
    """The names that `parity` marks, and the tests that are marked with each, as pytest collects them by the words of .ci/run."""
    [words] = re.findall(r"^\.ci/versions \S+ (.*)$", (ROOT / ".ci/run").read_text(), re.M)
    folders, chosen = words.split(" -k ")
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n0", "-p", "no:cacheprovider", "-p", "parity_marks"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [*command, "-k", chosen.strip('"'), *folders.split()], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    [line] = re.findall(r"^marked (.*)$", done.stdout, re.M)
    return json.loads(line)


@pytest.mark.integration
def test_every_family_and_every_reward_with_weights_has_a_parity_test(marked: dict[str, list[str]]) -> None:
    expected = set(BACKBONES) | set(REWARD_MODELS) - WITHOUT_WEIGHTS
    assert set(marked) == expected, (
        "write a test against the family's pipeline, or the reward's library or release: @pytest.mark.parity(NAME)"
    )


@pytest.mark.integration
def test_what_is_marked_of_a_family_is_the_comparison_with_its_pipeline_alone(marked: dict[str, list[str]]) -> None:
    """The mark on a test of anything else would stand for a comparison that is not there."""
    others = {name: tests for name, tests in marked.items() if name in BACKBONES and tests != [OF_A_FAMILY]}
    assert not others


@pytest.mark.parametrize("name", sorted(WITHOUT_WEIGHTS - {"implicit"}))  # whose checkpoint is a run of ours
def test_what_has_weights_is_no_exception(name: str) -> None:
    assert "checkpoint" not in settings_of(name)
