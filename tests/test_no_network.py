"""What `no_network` notices, and that nothing is tried where the user is offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from no_network import no_network

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("library", ["huggingface_hub", "transformers", "diffusers"])
def test_a_call_to_the_hub_is_noticed_where_its_caller_goes_on(library: str) -> None:
    import diffusers
    import huggingface_hub
    import transformers

    calls = {
        "huggingface_hub": lambda: huggingface_hub.hf_hub_download("owner/nowhere", "config.json"),
        "transformers": lambda: transformers.AutoConfig.from_pretrained("owner/nowhere"),
        "diffusers": lambda: diffusers.DiffusionPipeline.from_pretrained("owner/nowhere"),
    }
    with pytest.raises(AssertionError, match=r"the network was tried: .*huggingface\.co"), no_network(), suppress(Exception):
        calls[library]()
    assert huggingface_hub.constants.HF_HUB_OFFLINE


# Of the calls, in this process: what each says, and whom any of them tried to reach.
OFFLINE = """
import json, socket, sys
tried = []

def refuse(*arguments, **options):
    tried.append(str(arguments))
    raise OSError("refused")

socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
from typer.testing import CliRunner
from pipelines.cli import app

told = []
for words in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, words)
    told.append((result.exit_code, " ".join(result.output.split())))
print(json.dumps({"told": told, "tried": tried}))
"""


@pytest.mark.integration
def test_offline_no_hub_is_tried_and_what_is_missing_is_named(tmp_path: Path) -> None:
    """In a process of its own, as a user's: libraries read HF_HUB_OFFLINE at their import."""
    few = ("model.device=cpu", "generate.prompts.count=1", "generate.samples_per_prompt=1", "generate.steps=1")
    road = ("quickstart", *few, "pair=null", "encode=null", "train=null", "evaluate=null", "gallery=null")
    calls = {
        "'owner/nowhere' could not be loaded": ["generate", *road, f"run={tmp_path}/model", "model.source=owner/nowhere"],
        "reach 'owner/set' on the Hub (OfflineModeIsEnabled)": [
            "pair", "sd15_diffusion_dpo", f"run={tmp_path}/set", "pair.source.path=owner/set"
        ],
        "reach 'owner/prompts' on the Hub (OfflineModeIsEnabled)": [
            "generate", *road, f"run={tmp_path}/prompts", "generate.prompts={hub: owner/prompts}"
        ],
        "": ["generate", *road, f"run={tmp_path}/reward"],
        "pick_score got checkpoint = 'owner/reward', which does not load": [
            "score", *road, f"run={tmp_path}/reward", "score.rewards={pick_score: {checkpoint: owner/reward}}"
        ],
    }  # fmt: skip
    found = subprocess.run(
        [sys.executable, "-c", OFFLINE, json.dumps([*calls.values()])],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    answer = json.loads(found.stdout.splitlines()[-1])
    assert answer["tried"] == []
    for message, (status, told) in zip(calls, answer["told"], strict=True):
        assert (message in told, status) == (True, 1 if message else 0), told
