"""The two tasks of pretraining: their losses by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from diffalign.backbones import load_backbone
from diffalign.training.autoencoder import AutoencoderTask
from diffalign.training.denoiser import DenoiserTask
from diffalign.training.loop import Visit
from diffalign.training.randomness import generator


def test_the_autoencoder_s_loss_by_hand(tiny_pipeline: Path) -> None:
    vae = AutoencoderKL.from_pretrained(tiny_pipeline, subfolder="vae")
    pictures = np.random.default_rng(0).uniform(-1, 1, (3, 3, 16, 16)).astype(np.float32)
    task = AutoencoderTask(vae, lambda visits: torch.from_numpy(pictures[[visit.group for visit in visits]]), 3, kl_weight=0.1, seed=5)
    visits = [Visit(2, 0), Visit(0, 1)]
    measured = task.measure(visits)
    for index, visit in enumerate(visits):
        pixels = torch.from_numpy(pictures[visit.group])[None]
        posterior = vae.encode(pixels).latent_dist
        noise = torch.randn(4, 8, 8, generator=generator(5, "posterior", visit.group, visit.draw))
        difference = vae.decode(posterior.mean + posterior.std * noise).sample - pixels
        expected = difference.abs().mean() + difference.square().mean() + 0.1 * posterior.kl().mean() / (4 * 8 * 8)
        assert torch.allclose(measured.value[index], expected, rtol=1e-4)


def test_the_denoiser_s_loss_by_hand(tiny_pipeline: Path) -> None:
    """Its weight is min(SNR, γ)/SNR; a dropped caption is the empty one's tokens."""
    latents, draw = torch.randn(3, 4, 8, 8, generator=generator("latents")), generator("tokens")
    tokens, empty = torch.randint(0, 20, (3, 8), generator=draw), torch.zeros(8, dtype=torch.int64)
    for dropout, gamma in ((0.0, None), (1.0, 5.0)):
        backbone = load_backbone("stable_diffusion", str(tiny_pipeline))
        encoder = backbone.pipeline.text_encoder  # type: ignore[attr-defined]
        task = DenoiserTask(
            backbone, encoder, latents, tokens, empty, embed=lambda encoder, ids: {"prompt_embeds": encoder(ids)[0]},
            prompt_dropout=dropout, min_snr=gamma,             seed=5, write_weights=lambda folder: None,
        )  # fmt: skip
        visits = [Visit(2, 0), Visit(0, 1)]
        with torch.no_grad():
            measured = task.measure(visits)
            for index, visit in enumerate(visits):
                own = generator(5, "group", visit.group, visit.draw)
                timestep = torch.tensor([int(torch.rand(2, generator=own)[0] * 1000)])
                noise = torch.randn(1, 4, 8, 8, generator=own)
                kept = backbone.pipeline.scheduler.alphas_cumprod[timestep]  # type: ignore[attr-defined]
                noised = kept.sqrt() * latents[visit.group] + (1 - kept).sqrt() * noise
                ids = (empty if dropout else tokens[visit.group])[None]
                expected = (backbone.denoiser(noised, timestep, encoder(ids)[0]).sample - noise).square().mean()
                assert torch.allclose(measured.value[index], expected, rtol=1e-4)
                snr = float(kept / (1 - kept))
                assert abs(float(measured.weight[index]) - (1 if gamma is None else min(snr, 5) / snr)) < 1e-4
