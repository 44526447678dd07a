"""Stable Audio against diffusers itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from brownian import stand_in
from family_checks import PROMPTS, STEPS, normal
from peft_checks import PeftChecks
from sound_checks import SAMPLES, SoundFamilyChecks
from tiny_media import RATE
from tiny_pipelines import T5_TOKENS, save_stable_audio
from torch import Tensor

from diffalign.backbones import load_backbone
from diffalign.backbones.process import Angle
from diffalign.data.latents import LatentCache
from diffalign.data.modalities.audio import Audio
from diffalign.data.records import Candidate, read_candidates
from diffalign.gallery import Sample
from diffalign.gallery.stores import MediaFolder
from pipelines import encode, pair
from pipelines.config import Config
from pipelines.progress import Progress

# diffusers makes its autoencoder so
pytestmark = pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm. is deprecated:FutureWarning")


@pytest.fixture(scope="module", autouse=True)
def brownian() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        yield


class TestStableAudio(PeftChecks, SoundFamilyChecks):
    family, config = "stable_audio", "stable_audio_diffusion_dpo"
    latents: ClassVar[tuple[int, ...]] = (4, 48)

    @staticmethod
    def save(folder: Path) -> Path:
        return save_stable_audio(folder)

    @staticmethod
    def embeds_of(pipeline: Any, prompts: list[str]) -> dict[str, Tensor]:
        return {"prompt_embeds": pipeline.encode_prompt(prompts, "cpu", False).detach()}

    @staticmethod
    def told(timestep: Tensor) -> Tensor:
        return 1000 * timestep

    def shrink_tiles(self, vae: Any) -> None:
        """They are of 30 seconds, and of 512 latents; the tiny window has 48."""
        vae.tile_sample_min_length, vae.tile_sample_overlap = 384, 64
        vae.tile_latent_min_length, vae.tile_latent_overlap = 24, 4

    # What is another question for sounds

    def test_latents_are_scaled_as_the_pipeline_unscales_them(self, loaded: Any, folder: Path) -> None:
        pipeline = self.plain(folder)
        latents, sound = (self.made(pipeline, [1, 2], output_type=kind) for kind in ("latent", "pt"))
        assert latents.shape == (2, *self.latents) and torch.allclose(loaded.decode(latents), sound.clamp(-1, 1), atol=1e-6)
        media = 0.3 * normal(2, 2, SAMPLES)
        with torch.no_grad():
            posterior = pipeline.vae.encode(media).latent_dist
        assert torch.allclose(loaded.encode(media, seeds=None), posterior.mean, atol=1e-6)
        drawn = torch.stack([normal(*self.latents, seed=seed) for seed in (7, 8)])
        assert torch.allclose(loaded.encode(media, seeds=[7, 8]), posterior.mean + posterior.std * drawn, atol=1e-6)
        mono = media[:, :1]
        assert torch.equal(loaded.encode(mono, seeds=None), loaded.encode(torch.cat([mono, mono], 1), seeds=None))

    def test_noise_and_target_are_the_scheduler_s(self, loaded: Any) -> None:
        """In EDM's terms: x_0 + σ·ε scaled as its input is the x_t of the timestep, and x_0 is what it makes of the target there."""
        x0, epsilon, scheduler = normal(3, *self.latents), normal(3, *self.latents, seed=1), loaded.pipeline.scheduler
        scheduler.set_timesteps(9)
        for place in (0, 4, 8):
            sigma, timestep = scheduler.sigmas[place], self.told(scheduler.timesteps[place]).expand(3)
            sample = x0 + sigma * epsilon
            assert torch.allclose(loaded.process.noise(x0, epsilon, timestep), scheduler.precondition_inputs(sample, sigma), atol=1e-5)
            target = loaded.process.target(x0, epsilon, timestep)
            assert torch.allclose(scheduler.precondition_outputs(sample, target, sigma), x0, atol=1e-3)
            assert torch.allclose(loaded.process.epsilon(target, loaded.process.noise(x0, epsilon, timestep), timestep), epsilon, atol=1e-5)

    def test_sample_is_plain_diffusers_and_depends_on_prompt_and_seed_alone(self, loaded: Any, folder: Path) -> None:
        ours = self.our_pixels(loaded, [1, 2])
        assert np.array_equal(ours, self.plain_pixels(self.plain(folder), [1, 2]))
        assert ours.shape == (2, 2, SAMPLES) and ours.std() > 100 and not np.array_equal(ours[:, 0], ours[:, 1])
        assert np.abs(ours[1] - self.our_pixels(loaded, [2], PROMPTS[1:])[0]).max() <= 1
        assert np.abs(ours[1] - self.our_pixels(loaded, [3], PROMPTS[1:])[0]).max() > 100
        with pytest.raises(ValueError, match="2 prompts and 1 seeds; give one seed per prompt"):
            self.our_pixels(loaded, [1])
        with pytest.raises(ValueError, match=r"scheduler 'ddim' takes no continuous time"):
            loaded.sample(PROMPTS, [1, 2], steps=2, guidance=3.0, scheduler="ddim")

    # What is its own

    def test_both_channels_of_files_reach_the_latents(self, loaded: Any, folder: Path, tmp_path: Path) -> None:
        """Stereo whose channels differ, and a mono file, which is in both channels."""
        draw, sounds = np.random.default_rng(5), {}
        for side in ("chosen", "rejected"):
            (tmp_path / side).mkdir()
            for number, channels in enumerate((2, 1)):
                sounds[side, number] = Audio.from_waveform(draw.uniform(-0.5, 0.5, (channels, SAMPLES)), RATE)
                (tmp_path / side / f"{number}.flac").write_bytes(sounds[side, number].encoded())
                (tmp_path / side / f"{number}.txt").write_text(PROMPTS[number])
        config = Config.model_validate({
            "run": tmp_path / "run", "model": {"backbone": self.family, "source": str(folder), "device": "cpu"},
            "pair": {"source": {"importer": "two_folders", "path": str(tmp_path)}}, "encode": {"posterior": "mean"},
        })  # fmt: skip
        for stage in (pair, encode):
            stage.run(config, progress=Progress(silent=True))
        cache, files = LatentCache(config.run / "latents"), {sound.identity(): sound.waveform() for sound in sounds.values()}
        vae, counts = self.plain(folder).vae, set()
        for candidate in read_candidates(config.run / "candidates"):
            wave = files[candidate.media.identity()]
            both = torch.from_numpy(np.concatenate([wave, wave]) if len(wave) == 1 else wave)[None]
            with torch.no_grad():
                wanted = vae.encode(both).latent_dist.mean
                swapped = vae.encode(both.flip(1)).latent_dist.mean
            found = cache.latents([candidate.candidate_id])
            assert torch.allclose(found, wanted, atol=1e-5) and torch.allclose(found, swapped, atol=1e-4) == (len(wave) == 1)
            counts.add(len(wave))
        assert counts == {1, 2} and loaded.channels == 2

    def test_samples_keep_both_channels_in_files_and_gallery(self, loaded: Any, tmp_path: Path) -> None:
        wave = np.random.default_rng(3).uniform(-0.5, 0.5, (2, SAMPLES)).astype(np.float32)
        [sound] = loaded.media(torch.from_numpy(wave)[None])
        again = Audio.from_row(Candidate("c", "g", "p", sound).to_row()["media"])
        assert np.abs(again.waveform() - wave).max() <= 1 / 32768 and again.identity() == sound.identity()
        record = MediaFolder(tmp_path, 256, 0, None).store(Sample(again, {}, "c", "audio"), "c")
        np.testing.assert_array_equal(Audio.from_path(tmp_path / record["src"]).waveform(), sound.waveform())
        assert record["channels"] == 2

    def test_sounds_of_other_channels_are_refused(self, loaded: Any) -> None:
        with pytest.raises(ValueError, match="takes sounds of 2 channels, or mono; got 3"):
            loaded.encode(torch.zeros(1, 3, SAMPLES), seeds=None)

    def test_no_prompt_is_what_the_pipeline_guides_away_from(self, loaded: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Zeros in the place of text and seconds, with the seconds in the global states still."""
        pipeline, calls = self.plain(folder), []
        forward = pipeline.transformer.forward

        def spy(sample: Tensor, timestep: Tensor, **named: Any) -> Any:
            calls.append((sample, timestep, forward(sample, timestep, **named)[0]))
            return calls[-1][2:]

        monkeypatch.setattr(pipeline.transformer, "forward", spy)
        self.made(pipeline, [1, 2])
        embeds = {name: torch.cat([loaded.embed(["", ""])[name], value]) for name, value in loaded.embed(PROMPTS).items()}
        for sample, timestep, output in calls:
            with torch.no_grad():
                found = loaded.predict(loaded.denoiser, sample, self.told(timestep).expand(4), embeds)
            assert torch.allclose(found, output, atol=1e-5)
        assert len(calls) == STEPS and not torch.allclose(calls[0][2][:2], calls[0][2][2:], atol=1e-4)

    def test_a_shorter_sound_has_its_own_length_and_seconds(self, loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        told: list[tuple[float, float]] = []
        encode_duration = loaded.pipeline.encode_duration

        def spy(start: float, end: float, *others: Any) -> Any:
            told.append((start, end))
            return encode_duration(start, end, *others)

        monkeypatch.setattr(loaded.pipeline, "encode_duration", spy)
        [sound] = loaded.sample(PROMPTS[:1], [1], steps=2, guidance=1.0, size=(320,))
        assert sound.columns == {"samples": 320, "sample_rate_hz": 8000, "channels": 2}
        with torch.no_grad():
            loaded.predict(loaded.denoiser, normal(1, 4, 20), torch.tensor([500.0]), loaded.embed(PROMPTS[:1]))
        assert told == [(0.0, 0.04), (0.0, 0.04)]
        assert loaded.size == (SAMPLES,) and loaded.rate == 8000
        assert [loaded.whole((samples,)) for samples in (768, 335, 15, 9000)] == [(768,), (320,), (0,), (768,)]
        assert loaded.time_edges(4) == [0, 0.25, 0.5, 0.75, 1]

    def test_another_scheduler_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"prediction_type and sigma_data \('epsilon', 1.0\); this family has Cosine"):
            load_backbone("stable_audio", str(save_stable_audio(tmp_path, prediction_type="epsilon")))

    def test_without_torchsde_it_says_what_to_install(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from diffusers.utils import import_utils

        monkeypatch.setattr(import_utils, "_torchsde_available", False)
        with pytest.raises(ValueError, match=r"with torchsde: pip install 'diffalign\[stable_audio\]'"):
            load_backbone("stable_audio", str(folder))


def test_prompts_end_at_the_encoder_s_limit(tmp_path: Path) -> None:
    assert load_backbone("stable_audio", str(save_stable_audio(tmp_path))).token_limit == T5_TOKENS and RATE == 8000


def test_the_process_is_a_quarter_of_a_circle() -> None:
    """By hand: at a third of the time 30°, so α² = 3/4; timesteps are uniform and never 0."""
    process = Angle()
    timestep = process.timestep(torch.tensor([1 / 3, 0.5, 0.0], dtype=torch.float64))
    assert torch.allclose(timestep, torch.tensor([333.3333, 500.0, 1.0]))
    alpha, sigma = process.levels(timestep[:2])
    assert torch.allclose(alpha.square(), torch.tensor([0.75, 0.5], dtype=torch.float64), atol=1e-6) and torch.allclose(
        sigma, torch.tensor([0.5, math.sqrt(0.5)], dtype=torch.float64), atol=1e-6
    )
    assert torch.allclose(process.signal_to_noise(timestep[:2]), torch.tensor([3.0, 1.0], dtype=torch.float64), atol=1e-5)
    assert process.levels(torch.tensor([process.clean_timestep])) == (torch.ones(1), torch.zeros(1))
    x0, epsilon = torch.full((1, 2), 2.0), torch.full((1, 2), 4.0)
    assert torch.allclose(process.noise(x0, epsilon, timestep[:1]), torch.full((1, 2), math.sqrt(3) + 2))
    assert torch.allclose(process.target(x0, epsilon, timestep[:1]), torch.full((1, 2), 2 * math.sqrt(3) - 1))
    every = torch.tensor([500.0, 1000.0])
    pair = (x0.expand(2, 2), epsilon.expand(2, 2), every)
    assert torch.allclose(process.clean(process.target(*pair), process.noise(*pair), every), x0, atol=1e-5)
