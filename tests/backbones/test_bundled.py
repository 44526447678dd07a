"""The bundled miniature models, as a user without diffalign loads them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

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


def test_every_transformers_knows_the_names_of_the_text_encoder_s_weights() -> None:
    """transformers 4 loads others as random ones and only warns; 5 reads both."""
    names = load_file(ASSETS / "shapes/text_encoder/model.safetensors")
    assert names and all(name.startswith("text_model.") for name in names)


@pytest.mark.integration
def test_renders_stay_true_through_the_autoencoder() -> None:
    """What the verifier asks for, the bundled model's decoder can draw: else alignment would chase what no latent holds."""
    import torch
    from diffusers import AutoencoderKL

    world = load_world("shapes")
    captions = [prompt.text for prompt in world.prompts("heldout", 400, 7)]
    renders = torch.from_numpy(np.stack([world.render(caption, seed) for seed, caption in enumerate(captions)]))
    autoencoder = AutoencoderKL.from_pretrained(ASSETS / "shapes", subfolder="vae").eval()
    held = []
    for batch, texts in zip(renders.split(50), np.split(np.array(captions), 8), strict=True):
        with torch.inference_mode():
            latents = autoencoder.encode(batch.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mode()
            decoded = autoencoder.decode(latents).sample.permute(0, 2, 3, 1)
        pixels = ((decoded + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
        held += [world.verify(str(text), picture)["overall"] for text, picture in zip(texts, pixels, strict=True)]
    assert np.mean(held) >= 0.99
