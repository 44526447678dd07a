"""Tango: its mel scale against librosa's numbers, the pipeline's own calls, the autoencoder, samples, and what training leaves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from run_checks import PLAIN, RunChecks
from tiny_media import flac
from transformers import AutoTokenizer, T5EncoderModel

from diffalign.backbones import load_backbone
from diffalign.backbones.mel import Mel
from diffalign.backbones.miniature import tango as miniature
from diffalign.backbones.tango import Tango, TangoPipeline
from diffalign.training.lora import Lora, add_lora

PROMPTS = ["a low beep, then noise", "a high buzz"]
OPTIONS: dict[str, Any] = {"steps": 3, "guidance": 3.0}
SMALL = miniature.Architecture(
    samples=8192, bins=16, latent_channels=4, autoencoder_channels=(8, 8), denoiser_channels=(16, 16), denoiser_heads=2, text_width=16,
    text_layers=1, text_heads=2, token_limit=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tango")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = miniature.build_pipeline(SMALL, PROMPTS, miniature.build_autoencoder(SMALL), place)
    pipeline.vae.register_to_config(scaling_factor=0.7)
    miniature.wrap(SMALL, pipeline, "").save(place / "pipeline")
    return place / "pipeline"


@pytest.fixture
def loaded(folder: Path) -> Tango:
    found = load_backbone("tango", str(folder))
    assert isinstance(found, Tango)
    return found


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocoder that is linear: Griffin–Lim blows rounding up wherever a spectrogram of random weights fits no sound."""

    def vocode(self: TangoPipeline, log_mel: torch.Tensor) -> torch.Tensor:
        return 0.05 * log_mel.mean(-1).repeat_interleave(self.mel.hop, -1)

    monkeypatch.setattr(TangoPipeline, "vocode", vocode)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def waves(backbone: Tango, prompts: list[str], seeds: list[int], **options: Any) -> np.ndarray:
    """float32 (N, samples)."""
    return np.stack([audio.waveform()[0] for audio in backbone.sample(prompts, seeds, **(OPTIONS | options))])


# Mel


