"""Tiny miniatures of the families whose media last: random weights, saved as diffusers folders."""

from __future__ import annotations

from pathlib import Path

TEXTS = ("a red circle moves right, then up", "a blue square stays", "a low beep, then noise", "a high buzz")


def save_tiny_wan(folder: Path, seed: int = 0) -> Path:
    """A Wan of 9 frames of 16×16 at 8 a second, latents 4×3×4×4, 12 tokens."""
    import torch

    from diffalign.backbones.miniature import wan

    small = wan.Architecture(
        size=(9, 16, 16), latent_channels=4, autoencoder_channels=4, autoencoder_levels=(1, 2, 2), denoiser_heads=2, denoiser_head_width=12,
        denoiser_layers=2, text_width=16, text_layers=1, text_heads=2, token_limit=12,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline = wan.build_pipeline(small, list(TEXTS), wan.build_autoencoder(small), folder / "words")
    wan.wrap(small, pipeline, "").save(folder / "pipeline")
    return folder / "pipeline"


def save_tiny_tango(folder: Path, seed: int = 0) -> Path:
    """A Tango of 8192 samples at 16 kHz, 16 mel bins, 12 tokens."""
    import torch

    from diffalign.backbones.miniature import tango

    small = tango.Architecture(
        samples=8192, bins=16, latent_channels=4, autoencoder_channels=(8, 8), denoiser_channels=(16, 16), denoiser_heads=2, text_width=16,
        text_layers=1, text_heads=2, token_limit=12,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline = tango.build_pipeline(small, list(TEXTS), tango.build_autoencoder(small), folder / "words")
    tango.wrap(small, pipeline, "").save(folder / "pipeline")
    return folder / "pipeline"
