"""The bundled miniature models, as a user without diffalign loads them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

import diffalign
from diffalign.backbones import load_backbone
from reward_models.worlds import load_world

ASSETS = Path(diffalign.__file__).parent / "assets"
SCRIPT = """
import sys, numpy, torch, diffusers
pipe = getattr(diffusers, sys.argv[1]).from_pretrained(sys.argv[2])
pipe.set_progress_bar_config(disable=True)
prompts = sys.argv[4:]
seeds = [torch.Generator().manual_seed(index) for index in range(len(prompts))]
options = {"guidance_scale": 3.0, "negative_prompt": [""] * len(prompts), "generator": seeds, "output_type": "np"}
if sys.argv[1] == "WanPipeline":
    options |= {"height": 32, "width": 32, "num_frames": 17, "num_inference_steps": 10}
    options |= {"max_sequence_length": pipe.tokenizer.model_max_length}
    made = pipe(prompts, **options).frames
else:
    made = pipe(prompts, num_inference_steps=20, **options).images
numpy.save(sys.argv[3], (numpy.stack(list(made)) * 255).round().astype("uint8"))
assert "diffalign" not in sys.modules
"""


def made_by_diffusers(pipeline: str, world: str, count: int, folder: Path) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """What the verifier says of `count` held-out captions' samples, and of the same samples under other captions."""
    verifier = load_world(world)
    captions = [prompt.text for prompt in verifier.prompts("heldout", count, 0)]
    command = [sys.executable, "-I", "-c", SCRIPT, pipeline, str(ASSETS / world), str(folder / "made.npy"), *captions]
    made = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    samples = np.load(folder / "made.npy")
    held = [verifier.verify(caption, sample) for caption, sample in zip(captions, samples, strict=True)]
    return held, [verifier.verify(caption, sample) for caption, sample in zip(captions, np.roll(samples, 1, axis=0), strict=True)]


@pytest.mark.integration
def test_plain_diffusers_makes_recognisable_pictures(tmp_path: Path) -> None:
    """Of 96 held-out captions about half hold entirely, and most of what they ask for is there; another caption's pictures fail."""
    held, other = made_by_diffusers("StableDiffusionPipeline", "shapes", 96, tmp_path)
    assert 0.35 < np.mean([parts["overall"] for parts in held]) < 0.85
    assert np.mean([parts["score"] for parts in held]) > 0.7
    assert np.mean([parts["overall"] for parts in other]) < 0.1


def test_every_transformers_knows_the_names_of_the_text_encoder_s_weights() -> None:
    """transformers 4 loads others as random ones and only warns; 5 reads both."""
    names = load_file(ASSETS / "shapes/text_encoder/model.safetensors")
    assert names and all(name.startswith("text_model.") for name in names)


@pytest.mark.integration
def test_plain_diffusers_makes_recognisable_clips(tmp_path: Path) -> None:
    """Imperfect on purpose: what moves is well drawn, about a quarter of the captions hold entirely; another caption's clips fail."""
    held, other = made_by_diffusers("WanPipeline", "motion", 64, tmp_path)
    assert 0.1 < np.mean([parts["overall"] for parts in held]) < 0.5
    assert np.mean([parts["fidelity"] for parts in held]) > 0.85 and 0.4 < np.mean([parts["direction"] for parts in held]) < 0.7
    assert np.mean([parts["overall"] for parts in other]) < 0.05


def test_every_transformers_knows_the_names_of_the_tokenizers() -> None:
    """transformers 4 has no class of the name that 5 writes."""
    for folder in ASSETS.glob("*/model_index.json"):
        assert "TokenizersBackend" not in folder.read_text() + (folder.parent / "tokenizer/tokenizer_config.json").read_text()


@pytest.mark.integration
def test_clips_stay_true_through_the_autoencoder() -> None:
    """As the pictures below: 60 held-out clips, encoded and decoded."""
    import torch
    from diffusers import AutoencoderKLWan

    world = load_world("motion")
    captions = [prompt.text for prompt in world.prompts("heldout", 60, 7)]
    autoencoder = AutoencoderKLWan.from_pretrained(ASSETS / "motion", subfolder="vae").eval()
    held = []
    for seed, caption in enumerate(captions):
        clip = torch.from_numpy(world.render(caption, seed)).permute(3, 0, 1, 2)[None] / 127.5 - 1
        with torch.inference_mode():
            decoded = autoencoder.decode(autoencoder.encode(clip).latent_dist.mode()).sample[0].permute(1, 2, 3, 0)
        held.append(world.verify(caption, ((decoded + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy())["overall"])
    assert np.mean(held) >= 0.98


@pytest.mark.integration
def test_the_tones_model_makes_recognisable_sounds() -> None:
    """Imperfect on purpose: most captions hold, in order too; of what sounds at once and of pitches many do not; another caption's fail."""
    world, backbone = load_world("tones"), load_backbone("tango", "bundled:tones")
    prompts = world.prompts("heldout", 64, 0)
    captions = [prompt.text for prompt in prompts]
    sounds = [sound.waveform()[0] for sound in backbone.sample(captions, list(range(64)), steps=10, guidance=3.0)]
    held = [world.verify(caption, sound) for caption, sound in zip(captions, sounds, strict=True)]
    other = [world.verify(caption, sound) for caption, sound in zip(captions, np.roll(sounds, 1, axis=0), strict=True)]
    assert 0.5 < np.mean([parts["overall"] for parts in held]) < 0.85 and np.mean([parts["score"] for parts in held]) > 0.85
    for task in ("single", "order2"):
        assert np.mean([parts["overall"] for parts, prompt in zip(held, prompts, strict=True) if prompt.task == task]) >= 0.7, task
    assert np.mean([parts["overall"] for parts in other]) < 0.1


@pytest.mark.integration
def test_sounds_stay_true_through_the_autoencoder() -> None:
    """And through Griffin–Lim: 60 held-out sounds."""
    import torch

    world, backbone = load_world("tones"), load_backbone("tango", "bundled:tones")
    captions = [prompt.text for prompt in world.prompts("heldout", 60, 7)]
    sounds = torch.from_numpy(np.stack([world.render(caption, seed) for seed, caption in enumerate(captions)]))[:, None]
    decoded = backbone.decode(backbone.encode(sounds, seeds=None))[:, 0].numpy()
    assert np.mean([world.verify(caption, sound)["overall"] for caption, sound in zip(captions, decoded, strict=True)]) >= 0.95


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