def test_a_tone_is_in_the_bin_of_its_pitch() -> None:
    """Slaney's scale: 1000 Hz is 15 mel, 200/3 Hz a mel below it and 27 mel for each factor of 6.4 above; 64 bins to 8000 Hz."""
    mel, time = Mel(hop=256), torch.arange(16_000 // 256 * 256) / 16_000
    top = 15 + 27 * np.log(8) / np.log(6.4)
    centres = top * np.arange(1, 65) / 65
    for hertz, place in ((300.0, 4.5), (1000.0, 15.0), (4000.0, 15 + 27 * np.log(4) / np.log(6.4))):
        found = mel.of((0.5 * torch.sin(2 * np.pi * hertz * time))[None, None])
        assert found.shape == (1, 1, 62, 64)
        loudest = int(found[0, 0, 20:40].mean(0).argmax())
        assert abs(centres[loudest] - place) <= top / 65
    assert float(mel.of(torch.zeros(1, 1, 4096)).max()) == pytest.approx(np.log(1e-5))


def released(waveform: np.ndarray) -> np.ndarray:
    """What the makers of AudioLDM and Tango do with a file before its spectrogram."""
    waveform = waveform - np.mean(waveform)
    return 0.5 * waveform / (np.max(np.abs(waveform)) + 1e-8)


def test_loudness_is_what_the_released_models_were_trained_at() -> None:
    """Each sound by itself, whatever its level and offset; silence stays silent."""
    mel, plain = Mel(peak=0.5), Mel()
    sounds = torch.stack([0.02 + 0.05 * normal(1, 3200), 3 * normal(1, 3200, seed=1), torch.zeros(1, 3200)])
    by_hand = torch.stack([torch.from_numpy(released(sound.numpy())) for sound in sounds])
    assert torch.allclose(mel.of(sounds), plain.of(by_hand), atol=1e-5) and not torch.allclose(mel.of(sounds), plain.of(sounds), atol=0.1)
    assert torch.allclose(mel.of(0.1 * sounds[:2] + 0.3), mel.of(sounds[:2]), atol=1e-3)
    assert float(mel.of(sounds[2:]).max()) == pytest.approx(np.log(1e-5))


def test_griffin_lim_gives_back_the_same_spectrogram_and_the_same_bits() -> None:
    mel, time = Mel(hop=256), torch.arange(49_152) / 16_000
    tone = (0.4 * torch.sin(2 * np.pi * 440 * time) * (time < 1.5))[None, None]
    first, again = mel.waveform(mel.of(tone)), mel.waveform(mel.of(tone))
    assert first.shape == tone.shape and torch.equal(first, again)
    before, after = mel.of(tone), mel.of(first)
    loud = before > before.max() - 4
    assert float((before - after)[loud].abs().mean()) < 0.3


# The family


@pytest.mark.parity("tango")
def test_predict_is_what_the_pipeline_s_steps_take(loaded: Tango, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    forward = loaded.denoiser.forward

    def spy(sample: torch.Tensor, timestep: Any, **named: Any) -> Any:
        output = forward(sample, timestep, **named)
        calls.append((sample.clone(), timestep, output[0].clone()))
        return output

    with monkeypatch.context() as patch:
        patch.setattr(loaded.denoiser, "forward", spy)
        waves(loaded, PROMPTS, [1, 2])
    assert len(calls) == 3
    embeds = {name: torch.cat([loaded.embed(["", ""])[name], value]) for name, value in loaded.embed(PROMPTS).items()}
    for sample, timestep, output in calls:
        with torch.no_grad():
            again = loaded.predict(loaded.denoiser, sample, timestep.expand(4), embeds)
        assert torch.allclose(again, output, atol=1e-6)


def test_what_stands_after_a_prompt_s_end_does_not_matter(loaded: Tango) -> None:
    embeds = loaded.embed(PROMPTS)
    length = int(embeds["prompt_mask"][1].sum())
    assert length == loaded.token_count(PROMPTS[1]) == 4 and not embeds["prompt_embeds"][1, length:].any()
    changed = {name: value.clone() for name, value in embeds.items()}
    changed["prompt_embeds"][1, length:] = 5.0
    x, timestep = normal(2, 4, 16, 8), torch.tensor([10, 500])
    with torch.no_grad():
        assert torch.allclose(*(loaded.predict(loaded.denoiser, x, timestep, each) for each in (embeds, changed)), atol=1e-5)


def test_latents_are_scaled_mel_spectrograms(loaded: Tango, folder: Path) -> None:
    vae, media = AutoencoderKL.from_pretrained(folder, subfolder="vae"), 0.1 * normal(2, 1, 8192)
    latents = loaded.encode(media, seeds=None)
    assert latents.shape == (2, 4, 16, 8)
    mel = Mel(hop=256, bins=16).of(media)
    with torch.no_grad():
        assert torch.allclose(latents, vae.encode(mel).latent_dist.mean * 0.7, atol=1e-5)
        assert torch.equal(loaded.decode(latents), loaded.pipeline.mel.waveform(vae.decode(latents / 0.7).sample))
    alone = loaded.encode(media[1:], seeds=[8])
    assert torch.allclose(loaded.encode(media, seeds=[7, 8])[1:], alone, atol=1e-5) and not torch.allclose(alone, latents[1:])
    [first, _] = loaded.media(loaded.decode(latents))
    assert first.columns == {"samples": 8192, "sample_rate_hz": 16_000, "channels": 1}


def test_sizes_are_whole_columns_of_latents(loaded: Tango) -> None:
    assert loaded.size == (8192,) and loaded.rate == 16_000
    assert [loaded.whole((samples,)) for samples in (8192, 9000, 1023)] == [(8192,), (8192,), (0,)]
    assert loaded.time_edges(4) == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # diffusers hands tensors to numpy
@pytest.mark.usefixtures("plainly")
def test_a_sample_depends_on_its_prompt_and_seed_alone(loaded: Tango) -> None:
    together = waves(loaded, PROMPTS, [1, 2])
    assert together.shape == (2, 8192) and together.dtype == np.float32
    assert np.abs(together[1] - waves(loaded, PROMPTS[1:], [2])[0]).max() < 2e-4
    assert not np.array_equal(together[1], waves(loaded, PROMPTS[1:], [3])[0])
    assert waves(loaded, PROMPTS[:1], [1], size=(4096,)).shape == (1, 4096)
    assert not np.array_equal(together[0], waves(loaded, PROMPTS[:1], [1], scheduler="dpmsolver++")[0])
    with pytest.raises(ValueError, match="unknown scheduler 'dpm'"):
        loaded.sample(PROMPTS, [1, 2], scheduler="dpm", **OPTIONS)
    with pytest.raises(ValueError, match="2 prompts and 1 seeds; give one seed per prompt"):
        loaded.sample(PROMPTS, [1], **OPTIONS)


@torch.no_grad()
def written_out(folder: Path, seeds: list[int], negative: str) -> np.ndarray:
    """float32 (N, samples) of the saved parts alone, a prompt at a time: guidance 3, three steps of DDIM, prompts without padding."""
    unet, vae = (kind.from_pretrained(folder, subfolder=part) for kind, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")))
    encoder = T5EncoderModel.from_pretrained(folder, subfolder="text_encoder").float()
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    scheduler, made = DDIMScheduler.from_pretrained(folder, subfolder="scheduler"), []
    for prompt, seed in zip(PROMPTS, seeds, strict=True):
        states = [encoder(tokenizer(text, return_tensors="pt").input_ids)[0] for text in (prompt, negative)]
        x = normal(1, 4, 8192 // 256 // 2, 16 // 2, seed=seed)
        scheduler.set_timesteps(3)
        for timestep in scheduler.timesteps:
            with_prompt, without = (unet(x, timestep, encoder_hidden_states=each).sample for each in states)
            x = scheduler.step(without + 3.0 * (with_prompt - without), timestep, x).prev_sample
        mel = vae.decode(x / 0.7).sample
        made.append(0.05 * mel.mean(-1).repeat_interleave(256, -1).flatten())  # as `plainly` vocodes
    return torch.stack(made).numpy()


@pytest.mark.usefixtures("plainly")
@pytest.mark.parametrize("negative", ["", "a high buzz, then noise"])
def test_sample_is_the_loop_written_out(loaded: Tango, folder: Path, negative: str) -> None:
    """Guidance, mask, scheduler, scale and decoder, against parts of diffusers and transformers alone."""
    ours, plain = waves(loaded, PROMPTS, [1, 2], negative_prompt=negative), written_out(folder, [1, 2], negative)
    assert np.abs(ours - plain.clip(-1, 1)).max() < 5e-5 and ours.std() > 5e-3  # samples are 16 bits, 3e-5 a step
    if negative:
        assert np.abs(ours - waves(loaded, PROMPTS, [1, 2])).max() > 2e-4


def test_a_trained_vocoder_takes_the_place_of_griffin_lim(loaded: Tango) -> None:
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    config = SpeechT5HifiGanConfig(
        model_in_dim=16, upsample_initial_channel=16, upsample_rates=[16, 16], upsample_kernel_sizes=[32, 32], resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1]], normalize_before=False,
    )  # fmt: skip
    loaded.pipeline.register_modules(vocoder=SpeechT5HifiGan(config).eval())
    found = loaded.decode(loaded.encode(0.1 * normal(2, 1, 8192), seeds=None))
    assert found.shape == (2, 1, 8192) and float(found.abs().max()) <= 1


def trained(folder: Path, lora: Lora | None) -> Tango:
    backbone = load_backbone("tango", str(folder))
    assert isinstance(backbone, Tango)
    if lora is not None:
        add_lora(backbone.denoiser, lora, 0)
    with torch.no_grad():
        for index, (name, parameter) in enumerate(backbone.denoiser.named_parameters()):
            if lora is None or "lora_" in name:
                parameter.add_(0.1 * normal(*parameter.shape, seed=index))
    return backbone


@pytest.mark.usefixtures("plainly")
@pytest.mark.parametrize("lora", [Lora(rank=2), Lora(rank=4, alpha=8), Lora(rank=2, alpha=4, dora=True)], ids=["plain", "alpha8", "dora"])
def test_a_lora_loads_in_diffusers(lora: Lora, folder: Path, tmp_path: Path) -> None:
    backbone = trained(folder, lora)
    ours = waves(backbone, PROMPTS, [1, 2])
    backbone.save_trained(tmp_path)
    other = TangoPipeline.from_pretrained(folder)
    other.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    plain = waves(Tango(TangoPipeline.from_pretrained(folder), ""), PROMPTS, [1, 2])
    assert np.abs(ours - plain).max() > 1e-3  # the adapter does something
    assert np.abs(ours - waves(Tango(other, ""), PROMPTS, [1, 2])).max() < 2e-4
    fused = load_backbone("tango", str(folder), adapter=tmp_path)
    assert isinstance(fused, Tango) and np.abs(ours - waves(fused, PROMPTS, [1, 2])).max() < 2e-4


@pytest.mark.usefixtures("plainly")
def test_full_weights_load_in_plain_diffusers(folder: Path, tmp_path: Path) -> None:
    backbone = trained(folder, None)
    ours = waves(backbone, PROMPTS, [1, 2])
    backbone.save_trained(tmp_path)
    pipeline = TangoPipeline.from_pretrained(folder, unet=UNet2DConditionModel.from_pretrained(tmp_path / "unet"))
    assert np.array_equal(ours, waves(Tango(pipeline, ""), PROMPTS, [1, 2]))
    loaded = load_backbone("tango", str(folder), denoiser=tmp_path)
    assert isinstance(loaded, Tango) and np.array_equal(ours, waves(loaded, PROMPTS, [1, 2]))
    assert loaded.identity() == backbone.identity() != load_backbone("tango", str(folder)).identity()


def test_sounds_as_long_as_its_own_are_one_tile() -> None:
    """Whatever its autoencoder's sample_size, here the number of bins; twice as long they are three, each with a quarter in the next."""
    whole, tiled = (load_backbone("tango", "bundled:tones", tiled_vae=is_tiled) for is_tiled in (False, True))
    (samples,) = whole.size
    for length, is_one in ((samples, True), (2 * samples, False)):
        media = 0.1 * normal(1, 1, length)
        latents, found = (each.encode(media, seeds=None) for each in (whole, tiled))
        mels, tiles = (each.pipeline.vae.decode(latents).sample for each in (whole, tiled))  # type: ignore[attr-defined]
        assert latents.shape == found.shape and mels.shape == tiles.shape
        assert torch.equal(latents, found) == torch.equal(mels, tiles) == is_one
    vae = tiled.pipeline.vae  # type: ignore[attr-defined]
    assert (vae.config.sample_size, vae.tile_sample_min_size, vae.tile_latent_min_size) == (64, 192, 24)


class TestRuns(RunChecks):
    family, config = "tango", "tango_diffusion_dpo"
    size, latents = (8192,), (4, 16, 8)
    small: ClassVar[tuple[str, ...]] = ("train.sft_steps=0",)

    def data(self, folder: Path) -> tuple[str, ...]:
        """Audio-Alpaca's columns, for the importer that the config names."""
        sounds = [{"bytes": flac(number, 8192), "path": None} for number in range(8)]
        rows = [
            {"prompt": PROMPTS[number % 2], "chosen": sounds[number], "rejected": sounds[number + 4], "strategy": "multistep"}
            for number in range(4)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
        return f"pair.source.path={folder}/train.parquet", "evaluate.prompts.texts=[a low beep]"

    @pytest.mark.integration
    def test_fine_tuning_comes_first(self, folder: Path, tmp_path: Path) -> None:
        """As the config has it: a step of SFT, then one of DPO against the base, from which the first has moved."""
        given = ("train.steps=2", "train.sft_steps=1", "evaluate=null", "gallery=null")
        begun, then = self.trained_by_config(folder, tmp_path, *PLAIN, "train.learning_rate=9.6e-7", *given)
        assert begun["loss"] > 0 and "win_adv" not in begun and then["win_adv"] != 0 and abs(then["loss"] - math.log(2)) < 0.1
