"""The bundled miniature models, as a user without diffalign loads them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import diffalign
from reward_models.worlds import load_world

ASSETS = Path(diffalign.__file__).parent / "assets"
SCRIPT = """
import sys, numpy, torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
prompts = sys.argv[3:]
seeds = [torch.Generator().manual_seed(index) for index in range(len(prompts))]
pictures = pipe(prompts, num_inference_steps=20, guidance_scale=3.0, generator=seeds, output_type="np").images
numpy.save(sys.argv[2], (pictures * 255).round().astype("uint8"))
assert "diffalign" not in sys.modules
"""


@pytest.mark.integration
def test_plain_diffusers_makes_recognisable_pictures(tmp_path: Path) -> None:
    """Of 96 held-out captions about half hold entirely, and most of what they ask for is there; another caption's pictures fail."""
    world = load_world("shapes")
    captions = [prompt.text for prompt in world.prompts("heldout", 96, 0)]
    file = tmp_path / "pictures.npy"
    command = [sys.executable, "-I", "-c", SCRIPT, str(ASSETS / "shapes"), str(file), *captions]
    made = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    pictures = np.load(file)
    held = [world.verify(caption, picture) for caption, picture in zip(captions, pictures, strict=True)]
    other = [world.verify(caption, picture) for caption, picture in zip(captions, np.roll(pictures, 1, axis=0), strict=True)]
    assert 0.35 < np.mean([parts["overall"] for parts in held]) < 0.85
    assert np.mean([parts["score"] for parts in held]) > 0.7
    assert np.mean([parts["overall"] for parts in other]) < 0.1
